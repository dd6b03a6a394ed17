"""Attention in single precision: neighbouring points together, measured from where they are.

Derivatives are differences of products of centroids, over the temperature. In single precision, and measured from
afar, such differences are rounding.
"""

from __future__ import annotations

from torch import Tensor

from lightning_compress.dkm.attender import Attender
from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.grid import PART, POINTS


class LocalAttender:
    """Does what an `Attender` does, for the points of a grid, a multiple of those of `PART` panels.

    Args:
        points: Shape (G, M), ascending.
        clustering: What to do.
    """

    def __init__(self, points: Tensor, clustering: Clustering) -> None:
        self._shape = points.shape
        parts = self._parts(points)
        self._origins = parts[..., parts.shape[-1] // 2 :][..., :1]
        local = parts - self._origins
        self._seen_last: tuple[Tensor, Tensor] | None = None
        self._attender = Attender(local.flatten(0, 1), clustering)

    @classmethod
    def serves(cls, points: Tensor) -> bool:
        """Whether the points are as many as it takes."""
        return points.shape[-1] % (PART * POINTS) == 0

    def sum_up(self, masses: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """As `Attender.sum_up`, but for what a sum of nearness has of the points alone, and thus in every iteration."""
        sums, nearness = self._attender.sum_up(self._parts(masses).flatten(0, 1), self._seen(centroids))
        sums = sums.view(*self._origins.shape[:2], *sums.shape[1:])
        sums[..., 1] += sums[..., 0] * self._origins
        return sums.sum(dim=1), nearness.view(self._origins.shape).sum(dim=1)

    def evaluate(self, before: Tensor, after: Tensor) -> Tensor:
        """As `Attender.evaluate`."""
        return self._attender.evaluate(self._seen(before), self._everywhere(after)).view(self._shape)

    def output_gradients(
        self, upstream: Tensor, before: Tensor, after: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `Attender.output_gradients`."""
        by_after, by_before, slope = self._attender.output_gradients(
            self._parts(upstream).flatten(0, 1), self._seen(before), self._everywhere(after)
        )
        return self._total(by_after), self._total(by_before), slope.view(self._shape)

    def update_gradients(
        self, masses: Tensor, before: Tensor, share: Tensor, offset: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `Attender.update_gradients`."""
        moved = offset.unsqueeze(1) - share.unsqueeze(1) * self._origins
        by_before, slope = self._attender.update_gradients(
            self._parts(masses).flatten(0, 1),
            self._seen(before),
            self._everywhere(share),
            moved.flatten(0, 1),
        )
        return self._total(by_before), slope.view(self._shape)

    def _parts(self, values: Tensor) -> Tensor:
        """Values at the points, (G, M), by the parts that are taken together: (G, parts, points of a part)."""
        return values.reshape(values.shape[0], -1, PART * POINTS)

    def _seen(self, centroids: Tensor) -> Tensor:
        """Centroids (G, K) as they lie from each part: (G * parts, K)."""
        if self._seen_last is None or self._seen_last[0] is not centroids:
            self._seen_last = (centroids, (centroids.unsqueeze(1) - self._origins).flatten(0, 1))
        return self._seen_last[1]

    def _everywhere(self, values: Tensor) -> Tensor:
        """Values of centroids, (G, K), for each part: (G * parts, K)."""
        return values.unsqueeze(1).expand(-1, self._origins.shape[1], -1).flatten(0, 1)

    def _total(self, values: Tensor) -> Tensor:
        """Sums over parts (G * parts, K) of each group: (G, K)."""
        return values.view(*self._origins.shape[:2], -1).sum(dim=1)
