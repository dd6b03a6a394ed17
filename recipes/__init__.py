"""Recipes: LightningModule, model and data of complete trainings."""
