"""Detection with an SSD on a ResNet18 backbone."""
