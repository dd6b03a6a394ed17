"""What `train` does before its first step, to find out whether all of its stages can succeed."""

from __future__ import annotations

import time

from omegaconf import ListConfig

from lightning_compress.commands.jobs.building import COMPRESSED_FIT, FITS, Building
from lightning_compress.commands.jobs.rehearsal import (
    rehearse_compressed,
    rehearse_float,
    rehearse_trainers,
)
from lightning_compress.coreml.post_training import PostTrainingForm
from lightning_compress.errors import ConfigurationError


def rehearse_training(building: Building, *, exports: bool) -> float:
    """Find out in the first seconds what would end a job after hours.

    Trainers, modules and what they go on from are looked at. With `exports`, an untrained float16 package and an
    untrained compressed one are converted and loaded, one batch is trained on, one is measured and one picture drawn;
    nothing stays.

    Args:
        building: Of the job; its data are set up.
        exports: Whether to convert, too.

    Returns:
        Seconds that it took.

    Raises:
        CompressionError: What would have ended the job.
    """
    started = time.perf_counter()
    rehearse_trainers(building, [fit for fit in FITS if fit != COMPRESSED_FIT or building.methods])
    rehearse_float(
        building, [PostTrainingForm(palettize=width) for width in widths(building)], exports=exports
    )
    if building.methods:
        rehearse_compressed(building, exports=exports)
    return time.perf_counter() - started


def widths(building: Building) -> list[int]:
    """The widths at which the float16 package is palettized.

    Raises:
        ConfigurationError: They are no list, or one is no width that Core ML has.
    """
    given = building.config.post_training_bits
    if given is None:
        return []
    if not isinstance(given, ListConfig | list):
        raise ConfigurationError(
            f"post_training_bits={given!r} is no list; give widths such as post_training_bits=[{given}], or [] for none"
        )
    bits: list[int] = list(given)
    try:
        for width in bits:
            PostTrainingForm(palettize=width)
    except ConfigurationError as error:
        raise ConfigurationError(f"post_training_bits={bits}: {error}") from error
    return bits
