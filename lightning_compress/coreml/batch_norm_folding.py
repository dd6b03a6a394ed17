"""A pass that folds batch norms into the compressed weights of the layers before them.

coremltools folds them into dense weights (`common::fuse_conv_batchnorm`) and leaves them behind compressed ones,
where each costs a pass over the activations. Integers stay as they are here: the scale of each output channel
takes the factor, and a negative factor turns the integers' sign.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from coremltools.converters.mil.mil import Builder
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass

from lightning_compress.coreml.compressed_constants import read_constant, write_constant
from lightning_compress.coreml.programs import (
    blocks_of,
    consumers,
    inside,
    numpy_type,
    opset_of,
    rename,
    replace_variable,
)
from lightning_compress.errors import CompressionError

Array = npt.NDArray[Any]

_LAYERS = ("conv", "conv_transpose", "linear")


@dataclass(frozen=True)
class _Match:
    """A layer with compressed weights, its batch norm, and the last of the operations that become one."""

    layer: Any
    norm: Any
    last: Any


class FoldBatchNorm(AbstractGraphPass):  # type: ignore[misc]
    """Fold each `batch_norm` into the compressed convolution or linear layer whose only consumer it is.

    Left alone: palettes without a scale for each output channel, and convolutions with outputs used elsewhere.
    """

    def apply(self, prog: Any) -> None:
        """Change a program in place."""
        for block in blocks_of(prog):
            for match in list(_matches(block)):
                with inside(block):
                    _fold(match, block, opset_of(prog))


@dataclass(frozen=True)
class Affine:
    """What a batch norm computes of each channel.

    Attributes:
        factors: What channels are multiplied by, (C,), float64.
        shifts: What is added to them then.
        epsilon: What is added to variances in it.
    """

    factors: Array
    shifts: Array
    epsilon: float


def affine_of(norm: Any) -> Affine | None:
    """What an operation `batch_norm` computes; None where it is not constant."""
    if norm.mean.val is None or norm.variance.val is None:
        return None
    mean, variance = (np.asarray(part.val, np.float64) for part in (norm.mean, norm.variance))
    gamma = np.ones_like(mean) if norm.gamma is None else np.asarray(norm.gamma.val, np.float64)
    beta = np.zeros_like(mean) if norm.beta is None else np.asarray(norm.beta.val, np.float64)
    epsilon = 1e-5 if norm.epsilon is None else float(norm.epsilon.val)
    factors = gamma / np.sqrt(variance + epsilon)
    return Affine(factors, beta - factors * mean, epsilon)


def _matches(block: Any) -> Iterator[_Match]:
    for operation in list(block.operations):
        if operation.op_type not in _LAYERS or operation.weight.op is None:
            continue
        if not operation.weight.op.op_type.startswith("constexpr_"):
            continue
        if operation.bias is not None and operation.bias.val is None:
            continue
        following = _only_consumer(operation, block)
        if following is not None and following.op_type == "batch_norm":
            yield _Match(operation, following, following)
        elif following is not None and following.op_type == "expand_dims":
            # Behind a linear layer coremltools makes the result an image of one pixel, and takes that back.
            norm = _only_consumer(following, block)
            last = None if norm is None or norm.op_type != "batch_norm" else _only_consumer(norm, block)
            if (
                last is not None
                and last.op_type == "squeeze"
                and last.outputs[0].shape == operation.outputs[0].shape
            ):
                yield _Match(operation, norm, last)


def _only_consumer(operation: Any, block: Any) -> Any:
    output = operation.outputs[0]
    following = consumers(output)
    return following[0] if len(following) == 1 and output not in block.outputs else None


def _fold(match: _Match, block: Any, opset: Any) -> None:
    layer, norm = match.layer, match.norm
    weight = read_constant(layer.weight)
    affine = affine_of(norm)
    if weight is None or affine is None:
        return
    blocks = _by_output_channel(layer, affine.factors, weight.shape)
    if blocks is None:
        return
    folded = weight.multiplied(blocks.astype(np.float32))
    if folded is None:
        return
    bias = 0.0 if layer.bias is None else np.asarray(layer.bias.val, np.float64)
    inputs = {
        name: value
        for name, value in layer.inputs.items()
        if value is not None and name not in ("weight", "bias")
    }
    try:
        constant = write_constant(
            folded, f"{layer.weight.name}_folded", opset, dtype=numpy_type(layer.weight), before=layer
        )
    except CompressionError:
        # An operation set without blocks along two axes.
        return
    output = getattr(Builder, layer.op_type)(
        **inputs,
        weight=constant,
        bias=(affine.factors * bias + affine.shifts).astype(numpy_type(layer.weight)),
        name=match.last.outputs[0].name,
        before_op=layer,
    )
    replace_variable(block, match.last, match.last.outputs[0], output)
    weight_name = layer.weight.name
    block.remove_ops(list(_chain(match)))
    if not consumers(layer.weight):
        # It takes the place of the weight, which nothing uses any more, and its name in reports.
        rename(layer.weight, f"{weight_name}_unfolded")
        rename(constant, weight_name)


def _chain(match: _Match) -> Iterator[Any]:
    operation = match.last
    while operation is not match.layer:
        yield operation
        operation = operation.x.op
    yield match.layer


def _by_output_channel(layer: Any, factors: Array, shape: tuple[int, ...]) -> Array | None:
    """The factors as blocks of the layer's weight."""
    rest = (1,) * (len(shape) - 2)
    if layer.op_type != "conv_transpose":
        return factors.reshape(len(factors), 1, *rest) if shape[0] == len(factors) else None
    groups = 1 if layer.groups is None else int(layer.groups.val)
    # Input channels first; those of each group lead to output channels of its own.
    return factors.reshape(groups, -1, *rest) if groups * shape[1] == len(factors) else None
