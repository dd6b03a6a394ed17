"""A package on data that the search has never seen, with standard errors by the delete-a-group jackknife."""

from __future__ import annotations

import functools
from pathlib import Path

from lightning_compress.explore.limits import Limits
from lightning_compress.explore.parts import Part
from lightning_compress.explore.record import Verdict
from lightning_compress.explore.subject import Subject
from lightning_compress.explore.uncertainty import jackknifed, standard_error


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
