"""What a device is asked: which packages to time, and on what."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lightning_compress.errors import CompressionError
from lightning_compress.explore.front import shortlist
from lightning_compress.explore.profiling import on_device
from lightning_compress.explore.record import Candidate, Exploration
from lightning_compress.package.save import write_whole
from lightning_compress.package.sizes import package_bytes

SCRIPT = "profile_packages.py"
"""The script as it is carried: one called `profile.py` would stand in for Python's module of that name."""

_MOST_SECONDS = 10.0
"""For one package on one unit."""


@dataclass(frozen=True)
class Inputs:
    """What packages are run on.

    Attributes:
        names: Of the inputs.
        are_images: Whether each is an image.
        samples: For each sample its inputs by position; an image is 1 x channels x height x width, of 0 to 255.
    """

    names: Sequence[str]
    are_images: Sequence[bool]
    samples: Sequence[Sequence[Tensor]]


def request(
    exploration: Exploration, folder: Path, inputs: Inputs, *, units: Sequence[str], repetitions: int
) -> dict[str, Any]:
    """What `request.json` holds, the paths of packages being those below the folder of the search.

    Args:
        exploration: What the search found.
        folder: That of the search.
        inputs: What to run on.
        units: Compute units to load for, of `on_device.UNITS`.
        repetitions: Predictions that a median is of.

    Raises:
        CompressionError: No package was kept, or one is no longer what was measured.
    """
    packages = shortlist(exploration)
    if not packages:
        raise CompressionError(
            f"the search in {str(folder)!r} has kept none of the packages that are timed: float16, the chosen one, "
            "and those that no other one beats"
        )
    for candidate in packages:
        _require_unchanged(candidate, folder)
    return {
        "format": on_device.FORMAT,
        "digest": exploration.digest,
        "packages": [
            {"name": candidate.name, "path": candidate.package, "bytes": candidate.package_bytes}
            for candidate in packages
        ],
        "units": list(units),
        "repetitions": repetitions,
        "seconds": _MOST_SECONDS,
        "inputs": [
            {"name": name, "kind": "image" if is_image else "array"}
            for name, is_image in zip(inputs.names, inputs.are_images, strict=True)
        ],
    }


def write_inputs(inputs: Inputs, path: Path) -> None:
    """Write `inputs.npz`.

    Args:
        inputs: What to run on.
        path: Of the file.
    """
    arrays = {
        str(place): np.stack([_array(sample[place], is_image=is_image) for sample in inputs.samples])
        for place, is_image in enumerate(inputs.are_images)
    }
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def carry(asked: dict[str, Any], inputs: Inputs, folder: Path, destination: Path) -> None:
    """Make the folder to carry to a Mac: packages, inputs, what is asked, and the script.

    Args:
        asked: What `request` says.
        inputs: What to run on.
        folder: That of the search.
        destination: The folder to make; one that this has made before is made anew.

    Raises:
        CompressionError: Something else is there.
    """
    if destination.exists():
        if any(destination.iterdir()) and not (destination / SCRIPT).is_file():
            raise CompressionError(
                f"{str(destination)!r} holds something else; give a new folder with carry=…, or empty it"
            )
        shutil.rmtree(destination)
    packages = []
    for place, package in enumerate(asked["packages"]):
        # Names of candidates may hold what is no name of a file on a Mac.
        plain = re.sub(r"[^\w.-]+", "_", package["name"], flags=re.ASCII)[:60]
        path = f"packages/{place}_{plain}.mlpackage"
        shutil.copytree(folder / package["path"], destination / path)
        packages.append({**package, "path": path})
    write_inputs(inputs, destination / on_device.INPUTS)
    shutil.copyfile(on_device.__file__, destination / SCRIPT)
    # Last, so that a folder with it is whole.
    content = json.dumps({**asked, "packages": packages}, indent=2) + "\n"
    write_whole(destination / on_device.REQUEST, content.encode())


def _require_unchanged(candidate: Candidate, folder: Path) -> None:
    path = folder / str(candidate.package)
    if not path.is_dir():
        raise CompressionError(f"the package of {candidate.name!r} is no longer at {str(path)!r}")
    count = package_bytes(path)
    if count != candidate.package_bytes:
        raise CompressionError(
            f"the package of {candidate.name!r}, {str(path)!r}, has {count:,} bytes and had "
            f"{candidate.package_bytes:,} when the search measured it; timing another package would say nothing"
        )


def _array(value: Tensor, *, is_image: bool) -> Any:
    if not is_image:
        return value.numpy()
    pixels = value[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels
