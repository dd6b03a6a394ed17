"""Weights rounded to integers with error feedback (GPTQ, Frantar et al., arXiv 2210.17323)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.data_options import check_data_options, without_inputs
from lightning_compress.methods.error_feedback import Choice, by_activity, factorize, feed_back
from lightning_compress.methods.mechanism.calibrated import CalibratedTechnique, Evidence
from lightning_compress.methods.mechanism.configuration import Keys, Match, Schema, unwrapped
from lightning_compress.methods.mechanism.matrix_form import MatrixForm
from lightning_compress.methods.mechanism.method import Method
from lightning_compress.methods.mechanism.stored import StoredIntegers, StoredTensor
from lightning_compress.methods.mechanism.technique import Stage, Technique
from lightning_compress.methods.mechanism.tensors import TensorReference
from lightning_compress.methods.observers import Groups, IntegerType
from lightning_compress.methods.weight_ranges import check_blocks, check_blocks_of, integer_label, scales_of
from lightning_compress.package.targets import Capability

_DTYPES = ("qint4", "quint4", "qint8", "quint8")
_SCHEMES = ("symmetric", "affine")


@dataclass(frozen=True)
class GPTQOptions:
    """The keys of `LinearQuantization` that say what is stored, and those of the feedback, as coremltools names them.

    Attributes:
        weight_dtype: "int4", "uint4", "int8" or "uint8", with or without coremltools' q before them.
        weight_per_channel: Whether each output channel has a scale of its own.
        block_size: Weights along the input channels that share a scale; None for all of a channel.
        quantization_scheme: "symmetric", zero in the middle; "affine", the whole range used.
        hessian_dampening: Added to the diagonal of the inputs' second moments, as a share of its mean.
        use_activation_order_heuristic: Whether columns that most comes into are decided first.
        bias_correction: Whether the mean of the layer's outputs is kept, by its bias.
    """

    weight_dtype: str = "int4"
    weight_per_channel: bool = True
    block_size: int | None = None
    quantization_scheme: str = "symmetric"
    hessian_dampening: float = 0.01
    use_activation_order_heuristic: bool = True
    bias_correction: bool = False

    @classmethod
    def of(cls, keys: Keys) -> GPTQOptions:
        """The options that keys give, with plain values for enums and torch types."""
        options = cls(**{key: unwrapped(value) for key, value in keys.items()})
        return replace(options, weight_dtype=_dtype_name(options.weight_dtype))


def _dtype_name(name: str) -> str:
    return name if str(name).startswith("q") else f"q{name}"


class GPTQ(Method):
    """Round weights to integers, and let later columns of a layer make good for the errors of earlier ones.

    The columns of a weight are rounded one after the other, those to come moved to where the layer's outputs on data
    change least. Scales are those of least weighted error before. Nothing is trained. Keyword arguments are
    `weight_dtype` ("int4"), `weight_per_channel` (true), `block_size`, `quantization_scheme`, `hessian_dampening`
    (0.01), `use_activation_order_heuristic` (true) and `bias_correction`, beside `module_type_configs` and
    `module_name_configs`.

    Linear layers, convolutions and transposed ones of any group, and attention's projections are compressed so;
    embeddings and recurrent layers stay as they are. Integer inputs of layers can join,
    `LinearQuantization(weight_dtype="float32")`.

    Args:
        configuration: The keys.

    Raises:
        ConfigurationError: An unknown key or an invalid value, with the valid ones.

    Example:
        >>> prepared = PreparedModule(network, [GPTQ(weight_dtype="int4", block_size=32)])
        >>> calibrate(prepared, batches=batches)
        >>> finalized = prepared.finalize()
    """

    schema = Schema("GPTQ", GPTQOptions)

    @property
    def is_trained(self) -> bool:
        """Never."""
        return False

    def check_values(self, keys: Keys, source: str) -> None:
        """Refuse types, schemes and blocks that cannot be."""
        name = unwrapped(keys.get("weight_dtype", GPTQOptions.weight_dtype))
        if _dtype_name(name) not in _DTYPES:
            raise ConfigurationError(
                f"weight_dtype of {source} is {keys['weight_dtype']!r}; valid are "
                f"{[dtype[1:] for dtype in _DTYPES]}"
            )
        scheme = unwrapped(keys.get("quantization_scheme", "symmetric"))
        if scheme not in _SCHEMES:
            raise ConfigurationError(
                f"quantization_scheme of {source} is {keys['quantization_scheme']!r}; valid are {list(_SCHEMES)}"
            )
        check_blocks(keys, source)
        check_data_options(keys, source)

    def reason_to_leave(self, reference: TensorReference, match: Match) -> str | None:
        """Weights that nothing is multiplied by."""
        return without_inputs(reference, self.schema.technique)

    def check_tensor(self, reference: TensorReference, keys: Keys) -> None:
        """Refuse blocks that do not divide a weight."""
        check_blocks_of(reference, keys, self.schema.technique)

    def technique(self, reference: TensorReference, keys: Keys) -> GPTQIntegers:
        """Integers, with a scale for the weight, each output channel, or each block."""
        return GPTQIntegers(reference, GPTQOptions.of(keys))

    def capabilities(self, reference: TensorReference, keys: Keys) -> Collection[Capability]:
        """Integers by their bits, and blocks."""
        options = GPTQOptions.of(keys)
        four_bits = options.weight_dtype.endswith("int4")
        bits = Capability.INT4_WEIGHTS if four_bits else Capability.INT8_WEIGHTS
        return (bits,) if options.block_size is None else (bits, Capability.BLOCKWISE_WEIGHTS)


class GPTQIntegers(CalibratedTechnique):
    """Integers times a scale, for the whole of a weight, each channel or each block.

    Args:
        reference: The weight.
        options: Its keys.

    Attributes:
        integers: Buffer of the weight's shape.
        scale: Buffer of the weight's rank, one a group along each axis.
        zero_point: Buffer of the integers that stand for zero, of the shape of `scale`.
    """

    stage = Stage.VALUES
    precise = frozenset({"scale"})
    needs_inputs = True

    integers: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(self, reference: TensorReference, options: GPTQOptions) -> None:
        super().__init__(reference.name, corrects_bias=options.bias_correction)
        self._options = options
        self._type = IntegerType.of(options.weight_dtype)
        layout = reference.layout
        self._groups = Groups()
        if options.weight_per_channel:
            self._groups = Groups(layout.output_axis, layout.input_axis, options.block_size)
        self._keeps_zeros = False
        dtype = torch.int8 if self._type.signed else torch.uint8
        self.register_buffer("integers", torch.zeros(reference.shape, dtype=dtype))
        shape = self._groups.parameter_shape(reference.shape)
        self.register_buffer("scale", torch.ones(shape))
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int32))

    @property
    def label(self) -> str:
        """The bits, and what shares a scale."""
        return integer_label(self._type, self._groups)

    def join(self, before: Sequence[Technique], after: Sequence[Technique]) -> None:
        """Zeros that another technique decides stay zeros."""
        self._keeps_zeros = any(technique.stage == Stage.ZEROS for technique in before)

    def find(self, tensor: Tensor, evidence: Evidence) -> None:
        """Find scales, and round with feedback."""
        form, inputs, weight = evidence.form, evidence.inputs, tensor.float()
        second = None if form is None or inputs is None else inputs.second
        counts = None
        if second is not None:
            assert form is not None
            diagonal = second.diagonal(dim1=-2, dim2=-1)
            counts = form.weight(diagonal.repeat_interleave(form.rows // len(diagonal), dim=0))
        scale, zero_point = scales_of(
            weight,
            counts,
            self._type,
            self._groups,
            symmetric=self._options.quantization_scheme == "symmetric",
        )
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)
        steps = self._groups.broadcast(scale, weight)
        middle = self._groups.broadcast(zero_point, weight)
        decided = weight
        if second is not None:
            assert form is not None
            order = by_activity(second) if self._options.use_activation_order_heuristic else None
            dampening = self._options.hessian_dampening
            factor = factorize(second, dampening, order)
            choice = _Integers(self._type, form, steps, middle, weight if self._keeps_zeros else None, order)
            decided = form.weight(feed_back(form.matrix(weight), factor, choice, order))
        numbers = torch.round(decided / steps) + middle
        self.integers.copy_(numbers.clamp(self._type.lowest, self._type.highest))

    def found(self, tensor: Tensor) -> Tensor:
        """What the integers stand for."""
        scale = self._groups.broadcast(self.scale, tensor)
        middle = self._groups.broadcast(self.zero_point, tensor)
        return ((self.integers.to(torch.int32) - middle) * scale).to(tensor.dtype)

    def store(self, stored: StoredTensor) -> StoredTensor:
        """As integers, with a scale and a zero point for each group."""
        zero_point = self.zero_point if bool(self.zero_point.any()) else None
        integers = StoredIntegers(self._type.n_bits, self.scale, zero_point)
        return StoredTensor(sparse=stored.sparse, integers=integers)

    def report(self, tensor: Tensor, compressed: Tensor) -> dict[str, Any]:
        """Scale, zero point, and the share of the weight that is stored as the smallest or largest integer."""
        at_ends = (self.integers <= self._type.lowest) | (self.integers >= self._type.highest)
        return {
            "scale": self.scale,
            "zero_point": self.zero_point,
            "at the ends": float(at_ends.float().mean()),
        }


class _Integers(Choice):
    """The nearest integer of each row, times its scale."""

    def __init__(
        self,
        integers: IntegerType,
        form: MatrixForm,
        steps: Tensor,
        middle: Tensor,
        zeros_of: Tensor | None,
        order: Tensor | None,
    ) -> None:
        self._lowest, self._highest = integers.lowest, integers.highest
        columns = slice(None) if order is None else order
        self._steps = form.matrix(steps).t()[columns]
        self._middle = form.matrix(middle).t()[columns]
        self._zeros = None if zeros_of is None else form.matrix(zeros_of == 0).t()[columns]

    def nearest(self, wanted: Tensor, place: int) -> Tensor:
        """The integers nearest to a column."""
        rows, step, middle = wanted.reshape(-1), self._steps[place], self._middle[place]
        numbers = (torch.round(rows / step) + middle).clamp_(self._lowest, self._highest)
        chosen = (numbers - middle) * step
        if self._zeros is not None:
            chosen = torch.where(self._zeros[place], 0.0, chosen)
        return chosen.reshape(wanted.shape)
