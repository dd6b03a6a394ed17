"""Compresses the weights of a package that is there, without data and without training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coremltools as ct

from lightning_compress.arguments import require_path, require_type, require_whole
from lightning_compress.coreml.compressed_constants import write_constant
from lightning_compress.coreml.post_training.constants import (
    dense_constants,
    dense_weight,
    reason_to_leave,
)
from lightning_compress.coreml.post_training.form import PostTrainingForm
from lightning_compress.coreml.post_training.tensors import DenseWeight
from lightning_compress.coreml.programs import inside, opset_of, rename, replace_variable
from lightning_compress.coreml.quiet import quiet_conversion
from lightning_compress.coreml.rewriting import (
    LOWEST_SPECIFICATION,
    WEIGHT_THRESHOLD,
    model_of_program,
    raised_to,
)
from lightning_compress.coreml.workarounds import names_of_their_own
from lightning_compress.errors import ConfigurationError, PackageError
from lightning_compress.package.inspection import weight_names
from lightning_compress.package.layer_metadata import LAYERS, LayerMetadata, read_layer_metadata
from lightning_compress.package.opening import Package, open_package
from lightning_compress.package.versions import read_one_version
from lightning_compress.package.weights import iterate_weights


@dataclass(frozen=True)
class CompressedPackage:
    """A package compressed after training, in memory.

    Attributes:
        form: What was asked for.
        model: The model; write it with `save_package`.
        compressed: Names of the constants that are stored in that form.
        dense: Why each other floating-point weight of two or more dimensions stays as it was, by its name.
    """

    form: PostTrainingForm
    model: ct.models.MLModel
    compressed: tuple[str, ...]
    dense: Mapping[str, str]


def compress_package(
    package: str | Path | ct.models.MLModel,
    forms: Sequence[PostTrainingForm],
    *,
    weight_threshold: int = WEIGHT_THRESHOLD,
    minimum_deployment_target: str | None = None,
) -> list[CompressedPackage]:
    """Compress the dense weights of a package, in each of several forms.

    Everything else stays: operations, functions, labels, descriptions, metadata, the other parts of a pipeline, and
    weights that are compressed already. A package for iOS15 comes out for iOS16, where compression begins.

    Args:
        package: Path of an `.mlpackage` folder, or a converted model.
        forms: How to store the weights.
        weight_threshold: Weights with no more elements stay dense.
        minimum_deployment_target: Raise the package's target, for forms that an earlier system cannot hold.

    Returns:
        One package a form, in the order given.

    Raises:
        ConfigurationError: If `forms` is empty, or an argument is of another type.
        TargetError: If the package's target cannot carry a form; the message names the lowest that can.
        WeightError: If a weight holds NaN or infinity.
        PackageError: If the package cannot be read, or holds no dense weight that large.

    Example:
        >>> forms = [PostTrainingForm(palettize=4), PostTrainingForm(quantize="int8")]
        >>> packages = compress_package("classifier.mlpackage", forms, weight_threshold=16)
    """
    if not isinstance(package, ct.models.MLModel):
        require_path("package", package, "net.mlpackage")
    require_type("forms", forms, Sequence, "a list such as [PostTrainingForm(palettize=4)]")
    for form in forms:
        require_type("a form in forms", form, PostTrainingForm, "PostTrainingForm(palettize=4)")
    require_whole("weight_threshold", weight_threshold, 0)
    require_type(
        "minimum_deployment_target", minimum_deployment_target, str, "a target such as 'iOS18'", optional=True
    )
    if not forms:
        raise ConfigurationError("forms is empty; give at least one, such as PostTrainingForm(palettize=4)")
    return read_one_version(
        package, lambda: _in_forms(package, forms, weight_threshold, minimum_deployment_target)
    )


def _in_forms(
    package: str | Path | ct.models.MLModel,
    forms: Sequence[PostTrainingForm],
    weight_threshold: int,
    minimum_deployment_target: str | None,
) -> list[CompressedPackage]:
    opened = open_package(package)
    versions = [raised_to(opened, form.capabilities, minimum_deployment_target) for form in forms]
    weights: list[DenseWeight] = []
    results = []
    for form, version in zip(forms, versions, strict=True):
        with quiet_conversion(), names_of_their_own():
            # Read anew for each form: replacing a weight changes the program, and reading costs little.
            program = opened.program(max(version, LOWEST_SPECIFICATION))
            opset = opset_of(program)
            found = [
                (constant, reason_to_leave(constant, weight_threshold, opset))
                for constant in dense_constants(program)
            ]
            chosen = [constant for constant, reason in found if reason is None]
            dense = {_name(constant): reason for constant, reason in found if reason is not None}
            if not chosen:
                raise _nothing(opened, program, weight_threshold)
            weights = weights or [dense_weight(constant) for constant in chosen]
            results.append(_compressed(opened, program, form, list(zip(chosen, weights, strict=True)), dense))
    return results


def require_compressible(
    package: str | Path | ct.models.MLModel,
    forms: Sequence[PostTrainingForm],
    *,
    weight_threshold: int = WEIGHT_THRESHOLD,
) -> None:
    """Find out quickly whether `compress_package` will succeed, but for weights that are not finite.

    Args:
        package: Path of an `.mlpackage` folder, or a converted model.
        forms: How the weights are to be stored.
        weight_threshold: Weights with no more elements stay dense.

    Raises:
        TargetError: If the package's target cannot carry a form.
        PackageError: If the package cannot be read, or holds no dense weight that large.
    """
    opened = open_package(package)
    version = max([LOWEST_SPECIFICATION, *(raised_to(opened, form.capabilities, None) for form in forms)])
    with quiet_conversion():
        program = opened.program(version)
        opset = opset_of(program)
        if all(reason_to_leave(constant, weight_threshold, opset) for constant in dense_constants(program)):
            raise _nothing(opened, program, weight_threshold)


def palettize_package(
    package: str | Path | ct.models.MLModel,
    n_bits: Sequence[int],
    *,
    weight_threshold: int = WEIGHT_THRESHOLD,
) -> dict[int, ct.models.MLModel]:
    """Palettize the weights of a package by k-means, one palette a tensor, at each of several widths.

    What coremltools' `palettize_weights(mode="kmeans")` would palettize is palettized, as the same operations.

    Args:
        package: Path of an `.mlpackage` folder, or a converted model.
        n_bits: Widths of a palette index, of 1, 2, 3, 4, 6 and 8.
        weight_threshold: Weights with no more elements stay dense.

    Returns:
        A model for each width, in the order given; write one with `save_package`.

    Raises:
        CompressionError: As `compress_package` raises it.
    """
    require_type("n_bits", n_bits, Sequence, "a list of widths, such as [6, 2]")
    for bits in n_bits:
        require_type("a width in n_bits", bits, int, "an int")
    if not n_bits:
        raise ConfigurationError("n_bits is empty; give the widths to palettize at, such as [6, 2]")
    widths = list(dict.fromkeys(n_bits))
    forms = [PostTrainingForm(palettize=bits) for bits in widths]
    packages = compress_package(package, forms, weight_threshold=weight_threshold)
    return dict(zip(widths, (compressed.model for compressed in packages), strict=True))


def _compressed(
    opened: Package,
    program: Any,
    form: PostTrainingForm,
    members: Sequence[tuple[Any, DenseWeight]],
    dense: dict[str, str],
) -> CompressedPackage:
    done = []
    for constant, weight in members:
        name, variable = _name(constant), constant.outputs[0]
        reason = weight.reason_against(form)
        if reason is not None:
            dense[name] = reason
            continue
        block = constant.enclosing_block
        rename(variable, f"{name}_dense")
        with inside(block):
            stored = write_constant(
                weight.stored(form),
                name,
                opset_of(program),
                dtype=weight.values.dtype,
                before=constant,
            )
            replace_variable(block, constant, variable, stored)
            block.remove_ops([constant])
        done.append(name)
    model = model_of_program(opened, program)
    _write_down(model, program, dense)
    return CompressedPackage(form, model, tuple(done), dense)


def _name(constant: Any) -> str:
    """The name of a constant's value, which is not always that of the operation."""
    return str(constant.outputs[0].name)


def _write_down(model: ct.models.MLModel, program: Any, dense: Mapping[str, str]) -> None:
    """Say in the metadata why weights stay dense."""
    known = read_layer_metadata(model.user_defined_metadata)
    weights = list(iterate_weights(program))
    reasons = {
        name: dense[weight.constant]
        for name, weight in zip(weight_names(weights, known), weights, strict=True)
        if weight.constant in dense
    }
    model.user_defined_metadata[LAYERS] = LayerMetadata(known.names, reasons).as_text()


def _nothing(opened: Package, program: Any, weight_threshold: int) -> PackageError:
    done = Counter(
        weight.storage.technique for weight in iterate_weights(program) if weight.storage.techniques
    )
    already = ", ".join(f"{count} {technique}" for technique, count in done.items())
    return PackageError(
        f"{str(opened.path)!r} holds no dense weight of two or more dimensions with more than weight_threshold="
        f"{weight_threshold:,} elements" + (f"; compressed already are {already}" if already else "")
    )
