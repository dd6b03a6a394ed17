"""`lightning-compress profile folder=...`: the packages of a search, timed by Core ML on a Mac."""

from __future__ import annotations

import tempfile
from pathlib import Path

from omegaconf import DictConfig

from lightning_compress.arguments import require_one_of
from lightning_compress.commands.samples import package_samples
from lightning_compress.console import literal, print_whole
from lightning_compress.coreml.verification import coreml_is_available
from lightning_compress.counted import counted
from lightning_compress.errors import ConfigurationError
from lightning_compress.explore.front import shortlist
from lightning_compress.explore.profiling import Profile, carry, read_profile, request, with_timings
from lightning_compress.explore.profiling.on_device import (
    INPUTS,
    PROFILE,
    UNITS,
    load_in_coreml,
    profile,
    read_samples,
    write_profile,
)
from lightning_compress.explore.profiling.request import SCRIPT, Inputs, write_inputs
from lightning_compress.explore.record import Exploration, read_record, write_record
from lightning_compress.explore.report import PAGE, write_report
from lightning_compress.explore.report.devices import device_tables
from lightning_compress.explore.report.terminal import device_table
from lightning_compress.explore.searching import RECORD
from lightning_compress.package.inspection import inspect
from lightning_compress.package.rendering import format_bytes
from lightning_compress.package.sizes import package_bytes


def run(config: DictConfig) -> None:
    """Time packages where Core ML runs, make a folder to carry elsewhere, or read back what was found there.

    Raises:
        CompressionError: There is no search in the folder, or what was found is not of its packages.
    """
    folder = Path(str(config.folder)).expanduser()
    record = folder / RECORD
    if not record.is_file():
        raise ConfigurationError(
            f"folder={str(folder)!r} holds no {RECORD}; give the folder of a search: outputs/explore/..."
        )
    exploration = read_record(Exploration, record)
    if config.results is not None:
        source = Path(str(config.results)).expanduser()
        if not source.is_file():
            raise ConfigurationError(
                f"results={str(source)!r} is no file; give the {PROFILE} that the script has written on a Mac"
            )
        _take_back(exploration, folder, read_profile(source), f"results={str(source)!r}")
        return
    units = [str(unit) for unit in config.units]
    for unit in units:
        require_one_of("units", unit, UNITS)
    inputs = _inputs(exploration, folder, config)
    asked = request(exploration, folder, inputs, units=units, repetitions=config.repetitions)
    if not coreml_is_available():
        _carry(asked, inputs, folder, config)
        return
    with tempfile.TemporaryDirectory() as place:
        path = Path(place)
        write_inputs(inputs, path / INPUTS)
        found = profile(folder, asked, read_samples(path / INPUTS, asked["inputs"]), load_in_coreml)
        write_profile(found, path / PROFILE)
        _take_back(exploration, folder, read_profile(path / PROFILE), "this machine")


def _inputs(exploration: Exploration, folder: Path, config: DictConfig) -> Inputs:
    """What packages are run on: they all take what the first one takes."""
    packages = shortlist(exploration)
    if not packages:
        return Inputs([], [], [])
    report = inspect(folder / str(packages[0].package))
    samples = package_samples(report, config.inputs, config.samples).package
    taken = [feature for feature in report.inputs if "optional" not in feature.type]
    return Inputs(
        [feature.name for feature in taken], [feature.type.startswith("image") for feature in taken], samples
    )


def _take_back(exploration: Exploration, folder: Path, found: Profile, source: str) -> None:
    timed = with_timings(exploration, found, source)
    write_record(timed, folder / RECORD)
    write_report(timed, folder)
    print_whole(*(device_table(table) for table in device_tables(timed)))
    for package in found.packages:
        for failure in package.failures:
            print_whole(
                literal(f"{package.name} was not timed on {failure.unit}: {failure.reason}", "yellow")
            )
    print_whole(literal(f"report: {folder / PAGE}"))


def _carry(asked: dict[str, object], inputs: Inputs, folder: Path, config: DictConfig) -> None:
    destination = folder / "profile" if config.carry is None else Path(str(config.carry)).expanduser()
    carry(asked, inputs, folder, destination)
    count = sum(1 for path in (destination / "packages").iterdir() if path.is_dir())
    print_whole(
        literal(
            f"Core ML runs on macOS alone. {destination} holds {counted(count, 'package')} "
            f"({format_bytes(package_bytes(destination))}) and a script. Carry it to a Mac and run there\n"
            "  pip install 'coremltools>=9' pillow\n"
            f"  python {SCRIPT}\n"
            f"then bring back the {PROFILE} that it writes:\n"
            f"  lightning-compress profile folder={folder} results={PROFILE}"
        )
    )
