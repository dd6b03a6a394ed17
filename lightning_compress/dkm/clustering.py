"""What a differentiable k-means does, apart from weights and palette."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Clustering:
    """What a differentiable k-means does, apart from weights and palette.

    Attributes:
        temperature: Softness of the assignment, in squared units of the weights.
        iterations: Largest number of centroid updates.
        epsilon: Change of the inertia at which to stop early, or None to do every iteration.
        attention_floor: Least attention that a weight pays to any centroid.
        fix_zero: Whether the first centroid of each group is held at zero.
        zero_preference: How much nearer, in squared distance, the first centroid seems than it is.
    """

    temperature: float
    iterations: int
    epsilon: float | None = None
    attention_floor: float = 0.0
    fix_zero: bool = False
    zero_preference: float = 0.0
