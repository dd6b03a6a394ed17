"""What a differentiable k-means does, apart from weights and palette."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MODES = ("dkm", "topk", "hard", "gsm")
"""Attention as a softmax, as a softmax over the two nearest centroids, to the nearest alone, and as a softmax with
Gumbel noise: coremltools' values of `palett_mode`."""

ESTIMATORS = ("dkm", "straight_through")
"""How gradients reach a weight: through attention, or straight through the assignment to the nearest centroid."""

PATHS = ("auto", "host", "device", "single")
"""How scalars are computed: as suits the device they are on; looking at weights and palette, as on a processor; without
looking at either, as on a device that must not be waited for; and so in single precision alone, as on MPS."""


@dataclass(frozen=True)
class Clustering:
    """What a differentiable k-means does, apart from weights and palette.

    Attributes:
        temperature: Softness of the assignment, in squared units of the weights.
        iterations: Largest number of centroid updates.
        epsilon: Change of a group's inertia at which it stops early, or None to do every iteration.
        attention_floor: Least attention that a weight pays to any centroid.
        fix_zero: Whether the first centroid of each group is held at zero.
        zero_preference: How much nearer, in squared distance, the first centroid seems than it is.
        mode: How attention follows from distances, one of `MODES`.
        estimator: How gradients reach the weight, one of `ESTIMATORS`.
        exact: Whether scalars too are attended to one by one, and not on a grid.
        native: Whether the passes written in C may serve on a processor.
        path: How scalars are computed, one of `PATHS`.
    """

    temperature: float
    iterations: int
    epsilon: float | None = None
    attention_floor: float = 0.0
    fix_zero: bool = False
    zero_preference: float = 0.0
    mode: str = "dkm"
    estimator: str = "dkm"
    exact: bool = False
    native: bool = True
    path: str = "auto"

    @property
    def in_c(self) -> bool:
        """Whether passes written in C may serve: never for what is to be computed as on a device."""
        return self.native and self.path in ("auto", "host")

    def may_wait(self, weight: Tensor) -> bool:
        """Whether the host may wait for what depends on the values of a weight."""
        return weight.device.type == "cpu" if self.path == "auto" else self.path == "host"

    def small(self, weight: Tensor) -> torch.dtype:
        """The type of palettes and of points, which are few beside the weights."""
        single = weight.device.type == "mps" if self.path == "auto" else self.path == "single"
        return torch.float32 if single and weight.dtype != torch.float64 else torch.float64
