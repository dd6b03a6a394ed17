"""The packages that no other one beats in both bytes and metric."""

from __future__ import annotations

import math

from lightning_compress.explore.record import Candidate, Exploration


def front(exploration: Exploration) -> list[Candidate]:
    """The candidates that no other one beats, the smallest first.

    Of candidates that are alike in both, the one that was measured first stands for all. One without a metric is
    never among them.

    Args:
        exploration: What a search found.
    """
    sign = 1.0 if exploration.question.higher_is_better else -1.0
    measured = [candidate for candidate in exploration.candidates if math.isfinite(candidate.value)]
    found: list[Candidate] = []
    for candidate in sorted(measured, key=lambda entry: (entry.package_bytes, -sign * entry.value)):
        if not found or sign * candidate.value > sign * found[-1].value:
            found.append(candidate)
    return found


def shortlist(exploration: Exploration) -> list[Candidate]:
    """What is worth a look on a device: float16, the package that was chosen or comes nearest, and the front.

    In the order in which they were measured; packages that were not kept are left out.

    Args:
        exploration: What a search found.
    """
    names = {candidate.name for candidate in front(exploration)}
    names |= {exploration.chosen or "", exploration.nearest or ""}
    return [
        candidate
        for place, candidate in enumerate(exploration.candidates)
        if candidate.package is not None and (place == 0 or candidate.name in names)
    ]
