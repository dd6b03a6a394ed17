"""Time Core ML packages on this Mac, on each of its compute units, by Core ML's own clock.

`python profile_packages.py` in the folder that `lightning-compress profile` has made; needs `pip install coremltools`,
which brings numpy, and Pillow where a package takes images. It writes `profile.json` beside itself.
"""

# This file is carried to other machines as it is: it imports nothing of the package that it is part of.
from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1
"""Of `request.json` and `profile.json`."""

REQUEST, INPUTS, PROFILE = "request.json", "inputs.npz", "profile.json"
"""What is asked, what packages are run on, and what was found."""

UNITS = ("ALL", "CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY")
"""The compute units that a package can be loaded for, as coremltools calls them."""

_WARM_UP = 5
"""Predictions before the first that counts: Core ML makes ready what it needs while it runs."""

_LEAST = 5
"""Predictions that count at least, however long they take."""

Predict = Callable[[Mapping[str, Any]], float]
"""One prediction of a loaded package; returns the milliseconds that it took."""

Load = Callable[[Path, str], tuple[Predict, Mapping[str, int]]]
"""Loads a package for compute units; returns how it predicts, and how many operations run where."""


def main() -> int:
    """Time what `request.json` beside this file asks for; returns the exit status."""
    folder = Path(__file__).resolve().parent
    if sys.platform != "darwin":
        print(f"Core ML runs on macOS alone, and this is {sys.platform}", file=sys.stderr)
        return 1
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    found = profile(folder, request, read_samples(folder / INPUTS, request["inputs"]), load_in_coreml)
    write_profile(found, folder / PROFILE)
    print(f"written: {folder / PROFILE}")
    return 0 if any(package["timings"] for package in found["packages"]) else 1


def profile(
    folder: Path,
    request: Mapping[str, Any],
    samples: Sequence[Mapping[str, Any]],
    load: Load,
    device: str | None = None,
) -> dict[str, Any]:
    """Time packages.

    Args:
        folder: What their paths are relative to.
        request: What `request.json` holds.
        samples: What they are run on in turn: for each input an array, or a picture as coremltools takes it.
        load: How a package is loaded.
        device: This machine in words; None for what it says of itself.

    Returns:
        What `profile.json` holds. A package that cannot be loaded or run for some units has the reason in place of a
        time.
    """
    machine = device if device is not None else this_device()
    packages = []
    for package in request["packages"]:
        path = folder / package["path"]
        count = bytes_of(path)
        entry: dict[str, Any] = {"name": package["name"], "bytes": count, "timings": [], "failures": []}
        for unit in request["units"]:
            timing = reason = None
            if count == package["bytes"]:
                timing, reason = _attempt(path, unit, request, samples, load)
            else:
                reason = f"it has {count:,} bytes and had {package['bytes']:,} when it was measured"
            if timing is not None:
                entry["timings"].append({**timing, "device": machine})
                print(f"{package['name']}, {unit}: {timing['milliseconds']:.2f} ms", flush=True)
            else:
                entry["failures"].append({"unit": unit, "reason": reason})
                print(f"{package['name']}, {unit}: {reason}", flush=True)
        packages.append(entry)
    return {"format": FORMAT, "digest": request["digest"], "device": machine, "packages": packages}


def durations(
    predict: Predict, samples: Sequence[Mapping[str, Any]], repetitions: int, most_seconds: float
) -> list[float]:
    """What predictions took, once warm.

    Args:
        predict: One prediction.
        samples: What to run on, in turn.
        repetitions: How many predictions.
        most_seconds: After so many no more are begun, but for the first few.

    Returns:
        Milliseconds, one a prediction.
    """
    for place in range(_WARM_UP):
        predict(dict(samples[place % len(samples)]))
    found: list[float] = []
    began = time.monotonic()
    while len(found) < repetitions and (len(found) < _LEAST or time.monotonic() - began < most_seconds):
        # coremltools changes the mapping that it is given.
        found.append(predict(dict(samples[len(found) % len(samples)])))
    return found


def read_samples(path: Path, inputs: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """The samples of `inputs.npz`.

    Args:
        path: The file: an array for each input by its place, whose first axis counts the samples.
        inputs: The name and the kind, "array" or "image", of each input.

    Returns:
        For each sample its inputs by name.
    """
    with np.load(path, allow_pickle=False) as archive:
        arrays = [archive[str(place)] for place in range(len(inputs))]
    return [
        {
            entry["name"]: as_picture(value) if entry["kind"] == "image" else value
            for entry, value in zip(inputs, values, strict=True)
        }
        for values in zip(*arrays, strict=True)
    ]


def as_picture(pixels: Any) -> Any:
    """Pixels as coremltools takes them.

    Args:
        pixels: Height x width, or height x width x 3, of 0 to 255.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise SystemExit("the packages take images, which needs Pillow: pip install pillow") from error
    return Image.fromarray(pixels)


def load_in_coreml(path: Path, unit: str) -> tuple[Predict, Mapping[str, int]]:
    """Load a package into Core ML.

    Args:
        path: Of the package.
        unit: One of `UNITS`.
    """
    import coremltools as ct

    model = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit[unit])
    if model.__proxy__ is None:
        raise RuntimeError("Core ML cannot load it on this system")
    state = model.make_state() if model.get_spec().description.state else None

    def predict(values: Mapping[str, Any]) -> float:
        began = time.perf_counter()
        model.predict(values, state)
        elapsed = 1e3 * (time.perf_counter() - began)
        # Core ML's own clock leaves out what Python does before and after; earlier coremltools cannot read it.
        nanoseconds = getattr(model, "last_predict_duration_in_nano_seconds", None)
        return elapsed if nanoseconds is None else nanoseconds / 1e6

    return predict, _placement(model, ct.ComputeUnit[unit])


def count_places(plan: Any) -> dict[str, int]:
    """How many operations Core ML runs where.

    Constants and the like, which run nowhere, do not count.

    Args:
        plan: An `MLComputePlan` of coremltools.

    Returns:
        Counts by "NeuralEngine", "GPU" and "CPU".
    """
    counts: dict[str, int] = {}
    for usage in _usages(plan, plan.model_structure):
        if usage is not None:
            kind = type(usage.preferred_compute_device).__name__
            name = kind.removeprefix("ML").removesuffix("Proxy").removesuffix("ComputeDevice")
            counts[name] = counts.get(name, 0) + 1
    return counts


def bytes_of(path: Path) -> int:
    """Bytes of all files of a package.

    Args:
        path: Of the package.
    """
    files = (file for file in path.rglob("*") if file.is_file() and not file.is_symlink())
    return sum(file.stat().st_size for file in files)


def this_device() -> str:
    """This Mac in words, such as "Mac15,3, Apple M3, macOS 15.1"."""
    parts = [
        _system_value("hw.model"),
        _system_value("machdep.cpu.brand_string"),
        f"macOS {platform.mac_ver()[0]}",
    ]
    return ", ".join(part for part in parts if part)


def write_profile(found: Mapping[str, Any], path: Path) -> None:
    """Write `profile.json` in one step.

    Args:
        found: What it shall hold.
        path: Of the file.
    """
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _attempt(
    path: Path, unit: str, request: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], load: Load
) -> tuple[dict[str, Any] | None, str | None]:
    """What was measured, or why nothing was."""
    try:
        predict, placement = load(path, unit)
        found = durations(predict, samples, request["repetitions"], request["seconds"])
    # What Core ML cannot load or run, and how it says so, is its own; the other packages can be timed still.
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
    timing = {
        "unit": unit,
        "milliseconds": statistics.median(found),
        "repetitions": len(found),
        "placement": dict(placement),
    }
    return timing, None


def _placement(model: Any, unit: Any) -> dict[str, int]:
    from coremltools.models.compute_plan import MLComputePlan

    try:
        plan = MLComputePlan.load_from_path(path=model.get_compiled_model_path(), compute_units=unit)
        return count_places(plan)
    # Systems before macOS 14.4 have no plan, and a time without one is a time.
    except Exception as error:
        print(f"where operations run is unknown: {type(error).__name__}: {error}", file=sys.stderr)
        return {}


def _usages(plan: Any, structure: Any) -> Iterator[Any]:
    """Where each operation of a model runs; None for one that runs nowhere."""
    if structure.program is not None:
        functions = structure.program.functions
        # A model of several functions is loaded by its default one.
        function = functions.get("main") or next(iter(functions.values()))
        for operation in _operations(function.block):
            yield plan.get_compute_device_usage_for_mlprogram_operation(operation)
    elif structure.neuralnetwork is not None:
        for layer in structure.neuralnetwork.layers:
            yield plan.get_compute_device_usage_for_neuralnetwork_layer(layer)
    elif structure.pipeline is not None:
        models = structure.pipeline.sub_models
        for _, part in models.items() if isinstance(models, Mapping) else models:
            yield from _usages(plan, part)


def _operations(block: Any) -> Iterator[Any]:
    for operation in block.operations:
        yield operation
        yield from _of_blocks(operation.blocks)


def _of_blocks(blocks: Iterable[Any]) -> Iterator[Any]:
    for block in blocks:
        yield from _operations(block)


def _system_value(name: str) -> str:
    try:
        found = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
