"""Palettes whose entries fall together are told of while it happens."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_compress.counted import counted
from lightning_compress.methods.mechanism.technique import Technique

_NAMED = 3


class LostValues:
    """Warns of techniques half of whose values have become one, of each once a fit."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, techniques: Sequence[Technique]) -> None:
        """Warn of those that were not told of yet."""
        new = [technique for technique in techniques if technique.tensor_name not in self._told]
        if not new:
            return
        self._told |= {technique.tensor_name for technique in new}
        names = ", ".join(f"{technique.tensor_name} ({technique.label})" for technique in new[:_NAMED])
        more = f" and {len(new) - _NAMED} more" if len(new) > _NAMED else ""
        remedies = "; ".join(sorted({technique.remedy_for_lost_values for technique in new} - {""}))
        rank_zero_warn(
            f"half or more of the values of {counted(len(new), 'weight')} have fallen together, and are lost: "
            f"{names}{more}" + (f"; {remedies}" if remedies else "")
        )
