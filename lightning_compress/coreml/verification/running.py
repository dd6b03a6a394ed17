"""Run a module, a package on this machine, and on macOS a package in Core ML itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from torch import Tensor, nn

from lightning_compress.copying import copy_whole
from lightning_compress.coreml.detector import CONFIDENCE, COORDINATES, RAW_OUTPUTS
from lightning_compress.coreml.quiet import quiet_quantization
from lightning_compress.coreml.structure import take_apart
from lightning_compress.coreml.temporary_packages import removed_with
from lightning_compress.coreml.tolerance import Tolerance
from lightning_compress.coreml.verification.comparison import Rounding, may_hold_labels
from lightning_compress.coreml.verification.samples import off_by_rounding
from lightning_compress.counted import counted
from lightning_compress.errors import PackageError, VerificationError
from lightning_compress.package.opening import open_package
from lightning_compress.runtime import CoreMLProgram, load
from lightning_compress.runtime.module import Precision

Outputs = list[dict[str, Tensor]]
"""Outputs by name, one mapping a sample."""


def reference_outputs(
    module: nn.Module, samples: Sequence[tuple[Tensor, ...]], names: Sequence[str]
) -> Outputs:
    """What a module computes.

    Args:
        module: On the CPU, in evaluation mode; returns a tensor, or tensors in tuples, dictionaries and dataclasses.
        samples: Its inputs.
        names: Names of its outputs, in order.

    Raises:
        VerificationError: If it cannot be run on them, or returns more or fewer tensors.
    """
    results = []
    with torch.no_grad(), quiet_quantization():
        for sample in samples:
            try:
                returned = module(*sample)
            except Exception as error:
                shapes = ", ".join(f"{list(value.shape)}" for value in sample)
                raise VerificationError(
                    f"the module cannot be run on inputs of the shapes {shapes}, so that the package cannot be "
                    f"compared with it: {_last_line(error)}"
                ) from error
            tensors = take_apart(returned, type(module).__name__)
            if len(tensors) != len(names):
                raise VerificationError(
                    f"the module returns {counted(len(tensors), 'tensor')}, and the package has "
                    f"{counted(len(names), 'output')}: "
                    f"{', '.join(names)}"
                )
            results.append(dict(zip(names, tensors, strict=True)))
    return results


def _last_line(error: Exception) -> str:
    # TorchScript tells its own traceback first.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def effect_of_rounding(
    module: nn.Module, samples: Sequence[tuple[Tensor, ...]], exact: Outputs, tolerance: Tolerance
) -> Rounding | None:
    """What a module computes with its numbers rounded to float16, on inputs off by as much, beside what it does else.

    Args:
        module: The module that was converted.
        samples: Its inputs.
        exact: What this module computes on them.
        tolerance: How its package is judged.

    Returns:
        None where neither `tolerance` nor the outputs ask for it.
    """
    if tolerance.times_rounding == 0 and not any(map(may_hold_labels, exact[0].values())):
        return None
    rounded = copy_whole(module)
    for tensor in (*rounded.parameters(), *rounded.buffers()):
        if tensor.is_floating_point():
            half = tensor.detach().half().to(tensor.dtype)
            # What float16 cannot hold, such as the variance of pixels, is folded into something that it can.
            tensor.data = torch.where(half.isfinite(), half, tensor.detach())
    return Rounding(exact, reference_outputs(rounded, off_by_rounding(samples), list(exact[0])))


def program_of(package: str | Path, precision: Precision = "float16") -> CoreMLProgram:
    """The program of a package as a module; that of a pipeline is the one before non-maximum suppression.

    Raises:
        PackageError: If the package cannot be loaded, or holds no program, or more than one.
    """
    programs = [
        part for part in load(package, precision=precision).modules() if isinstance(part, CoreMLProgram)
    ]
    if len(programs) != 1:
        raise PackageError(f"{str(package)!r} holds {len(programs)} programs; one can be verified")
    return programs[0]


def output_names(program: CoreMLProgram) -> list[str]:
    """Names of a program's tensors: without a classifier's label, and a detector's as its package names them."""
    names = list(program.output_names)
    if program.class_labels is not None:
        names = names[1:]
    return [_FINAL_NAMES.get(name, name) for name in names]


def run_in_torch(program: CoreMLProgram, samples: Sequence[tuple[Tensor, ...]]) -> Outputs:
    """What a package computes, run by `lightning_compress.runtime`; of a detector every box."""
    with torch.no_grad():
        return [
            {
                _FINAL_NAMES.get(name, name): value
                for name, value in program(*sample).items()
                if isinstance(value, Tensor)
            }
            for sample in samples
        ]


def coreml_is_available() -> bool:
    """Whether Core ML itself can run a package on this machine."""
    return sys.platform == "darwin"


def run_in_coreml(package: str | Path, samples: Sequence[tuple[Tensor, ...]]) -> Outputs:
    """What a package computes, run by Core ML; macOS only.

    Args:
        package: Path of an `.mlpackage` folder.
        samples: Its inputs, images as pixels of 0 to 255, RGB.

    Returns:
        Its outputs; a classifier's probabilities in the order of its labels, of a detector every box.

    Raises:
        PackageError: On any other system.
    """
    if not coreml_is_available():
        raise PackageError(f"Core ML runs on macOS alone, and this is {sys.platform}")
    opened = open_package(package)
    model = removed_with(ct.models.MLModel(opened.specification, weights_dir=str(opened.weights_folder)))
    inputs = opened.specification.description.input
    labels = load(package).class_labels
    results = []
    for sample in samples:
        given: dict[str, Any] = {
            feature.name: _coreml_value(feature, value) for feature, value in zip(inputs, sample, strict=True)
        }
        results.append(
            {
                _FINAL_NAMES.get(name, name): _tensor(value, labels)
                for name, value in model.predict(given).items()
                if isinstance(value, (np.ndarray, dict))
            }
        )
    return results


_FINAL_NAMES = dict(zip(RAW_OUTPUTS, (CONFIDENCE, COORDINATES), strict=True))


def _coreml_value(feature: Any, value: Tensor) -> Any:
    if feature.type.WhichOneof("Type") != "imageType":
        return value.numpy()
    # Pillow comes with torchvision's image operations and is needed for Core ML's image inputs alone.
    from PIL import Image

    pixels = value[0].round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _tensor(value: Any, labels: Sequence[Any] | None) -> Tensor:
    if isinstance(value, dict):
        return torch.tensor([float(value[label]) for label in labels or value])
    return torch.from_numpy(np.asarray(value))
