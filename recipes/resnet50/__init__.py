"""Classification with ResNet50."""
