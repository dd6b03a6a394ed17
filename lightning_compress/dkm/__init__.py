"""Differentiable k-means (DKM) on a histogram of the weights."""
