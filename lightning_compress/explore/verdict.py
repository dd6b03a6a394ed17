"""A package on data that the search has never seen, with standard errors by the delete-a-group jackknife."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from lightning_compress.explore.limits import Limits
from lightning_compress.explore.parts import Part
from lightning_compress.explore.record import Verdict
from lightning_compress.explore.subject import Subject
from lightning_compress.tasks import InPlace
from lightning_compress.tasks.measuring import measure


def verdict_of(
    subject: Subject, reference: Path, chosen: Path, part: Part, limits: Limits, folder: Path
) -> Verdict:
    """A package and float on data that the search has not seen, whatever the package was made by.

    Args:
        subject: What was searched.
        reference: The float16 package.
        chosen: The package that is judged.
        part: Of the validation data.
        limits: What was asked for.
        folder: Where a Trainer may write.
    """
    (float_value, float_groups), (value, groups) = (
        jackknifed(functools.partial(subject.placed, path), part, subject.metric, folder)
        for path in (reference, chosen)
    )
    drop = limits.drop(value) - limits.drop(float_value)
    drops = [limits.drop(own) - limits.drop(other) for other, own in zip(float_groups, groups, strict=True)]
    error = standard_error(drops)
    allowed = limits.max_drop
    return Verdict(
        samples=part.samples,
        float_value=float_value,
        float_error=standard_error(float_groups),
        value=value,
        error=standard_error(groups),
        drop=drop,
        drop_error=error,
        holds=allowed is None or drop <= allowed + (error if error == error else 0.0),
    )


def jackknifed(
    module: Callable[[], tuple[L.LightningModule, InPlace]], part: Part, metric: str, folder: Path
) -> tuple[float, list[float]]:
    """The metric of a package on all of a part, and on the part without each of its groups.

    Args:
        module: Makes a module in which the package stands for the network, and that package; called for each run, since
            a metric may keep what it has seen.
        part: Of the validation data.
        metric: As it is logged.
        folder: Where a Trainer may write.
    """
    remembered: dict[bytes, Any] = {}

    def value(data: L.LightningDataModule) -> float:
        lightning_module, placed = module()
        _remember(placed, remembered)
        return measure(lightning_module, data, metric, folder, shows_progress=False)

    return value(part.as_data()), [value(data) for data in part.without_each_group()]


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
