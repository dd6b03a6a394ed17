"""Compression during training with Lightning, shipped through Core ML."""
