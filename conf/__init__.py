"""Hydra's configuration groups, and the one resolver that they use.

`${unless_given:OTHER,VALUE}` is VALUE unless another length of the same fit is given: a recipe sets `max_steps` or
`max_epochs`, and whoever gives the other one means it to take that one's place. Lightning alone would stop at whichever
comes first.
"""

from __future__ import annotations

from omegaconf import OmegaConf

_NO_LIMIT = -1
"""Lightning's own word for it."""


def unless_given(other: int | None, value: int) -> int:
    """A default length of a fit: no limit where another length is given."""
    return value if other in (None, _NO_LIMIT) else _NO_LIMIT


OmegaConf.register_new_resolver("unless_given", unless_given, replace=True)
