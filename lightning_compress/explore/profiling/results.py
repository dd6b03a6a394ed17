"""What a device has found, brought back into the search."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_compress.errors import CompressionError, did_you_mean
from lightning_compress.explore.profiling.on_device import FORMAT, UNITS
from lightning_compress.explore.record import Candidate, Exploration, Timing, read_record


@dataclass(frozen=True)
class Failure:
    """Compute units for which a package could not be timed, and why."""

    unit: str
    reason: str


@dataclass(frozen=True)
class ProfiledPackage:
    """A package on a device.

    Attributes:
        name: Of the candidate.
        bytes: Of all its files, there.
        timings: What was measured.
        failures: What could not be.
    """

    name: str
    bytes: int
    timings: Sequence[Timing]
    failures: Sequence[Failure]


@dataclass(frozen=True)
class Profile:
    """What `profile.json` holds.

    Attributes:
        format: Of the file.
        digest: Of the float weights of the search.
        device: The machine, in words.
        packages: One a package.
    """

    format: int
    digest: str
    device: str
    packages: Sequence[ProfiledPackage]


def read_profile(path: Path) -> Profile:
    """Read what the script has written.

    Args:
        path: Of `profile.json`.

    Raises:
        CompressionError: The file cannot be read, or holds something else.
    """
    found = read_record(Profile, path)
    _require(found.format == FORMAT, path, f"its format is {found.format!r}; {FORMAT} can be read")
    _require(
        isinstance(found.device, str) and isinstance(found.digest, str), path, "it names no device or weights"
    )
    for package in found.packages:
        for timing in package.timings:
            _require(timing.unit in UNITS, path, f"unit={timing.unit!r} is none of {', '.join(UNITS)}")
            _require(
                _is_number(timing.milliseconds) and timing.milliseconds > 0,
                path,
                f"milliseconds={timing.milliseconds!r} of {package.name!r} is no time",
            )
            _require(
                _is_count(timing.repetitions) and timing.repetitions > 0,
                path,
                f"repetitions={timing.repetitions!r} of {package.name!r} is no number of predictions",
            )
            _require(
                all(map(_is_count, timing.placement.values())),
                path,
                f"placement={dict(timing.placement)!r} of {package.name!r} counts no operations",
            )
            _require(
                isinstance(timing.device, str),
                path,
                f"device={timing.device!r} of {package.name!r} is no name",
            )
    return found


def with_timings(exploration: Exploration, profile: Profile, source: str) -> Exploration:
    """The search with what a device has measured; an earlier time of the same units of the same device goes.

    Args:
        exploration: What the search found.
        profile: What the device found.
        source: Where that came from, for errors.

    Raises:
        CompressionError: It was measured on other packages, or nothing was.
    """
    if profile.digest != exploration.digest:
        raise CompressionError(
            f"{source} was measured on packages of the weights {profile.digest!r}; those of this search are "
            f"{exploration.digest!r}. Read it into the folder that it was made from."
        )
    known = {candidate.name: candidate for candidate in exploration.candidates}
    for package in profile.packages:
        candidate = known.get(package.name)
        if candidate is None:
            raise CompressionError(
                f"{source} names a package {package.name!r} that this search has not"
                f"{did_you_mean(package.name, known)} Valid are {', '.join(known)}."
            )
        if package.bytes != candidate.package_bytes:
            raise CompressionError(
                f"{source}: the package {package.name!r} has {package.bytes:,} bytes there, and "
                f"{candidate.package_bytes:,} in this search; carry its folder anew"
            )
    if not any(package.timings for package in profile.packages):
        reasons = {failure.reason for package in profile.packages for failure in package.failures}
        raise CompressionError(
            f"{source} holds no time: {'; '.join(sorted(reasons)) or 'no package was timed'}"
        )
    timed = {package.name: package.timings for package in profile.packages}
    return dataclasses.replace(
        exploration,
        candidates=[_timed(candidate, timed.get(candidate.name, ())) for candidate in exploration.candidates],
    )


def _timed(candidate: Candidate, timings: Sequence[Timing]) -> Candidate:
    new = {(timing.device, timing.unit) for timing in timings}
    kept = [timing for timing in candidate.timings if (timing.device, timing.unit) not in new]
    return dataclasses.replace(candidate, timings=[*kept, *timings]) if timings else candidate


def _require(holds: bool, path: Path, problem: str) -> None:
    if not holds:
        raise CompressionError(f"{path} cannot be used: {problem}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
