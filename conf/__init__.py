"""Hydra configurations, importable as `pkg://lightning_compress.conf`."""
