"""What a package holds that is known to go wrong though it reads well: on devices, or in the tool that made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_compress.package.storage import Storage

_NAMES = 3
"""Weights that a warning names."""

_LEAST_SCALES = 8
_LEAST_VALUES = 17
"""Fewer than so many largest values of exactly one, or values at all, may be chance, or a weight of ones and zeros."""


def known_problems(storages: Mapping[str, Storage], divided: Sequence[str]) -> tuple[str, ...]:
    """Warnings about weights, one a problem.

    Args:
        storages: How each weight is stored, by its name.
        divided: Names of the weights of which `is_divided_by_scale` holds.
    """
    scaled = [
        name
        for name, storage in storages.items()
        if storage.palette is not None
        and storage.palette.per_channel_scale
        and not storage.palette.entries.is_integer
    ]
    problems = []
    if scaled:
        problems.append(
            f"{_counted(scaled)} palettized with a scale for each channel. On macOS 26 such a package fails to load on "
            "the Neural Engine, while CPU and GPU compute it right (coremltools PR 2688: 'mps.dequantize' takes "
            "quantized values alone, not the floats that are scaled here). Try it on the device, or palettize without "
            "per-channel scales."
        )
    if divided:
        problems.append(
            f"{_counted(divided)} dense, and the largest magnitude along an axis is exactly 1 everywhere, as "
            "coremltools' palettize_weights leaves weights that it skips after it has divided them by their "
            "per-channel scales, such as where the group size does not divide the channels (coremltools PR 2777). "
            "Outputs are then wrong: compare them with the model's, and palettize with a group size that divides."
        )
    return tuple(problems)


def is_divided_by_scale(values: npt.NDArray[Any]) -> bool:
    """Whether a dense weight looks as if it was divided by its largest magnitudes along an axis of its channels."""
    if values.ndim < 2 or values.dtype.kind != "f" or not values.size:
        return False
    magnitudes = np.abs(values)
    if magnitudes.max() != 1:
        return False
    return np.unique(magnitudes).size >= _LEAST_VALUES and any(
        _is_one_everywhere(magnitudes.max(axis=axis)) for axis in (0, 1)
    )


def _is_one_everywhere(largest: npt.NDArray[Any]) -> bool:
    # A channel of zeros is divided by one.
    return bool(np.count_nonzero(largest) >= _LEAST_SCALES and np.isin(largest, (0, 1)).all())


def _counted(names: Sequence[str]) -> str:
    listed = ", ".join(names[:_NAMES]) + (", …" if len(names) > _NAMES else "")
    return f"{len(names)} weights ({listed}) are" if len(names) > 1 else f"The weight {listed} is"
