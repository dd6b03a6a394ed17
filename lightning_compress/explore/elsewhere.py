"""What other processes do for a search, in the folder of the search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Elsewhere(Protocol):
    """Runs parts of a search in other processes, and waits until all have ended, well or not."""

    def candidates(self, names: Sequence[str]) -> Mapping[str, str]:
        """Make candidates, each by `Candidates.make_requested`; what went wrong, by name."""

    def forms(self, names: Sequence[str]) -> Mapping[str, str]:
        """Measure forms, each by `Search.measure_form`; what went wrong, by name."""
