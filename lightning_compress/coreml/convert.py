"""From a finalized torch module to a Core ML model in memory."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import coremltools as ct
import numpy as np
import torch
from torch import Tensor, nn

from lightning_compress.coreml.detector import RAW_OUTPUTS, NonMaximumSuppression, with_suppression
from lightning_compress.coreml.image import ImageInput, Preprocessed
from lightning_compress.coreml.metadata_buffers import selected_tensors
from lightning_compress.coreml.passes import conversion_passes
from lightning_compress.coreml.precision import compute_precision as precision_of
from lightning_compress.coreml.quiet import quiet_conversion
from lightning_compress.coreml.structure import (
    ExampleInputs,
    as_tuple,
    by_position,
    first_of_batch,
    input_names,
)
from lightning_compress.coreml.temporary_packages import removed_with
from lightning_compress.coreml.trace import Traced, convertible_copy, trace, without_autocast
from lightning_compress.coreml.workarounds import patched_converter
from lightning_compress.counted import counted
from lightning_compress.errors import CompressionError, ConfigurationError
from lightning_compress.finite import require_finite
from lightning_compress.package.targets import target_name

PRECISIONS = ("float16", "float32")
"""Precisions that a program may compute and store its dense weights in."""


@dataclass(frozen=True)
class Interface:
    """Names and types with which a model meets apps.

    Args:
        image: How the first input is presented as an image; None leaves it an array.
        input_names: Names of the inputs; None takes those of a dictionary of example inputs, or else "image"
            or "input" for one input and the parameters of forward for several.
        output_names: Names of the outputs; None takes the keys of what the module returns, or else "output", or
            "output_0", "output_1" and so on.
        class_labels: Labels by output index, for a classifier, or for a detector with `nms`.
        nms: Non-maximum suppression to put behind a detector.
    """

    image: ImageInput | None = None
    input_names: Sequence[str] | None = None
    output_names: Sequence[str] | None = None
    class_labels: Sequence[str] | None = None
    nms: NonMaximumSuppression | None = None

    @property
    def is_classifier(self) -> bool:
        """Whether the labels are those of a classifier."""
        return self.class_labels is not None and self.nms is None


def convert(
    module: nn.Module,
    example_inputs: ExampleInputs,
    *,
    target: ct.target,
    interface: Interface | None = None,
    compute_precision: str = "float16",
) -> ct.models.MLModel:
    """Convert a copy of `module` to an ML Program.

    Nothing of the caller is touched: the module keeps its device, its mode and its gradients, and random
    numbers go on as if nothing had happened. With an image, a batch of example inputs is cut to its first, as
    Core ML takes one image at a time.

    Args:
        module: A module that coremltools' optimizers have finalized, or an uncompressed one.
        example_inputs: What to call it with; the package takes inputs of these shapes.
        target: Lowest system that the package shall run on.
        interface: Names, image and labels.
        compute_precision: "float16" or "float32"; decoding before `interface.nms` is always in float32.

    Raises:
        TraceError: If the module cannot be traced.
        WeightError: If a weight holds NaN or infinity.
        ConfigurationError: If `interface` does not fit the module.
        CompressionError: If coremltools cannot convert one of the module's operations, or a tensor cannot be
            stored in the way that its metadata say; no tensor that has metadata is stored dense.
    """
    interface = interface or Interface()
    if interface.image is not None:
        example_inputs = first_of_batch(example_inputs)
    inputs = as_tuple(example_inputs)
    names = _input_names(module, example_inputs, interface, len(inputs))
    _require_finite(module)
    copied = convertible_copy(module)
    selected = selected_tensors(copied) if target >= ct.target.iOS16 else {}
    network = by_position(copied, example_inputs)
    if interface.image is not None:
        # Declared first, so that a wrong shape is told as such and not as whatever the network makes of it.
        image_type = interface.image.input_type(names[0], inputs[0].shape)
        if interface.image.in_program:
            network = Preprocessed(network, interface.image).eval()
    with quiet_conversion(), patched_converter(), without_autocast(), _same_random_numbers():
        traced = trace(network, inputs, name=type(module).__name__)
        input_types = [_array_type(name, tensor) for name, tensor in zip(names, inputs, strict=True)]
        if interface.image is not None:
            input_types[0] = image_type
        labels = interface.class_labels or []
        if interface.is_classifier:
            _require_classes(traced, labels)
        output_types = None if interface.is_classifier else _output_types(traced, interface)
        try:
            model = ct.convert(
                traced.module,
                convert_to="mlprogram",
                inputs=input_types,
                outputs=output_types,
                classifier_config=ct.ClassifierConfig(list(labels)) if interface.is_classifier else None,
                minimum_deployment_target=target,
                compute_precision=precision_of(compute_precision, exact_decoding=interface.nms is not None),
                pass_pipeline=conversion_passes(selected.values()),
                # Compiling the model, which macOS would do here, is for whoever runs it.
                skip_model_load=True,
            )
        except CompressionError:
            raise
        except Exception as error:
            raise CompressionError(
                f"coremltools cannot convert {type(module).__name__} for {target_name(target.value)}: {error}"
            ) from error
    removed_with(model)
    return model if interface.nms is None else with_suppression(model, labels, interface.nms)


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Leave numpy's and Python's generators, which coremltools draws from, as they were."""
    states = np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])


def require_identifiers(names: Sequence[str], argument: str) -> None:
    """Raise ConfigurationError if one of `names` cannot name a feature of a package, or two are the same."""
    for name in names:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ConfigurationError(
                f"{argument} holds {name!r}; a feature's name is made of letters, digits and underscores, "
                "and starts with no digit"
            )
    if len(set(names)) != len(names):
        raise ConfigurationError(f"{argument}={list(names)!r} holds a name more than once")


def _require_finite(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        require_finite(name, parameter, "the network cannot be exported")


def _input_names(
    module: nn.Module, example_inputs: ExampleInputs, interface: Interface, count: int
) -> list[str]:
    if interface.input_names is None:
        names = input_names(module, example_inputs)
        names = ["image"] if interface.image is not None and names == ["input"] else names
        require_identifiers(names, "what the example inputs name; give input_names: it")
        return names
    names = list(interface.input_names)
    if len(names) != count:
        raise ConfigurationError(
            f"input_names={names!r} has {counted(len(names), 'name')} for {counted(count, 'example input')}"
        )
    return names


def _output_types(traced: Traced, interface: Interface) -> list[ct.TensorType]:
    if interface.nms is None:
        return [ct.TensorType(name=name) for name in _output_names(traced, interface)]
    if len(traced.outputs) != len(RAW_OUTPUTS):
        raise ConfigurationError(
            f"the module to export with nms returns {counted(len(traced.outputs), 'tensor')}; Core ML's non-maximum "
            "suppression takes confidences and coordinates"
        )
    return [ct.TensorType(name=name, dtype=np.float32) for name in RAW_OUTPUTS]


def _output_names(traced: Traced, interface: Interface) -> list[str]:
    count = len(traced.outputs)
    if interface.output_names is None and traced.output_names is not None:
        require_identifiers(traced.output_names, "what the module returns; give output_names: it")
        return list(traced.output_names)
    if interface.output_names is None:
        return ["output"] if count == 1 else [f"output_{index}" for index in range(count)]
    names = list(interface.output_names)
    if len(names) != count:
        raise ConfigurationError(
            f"output_names={names!r} has {counted(len(names), 'name')}; the module returns {counted(count, 'tensor')}"
        )
    return names


def _require_classes(traced: Traced, labels: Sequence[str]) -> None:
    shapes = [tuple(output.shape) for output in traced.outputs]
    if len(shapes) != 1:
        raise ConfigurationError(
            f"class_labels need a module with one output, and this one returns {len(shapes)}; "
            "pick the probabilities with `wrapper`"
        )
    if traced.outputs[0].numel() != len(labels):
        raise ConfigurationError(
            f"class_labels has {counted(len(labels), 'label')} for an output of shape {shapes[0]}; "
            "each class needs one, and the example input a batch of one"
        )


def _array_type(name: str, tensor: Tensor) -> ct.TensorType:
    dtype = np.float32 if tensor.is_floating_point() else np.int32
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise ConfigurationError(f"input {name!r} is {tensor.dtype}; a package takes floats and integers")
    return ct.TensorType(name=name, shape=tuple(tensor.shape), dtype=dtype)
