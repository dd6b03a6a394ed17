"""How far a metric of so many samples can be off, from what it is on groups of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from lightning_compress.errors import ConfigurationError
from lightning_compress.explore.parts import Part
from lightning_compress.tasks import InPlace
from lightning_compress.tasks.measuring import measure

Placed = Callable[[], tuple[L.LightningModule, InPlace]]
"""Makes a module in which a package stands for the network, and that package; called for each run, since a metric may
keep what it has seen."""


def by_groups(module: Placed, part: Part, metric: str, folder: Path) -> tuple[float, list[float]]:
    """The metric of a package on all of a part, and on each of its groups alone.

    All samples are read twice, whatever their number, and the package runs once for each.

    Args:
        module: Makes what is measured.
        part: Of the validation data.
        metric: As it is logged.
        folder: Where a Trainer may write.

    Raises:
        ConfigurationError: The metric cannot be computed on a group alone.
    """
    values = _values(module, [part.as_data(), *part.each_group()], metric, folder)
    value = next(values)
    try:
        return value, list(values)
    except Exception as error:
        raise ConfigurationError(
            f"{metric} can be computed on all {part.samples} samples of the search, and not on a tenth of them alone, "
            f"which tells how far a drop can be off: {type(error).__name__}: {error}. Set explore.margin=0 to take "
            "drops as they are measured"
        ) from error


def jackknifed(module: Placed, part: Part, metric: str, folder: Path) -> tuple[float, list[float]]:
    """The metric of a package on all of a part, and on the part without each of its groups.

    Nearer to the truth than groups alone where the metric of few samples is another one than that of many, and dearer:
    all samples are read ten times.

    Args:
        module: Makes what is measured.
        part: Of the validation data.
        metric: As it is logged.
        folder: Where a Trainer may write.
    """
    value, *groups = _values(module, [part.as_data(), *part.without_each_group()], metric, folder)
    return value, groups


def _values(
    module: Placed, data: Sequence[L.LightningDataModule], metric: str, folder: Path
) -> Iterator[float]:
    remembered: dict[bytes, Any] = {}
    for each in data:
        lightning_module, placed = module()
        _remember(placed, remembered)
        yield measure(lightning_module, each, metric, folder, shows_progress=False)


def error_of_groups(values: Sequence[float]) -> float:
    """The standard error of the metric of all samples, from those of equal groups; NaN of a single one.

    Example:
        >>> round(error_of_groups([0.4, 0.6]), 3)
        0.1
    """
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def standard_error(without_each_group: Sequence[float]) -> float:
    """Of a statistic, from its values without each group of the data (Quenouille 1956; Tukey 1958).

    Example:
        >>> round(standard_error([0.5, 0.7]), 3)
        0.1
    """
    values = np.asarray(without_each_group, dtype=float)
    groups = len(values)
    if groups < 2:
        return math.nan
    return float(np.sqrt((groups - 1) / groups * np.square(values - values.mean()).sum()))


def _remember(placed: InPlace, known: dict[bytes, Any]) -> None:
    """Run the package once for each input; the groups share all samples but their own."""
    run = placed.forward

    def forward(*arguments: Any, **named: Any) -> Any:
        key = _digest((arguments, named))
        if key not in known:
            known[key] = run(*arguments, **named)
        return known[key]

    placed.forward = forward  # type: ignore[method-assign]


def _digest(inputs: Any) -> bytes:
    leaves, structure = tree_flatten(inputs)
    digest = hashlib.sha256(repr(structure).encode())
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            digest.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
            digest.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(leaf).encode())
    return digest.digest()
