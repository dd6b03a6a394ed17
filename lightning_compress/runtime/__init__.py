"""A Core ML program as a torch module."""
