"""From the path of a package to a module."""

from __future__ import annotations

import os
from typing import Any, TypeAlias

import torch

import lightning_compress.runtime.ops  # noqa: F401 - fills the table of ops
from lightning_compress.arguments import (
    refusal,
    require_one_of,
    require_path,
    require_type,
    require_whole,
)
from lightning_compress.errors import PackageError, did_you_mean
from lightning_compress.package.files import shown
from lightning_compress.package.program import count_operations, read_program, reader_name
from lightning_compress.package.reader import (
    PackageContents,
    ml_programs_of,
    models_of,
    read_package,
)
from lightning_compress.package.structure import PIPELINE_FUNCTION, interfaces
from lightning_compress.package.versions import read_one_version
from lightning_compress.runtime.interface import read_inputs
from lightning_compress.runtime.loops import MAX_ITERATIONS
from lightning_compress.runtime.lowering import lower
from lightning_compress.runtime.module import CoreMLProgram, Precision
from lightning_compress.runtime.pipeline import CoreMLPipeline, SuppressionStage
from lightning_compress.runtime.registry import find, supported_ops

_PRECISIONS = ("float32", "float16")

CoreMLModule: TypeAlias = CoreMLProgram | CoreMLPipeline


def load(
    path: str | os.PathLike[str],
    *,
    function: str | None = None,
    precision: Precision = "float32",
    device: torch.device | str | None = None,
    max_iterations: int = MAX_ITERATIONS,
) -> CoreMLModule:
    """Load a Core ML package as a torch module that computes what its program says.

    Reading a package executes nothing that is in it.

    Args:
        path: a `.mlpackage` folder that holds an ML Program, or a pipeline of programs and non-maximum suppression.
        function: which function of a package of several; its default one if None. `package.inspect` names them.
        precision: "float32" computes in float32 on the stored weights, the reference to compare a package with;
            "float16" computes in the types of the program, which are float16 unless it was converted otherwise.
            Without fast float16 arithmetic, on a CPU, values are held in float32 and each result is rounded.
        device: where to put the constants; the CPU by default. `module.to` moves them later.
        max_iterations: how many iterations all loops of one call may take together. A program may hold a loop that
            never ends; a call of one that takes more ends with a PackageError.

    Returns:
        A module in evaluation mode; see `CoreMLProgram`, and `CoreMLPipeline`, for how to call it.

    Raises:
        PackageError: when the path is no readable package, its program has ops that the runtime has not, or there is
            no such function.
        ConfigurationError: for an unknown precision or device, or a `max_iterations` below 1.

    Example:
        >>> module = load("classifier.mlpackage")
        >>> module(image=torch.rand(8, 3, 224, 224) * 255)["probabilities"].shape
        torch.Size([8, 10])
    """
    require_path("path", path, "net.mlpackage")
    require_type("function", function, str, "the name of a function", optional=True)
    require_one_of("precision", precision, _PRECISIONS)
    require_whole("max_iterations", max_iterations, 1)
    if device is not None:
        _require_device(device)
    return read_one_version(
        path, lambda: _load(read_package(path), function, precision, device, max_iterations)
    )


def _load(
    contents: PackageContents,
    function: str | None,
    precision: Precision,
    device: torch.device | str | None,
    max_iterations: int,
) -> CoreMLModule:
    functions = _chosen_functions(contents, function)
    _check_ops(contents, functions)
    # Constants outlive this call: made as inference tensors they could take no part in autograd later.
    with torch.inference_mode(False):
        module = _load_model(contents, functions, precision).eval()
        for part in module.modules():
            if isinstance(part, CoreMLProgram):
                part.max_iterations = max_iterations
        return module if device is None else module.to(device)


def _require_device(device: torch.device | str) -> None:
    valid = "the name of a device that this machine has, such as 'cpu' or 'cuda:0'"
    try:
        torch.empty(0, device=device)
    except Exception as error:
        raise refusal("device", device, valid) from error


def _chosen_functions(contents: PackageContents, function: str | None) -> dict[int, str]:
    """The function to load of each ML Program of a package, by the position of the program."""
    programs = list(ml_programs_of(contents.specification))
    chosen = {position: next(iter(interfaces(program))) for position, program in enumerate(programs)}
    if function is None:
        return chosen
    pipeline = bool(models_of(contents.specification))
    names = [PIPELINE_FUNCTION] if pipeline else list(interfaces(programs[0]))
    if function not in names:
        raise PackageError(
            f"{shown(contents.path)} has no function {function!r}{did_you_mean(function, names)} Its functions: "
            f"{', '.join(map(repr, names))}, the first by default."
        )
    return chosen if pipeline else {0: function}


def _check_ops(contents: PackageContents, functions: dict[int, str]) -> None:
    counts = [
        count_operations(model, {functions[position]})
        for position, model in enumerate(ml_programs_of(contents.specification))
    ]
    missing = {
        name: sum(count[name] for count in counts)
        for name in sorted({name for count in counts for name in count})
        if name != "const" and find(reader_name(name)) is None
    }
    if missing:
        listed = ", ".join(f"{op_type!r} ({count} times)" for op_type, count in missing.items())
        raise PackageError(
            f"{shown(contents.path)} uses MIL ops that the runtime does not compute: {listed}. "
            f"It computes {len(supported_ops())}: see lightning_compress.runtime.supported_ops()."
        )


def _load_model(contents: PackageContents, functions: dict[int, str], precision: Precision) -> CoreMLModule:
    specification = contents.specification
    if specification.WhichOneof("Type") == "mlProgram":
        return _load_program(specification, functions[0], contents, precision)
    stages: list[CoreMLProgram | SuppressionStage] = []
    programs = 0
    for position, model in enumerate(models_of(specification)):
        kind = model.WhichOneof("Type")
        if kind == "mlProgram":
            stages.append(_load_program(model, functions[programs], contents, precision))
            programs += 1
        elif kind == "nonMaximumSuppression":
            stages.append(SuppressionStage(model, str(contents.path)))
        else:
            raise PackageError(
                f"Model {position} of the pipeline in {shown(contents.path)} is of type {kind!r}. "
                "Valid types: 'mlProgram', 'nonMaximumSuppression'."
            )
    description = specification.description
    inputs = [item.name for item in description.input]
    outputs = [item.name for item in description.output]
    return CoreMLPipeline(stages, inputs, outputs, precision, str(contents.path))


def _load_program(
    specification: Any, name: str, contents: PackageContents, precision: Precision
) -> CoreMLProgram:
    program = read_program(specification, contents.weights, contents.path)
    try:
        lowered = lower(program.functions[name])
    except PackageError as error:
        raise PackageError(f"Function {name!r} of {shown(contents.path)}: {error}") from error
    inputs = read_inputs(interfaces(specification)[name].input, lowered.input_types, shown(contents.path))
    return CoreMLProgram(lowered, inputs, precision, str(contents.path))
