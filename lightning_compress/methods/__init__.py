"""Compression techniques, one file each."""
