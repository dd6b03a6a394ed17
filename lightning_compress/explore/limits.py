"""What a package must keep to answer the question."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_compress.explore.record import Candidate, Question


@dataclass(frozen=True)
class Limits:
    """The limits of a question, the drop in the unit of the metric.

    Attributes:
        float_value: The metric of the float16 package.
        higher_is_better: Whether a larger metric is a better one.
        max_drop: How much worse than float a package may be; None for no such limit.
        max_bytes: How large it may be; None for no such limit.
        margin: By how many standard errors the drop must be within its limit.
    """

    float_value: float
    higher_is_better: bool
    max_drop: float | None
    max_bytes: int | None
    margin: float = 0.0

    @classmethod
    def of(cls, question: Question, float_value: float) -> Limits:
        """The limits of a question."""
        return cls(
            float_value, question.higher_is_better, question.max_drop, question.max_bytes, question.margin
        )

    def drop(self, value: float) -> float:
        """How much worse a metric is than float's; negative where it is better."""
        drop = self.float_value - value
        return drop if self.higher_is_better else -drop

    def allows_value(self, value: float, error: float | None = None) -> bool:
        """Whether a metric is good enough.

        Args:
            value: The metric.
            error: The standard error of its drop; None where nobody knows.
        """
        if math.isnan(value):
            return False
        return self.max_drop is None or self._likely_drop(value, error) <= self.max_drop + 1e-12

    def allow(self, value: float, package_bytes: int, error: float | None = None) -> bool:
        """Whether a package is good and small enough."""
        is_small = self.max_bytes is None or package_bytes <= self.max_bytes
        return is_small and self.allows_value(value, error)

    def _likely_drop(self, value: float, error: float | None) -> float:
        """What the drop hardly exceeds on other data."""
        return self.drop(value) + self.margin * (error or 0.0)

    def best(self, candidates: list[Candidate]) -> Candidate | None:
        """The answer among candidates: the smallest that keeps a drop, or the best that keeps a size alone."""
        kept = [candidate for candidate in candidates if candidate.satisfies]
        if not kept:
            return None
        if self.max_drop is None:
            return min(kept, key=lambda candidate: (candidate.drop, candidate.package_bytes))
        return min(kept, key=lambda candidate: (candidate.package_bytes, candidate.drop))

    def nearest(self, candidates: list[Candidate]) -> Candidate | None:
        """Of candidates that all miss a limit, the one that misses them least, each relative to itself."""

        def miss(candidate: Candidate) -> float:
            size = 0.0
            if self.max_bytes is not None:
                size = max(0.0, candidate.package_bytes / self.max_bytes - 1)
            if self.max_drop is None or math.isnan(candidate.drop):
                return size if self.max_drop is None else math.inf
            drop = self._likely_drop(candidate.value, candidate.drop_error)
            return size + max(0.0, drop - self.max_drop) / max(abs(self.float_value), 1e-12)

        return min(candidates, key=miss, default=None)
