"""From the path of a package to a module."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any, TypeAlias

import torch
from coremltools.converters.mil.frontend.milproto.load import load as load_mil

import lightning_compress.runtime.ops  # noqa: F401 - fills the table of ops
from lightning_compress.errors import PackageError
from lightning_compress.package.reader import (
    PackageContents,
    models_of,
    operations_of,
    programs_of,
    read_package,
)
from lightning_compress.runtime.interface import read_inputs
from lightning_compress.runtime.lowering import lower
from lightning_compress.runtime.module import CoreMLProgram, Precision
from lightning_compress.runtime.pipeline import CoreMLPipeline, SuppressionStage
from lightning_compress.runtime.registry import find, supported_ops

_PRECISIONS = ("float32", "float16")

# coremltools' reader gives this op another name than packages do.
_READER_NAMES = {"write_state": "coreml_update_state"}

CoreMLModule: TypeAlias = CoreMLProgram | CoreMLPipeline


def load(
    path: str | os.PathLike[str],
    *,
    precision: Precision = "float32",
    device: torch.device | str | None = None,
) -> CoreMLModule:
    """Load a Core ML package as a torch module that computes what its program says.

    Reading a package executes nothing that is in it.

    Args:
        path: a `.mlpackage` folder that holds an ML Program, or a pipeline of programs and non-maximum suppression.
            Of a package with several functions, the default one is loaded.
        precision: "float32" computes in float32 on the stored weights, the reference to compare a package with;
            "float16" computes in the types of the program, which are float16 unless it was converted otherwise.
            Without fast float16 arithmetic, on a CPU, values are held in float32 and each result is rounded.
        device: where to put the constants; the CPU by default. `module.to` moves them later.

    Returns:
        A module in evaluation mode; see `CoreMLProgram`, and `CoreMLPipeline`, for how to call it.

    Raises:
        PackageError: when the path is no readable package, or its program has ops that the runtime has not.
        ValueError: for an unknown precision.

    Example:
        >>> module = load("classifier.mlpackage")
        >>> module(image=torch.rand(8, 3, 224, 224) * 255)["probabilities"].shape
        torch.Size([8, 10])
    """
    if precision not in _PRECISIONS:
        raise ValueError(f"precision={precision!r} is unknown; valid: {', '.join(_PRECISIONS)}.")
    contents = read_package(path)
    _check_ops(contents)
    # Constants outlive this call: made as inference tensors they could take no part in autograd later.
    with torch.inference_mode(False):
        module = _load_model(contents.specification, contents, precision).eval()
        return module if device is None else module.to(device)


def _check_ops(contents: PackageContents) -> None:
    missing = Counter(
        operation.type
        for program in programs_of(contents.specification)
        for operation in operations_of(program)
        if operation.type != "const" and find(_READER_NAMES.get(operation.type, operation.type)) is None
    )
    if missing:
        listed = ", ".join(f"{op_type!r} ({count} times)" for op_type, count in sorted(missing.items()))
        raise PackageError(
            f"{contents.path} uses MIL ops that the runtime does not compute: {listed}. "
            f"It computes {len(supported_ops())}: see lightning_compress.runtime.supported_ops()."
        )


def _load_model(specification: Any, contents: PackageContents, precision: Precision) -> CoreMLModule:
    kind = specification.WhichOneof("Type")
    if kind == "mlProgram":
        return _load_program(specification, contents, precision)
    stages: list[CoreMLProgram | SuppressionStage] = []
    for position, model in enumerate(models_of(specification)):
        if model.WhichOneof("Type") == "mlProgram":
            stages.append(_load_program(model, contents, precision))
        elif model.WhichOneof("Type") == "nonMaximumSuppression":
            stages.append(SuppressionStage(model))
        else:
            raise PackageError(
                f"Model {position} of the pipeline in {contents.path} is of type {model.WhichOneof('Type')!r}. "
                "Valid types: 'mlProgram', 'nonMaximumSuppression'."
            )
    description = specification.description
    inputs = [item.name for item in description.input]
    outputs = [item.name for item in description.output]
    return CoreMLPipeline(stages, inputs, outputs, precision, str(contents.path))


def _load_program(specification: Any, contents: PackageContents, precision: Precision) -> CoreMLProgram:
    try:
        program = load_mil(specification, specification.specificationVersion, str(contents.weights))
    except Exception as error:
        raise PackageError(f"coremltools cannot read the program in {contents.path}: {error}") from error
    function, description = _main_function(program, specification)
    lowered = lower(function)
    inputs = read_inputs(description.input, lowered.input_types)
    return CoreMLProgram(lowered, inputs, precision, str(contents.path))


def _main_function(program: Any, specification: Any) -> tuple[Any, Any]:
    """The function to run and the description of its interface; a package of several has a default one."""
    description = specification.description
    if not description.functions:
        return program.functions["main"], description
    name = description.defaultFunctionName or "main"
    return program.functions[name], next(item for item in description.functions if item.name == name)
