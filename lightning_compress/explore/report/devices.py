"""What devices have measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_compress.explore.record import Candidate, Exploration, Timing


@dataclass(frozen=True)
class DeviceRow:
    """A package on a device.

    Attributes:
        candidate: The package.
        timings: What was measured, in the order of `DeviceTable.units`; None where those were not tried.
    """

    candidate: Candidate
    timings: Sequence[Timing | None]

    @property
    def cells(self) -> list[str]:
        """The name, and what the columns of the units say."""
        return [
            self.candidate.name,
            *("" if timing is None else _in_words(timing) for timing in self.timings),
        ]


@dataclass(frozen=True)
class DeviceTable:
    """All that one device has measured.

    Attributes:
        device: The machine, in words.
        units: The compute units that packages were loaded for.
        rows: One a package, the largest first.
        repetitions: The fewest predictions that a median is of.
    """

    device: str
    units: Sequence[str]
    rows: Sequence[DeviceRow]
    repetitions: int


def device_tables(exploration: Exploration) -> list[DeviceTable]:
    """One table a device; empty until a profile was read.

    Args:
        exploration: What a search found.
    """
    timed = sorted(
        (candidate for candidate in exploration.candidates if candidate.timings),
        key=lambda candidate: -candidate.package_bytes,
    )
    devices = dict.fromkeys(timing.device for candidate in timed for timing in candidate.timings)
    return [_table(device, timed) for device in devices]


def fastest(exploration: Exploration, candidate: Candidate) -> list[str]:
    """The shortest time of a package on each device of `device_tables`, and the units that it was loaded for.

    Args:
        exploration: What a search found.
        candidate: One of its packages.
    """
    found = []
    for table in device_tables(exploration):
        timings = [timing for timing in candidate.timings if timing.device == table.device]
        best = min(timings, key=lambda timing: timing.milliseconds, default=None)
        found.append("" if best is None else f"{best.milliseconds:.2f} ms, {best.unit}")
    return found


def _table(device: str, timed: Sequence[Candidate]) -> DeviceTable:
    on_device = {
        candidate.name: {timing.unit: timing for timing in candidate.timings if timing.device == device}
        for candidate in timed
    }
    units = list(dict.fromkeys(unit for timings in on_device.values() for unit in timings))
    rows = [
        DeviceRow(candidate, [on_device[candidate.name].get(unit) for unit in units])
        for candidate in timed
        if on_device[candidate.name]
    ]
    repetitions = min(timing.repetitions for timings in on_device.values() for timing in timings.values())
    return DeviceTable(device, units, rows, repetitions)


def _in_words(timing: Timing) -> str:
    placed = sorted(timing.placement.items(), key=lambda entry: (-entry[1], entry[0]))
    where = ", ".join(f"{count} on {place}" for place, count in placed if count)
    return f"{timing.milliseconds:.2f} ms" + (f" ({where})" if where else "")
