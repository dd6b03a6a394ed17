"""Quantization-aware training (Jacob et al., arXiv 1712.05877) with the numbers of coremltools' `LinearQuantizer`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.activations import Activation
from lightning_compress.methods.attention import OPERANDS, round_within
from lightning_compress.methods.batch_norm_freezing import BatchNormFreezing
from lightning_compress.methods.fake_quantizer import Rounding
from lightning_compress.methods.integers import Integers
from lightning_compress.methods.mechanism.configuration import (
    Enclosing,
    Keys,
    Match,
    Schema,
    unwrapped,
)
from lightning_compress.methods.mechanism.inputs import input_techniques
from lightning_compress.methods.mechanism.layers import KIND_NAMES, LayerKind, layer_kind
from lightning_compress.methods.mechanism.method import Companion, Method
from lightning_compress.methods.mechanism.operations import is_operation
from lightning_compress.methods.mechanism.schedule import Point
from lightning_compress.methods.mechanism.technique import Stepped
from lightning_compress.methods.mechanism.tensors import TensorReference, enclosing_modules
from lightning_compress.methods.milestones import Milestones, check_milestones
from lightning_compress.methods.observers import Groups, IntegerType, Observer
from lightning_compress.methods.quantization_companion import QuantizationCompanion
from lightning_compress.methods.weight_ranges import check_blocks, check_blocks_of
from lightning_compress.package.targets import Capability


@dataclass(frozen=True)
class QuantizationOptions:
    """The keys of coremltools' `ModuleLinearQuantizerConfig`, with its defaults, and two of our own.

    Attributes:
        algorithm: "vanilla", scales by observed ranges; "learnable", learned after observing.
        weight_dtype: "qint8", "quint8", "qint4", "quint4"; "float32" leaves weights as they are.
        weight_observer: "moving_average_min_max", "min_max", "ema_min_max".
        weight_per_channel: Whether each output channel has a scale of its own.
        activation_dtype: "quint8"; "float32" leaves inputs as they are.
        activation_observer: As `weight_observer`.
        quantization_scheme: "symmetric", zero in the middle; "affine", the whole range used.
        milestones: When observing and rounding begin, observing ends, and batch norm freezes.
        block_size: Weights along the input channels that share a scale; None for all of a channel.
        attention_products: Whether the operands of attention's products are rounded too.
    """

    algorithm: str = "vanilla"
    weight_dtype: str = "qint8"
    weight_observer: str = "moving_average_min_max"
    weight_per_channel: bool = True
    activation_dtype: str = "quint8"
    activation_observer: str = "moving_average_min_max"
    quantization_scheme: str = "symmetric"
    milestones: Sequence[Point] | None = None
    block_size: int | None = None
    attention_products: bool = False

    @classmethod
    def of(cls, keys: Keys) -> QuantizationOptions:
        """The options that keys give, with plain values for enums and torch types."""
        return cls(**{key: unwrapped(value) for key, value in keys.items()})


_OBSERVERS = tuple(observer.value for observer in Observer)

_VALUES: dict[str, tuple[Any, ...]] = {
    "algorithm": ("vanilla", "learnable"),
    "weight_dtype": ("qint8", "quint8", "qint4", "quint4", "float32"),
    "activation_dtype": ("quint8", "float32"),
    "quantization_scheme": ("symmetric", "affine"),
    "weight_observer": _OBSERVERS,
    "activation_observer": _OBSERVERS,
    "weight_per_channel": (True, False),
    "attention_products": (True, False),
}


class LinearQuantization(Method):
    """Train with weights, or weights and inputs of layers, rounded to integers.

    Every key of coremltools' `ModuleLinearQuantizerConfig` is a keyword argument: `algorithm` (`vanilla`, `learnable`),
    `weight_dtype` (`qint8`, `qint4`, ...; `float32` quantizes inputs only), `activation_dtype` (`quint8`; `float32`
    quantizes weights only), `weight_per_channel`, `quantization_scheme`, the observers, and `milestones`: four points
    at which observing and fake quantization begin, observing stops and batch norm freezes, each an `int` of optimizer
    steps, a `float` fraction of the fit, or -1 for never. Beside them stand `block_size` (weights along the input
    channels that share a scale; needs iOS18), `attention_products` (the operands of both products are rounded too, in
    `torch.nn.MultiheadAttention` and in modules that a type or a name selects and that call
    `scaled_dot_product_attention`), `module_type_configs` and `module_name_configs` (regular expressions here too,
    where coremltools takes exact names).

    Quantized are the weights of layers and what comes into these layers. Functions, and modules without weights, may be
    excluded by type as in coremltools, which changes nothing. A symmetric input has the zero point 0 where nothing
    negative was observed, and 128 elsewhere; coremltools looks at the activation function before it. In embeddings,
    `weight_dtype` and `weight_per_channel` hold as everywhere; coremltools 9.0 takes 8 bits and a scale a row whatever
    is given.

    Nothing is traced: `non_traceable_module_names` and `preserved_attributes` are accepted, for coremltools'
    configurations hold them, and mean nothing.

    Raises:
        ConfigurationError: An unknown key or an invalid value, with the valid ones.

    Example:
        >>> method = LinearQuantization(weight_dtype="qint8", milestones=[0, 0.1, 0.6, 0.7])
    """

    schema = Schema(
        technique="LinearQuantization",
        options=QuantizationOptions,
        extra_keys=("non_traceable_module_names", "preserved_attributes"),
        other_types=True,
    )

    def __init__(self, **configuration: Any) -> None:
        super().__init__(**configuration)
        for name, section in self.configuration.by_type.items():
            if section.entries and _holds_no_weight(name):
                raise ConfigurationError(
                    f"module_type_configs of LinearQuantization has keys for {name!r}, which holds no weight: the "
                    f"inputs of layers with weights are quantized; valid is None, or keys for {', '.join(KIND_NAMES)}"
                )
        self.milestones: Sequence[Point] | None = self._shared("milestones")
        self._algorithm = self._shared("algorithm") or "vanilla"
        self._scheme = self._shared("quantization_scheme") or "symmetric"

    def _shared(self, key: str) -> Any:
        """The value of a key that is one for the whole model."""
        given = [
            unwrapped(keys[key]) for keys, _ in self.configuration.entries() if keys.get(key) is not None
        ]
        if any(value != given[0] for value in given):
            raise ConfigurationError(
                f"{key} of LinearQuantization differs between modules: {given}; valid is one value for all"
            )
        return given[0] if given else None

    def check_values(self, keys: Keys, source: str) -> None:
        """Refuse data types, algorithms, blocks and milestones that cannot be."""
        for key, valid in _VALUES.items():
            if key in keys and unwrapped(keys[key]) not in valid:
                raise ConfigurationError(f"{key} of {source} is {keys[key]!r}; valid are {list(valid)}")
        if keys.get("milestones") is not None:
            check_milestones(keys["milestones"], source)
        if keys.get("attention_products") and unwrapped(keys.get("activation_dtype", "quint8")) == "float32":
            raise ConfigurationError(
                f"attention_products of {source} is True with activation_dtype float32; valid is quint8"
            )
        check_blocks(keys, source)

    @property
    def trains_in_half_precision(self) -> bool:
        """Never: steps between integers are smaller than those between weights in half precision."""
        return False

    @property
    def freezes_batch_norm(self) -> bool:
        """By the fourth milestone."""
        return self.milestones is not None and self.milestones[3] != -1

    def reason_to_leave(self, reference: TensorReference, match: Match) -> str | None:
        """Weights may stay as they are while inputs are quantized."""
        assert match.keys is not None
        if QuantizationOptions.of(match.keys).weight_dtype == "float32":
            return "weights stay float: weight_dtype is float32"
        return None

    def check_tensor(self, reference: TensorReference, keys: Keys) -> None:
        """Refuse blocks that do not divide a weight."""
        check_blocks_of(reference, keys, self.schema.technique)

    def technique(self, reference: TensorReference, keys: Keys) -> Integers | None:
        """Integers, with a scale for the weight, each output channel, or each block."""
        options = QuantizationOptions.of(keys)
        if options.weight_dtype == "float32":
            return None
        layout = reference.layout
        groups = Groups()
        if options.weight_per_channel:
            groups = Groups(layout.output_axis, layout.input_axis, options.block_size)
        rounding = Rounding(
            IntegerType.of(options.weight_dtype),
            Observer(options.weight_observer),
            symmetric=self._scheme == "symmetric",
            learnable=self._algorithm == "learnable",
            groups=groups,
        )
        return Integers(reference.name, reference.shape, rounding, Milestones(self.milestones))

    def capabilities(self, reference: TensorReference, keys: Keys) -> Collection[Capability]:
        """Integers by their bits, and blocks."""
        options = QuantizationOptions.of(keys)
        if options.weight_dtype == "float32":
            return ()
        four_bits = options.weight_dtype.endswith("int4")
        bits = Capability.INT4_WEIGHTS if four_bits else Capability.INT8_WEIGHTS
        return (bits,) if options.block_size is None else (bits, Capability.BLOCKWISE_WEIGHTS)

    def input_technique(self, name: str, kind: LayerKind, keys: Keys) -> Activation | None:
        """Integers with one scale, unless the keys leave inputs as they are."""
        options = QuantizationOptions.of(keys)
        return None if options.activation_dtype == "float32" else self._activation(options)

    def _activation(self, options: QuantizationOptions) -> Activation:
        rounding = Rounding(
            IntegerType.of(options.activation_dtype),
            Observer(options.activation_observer),
            symmetric=self._scheme == "symmetric",
            unsigned_from_zero=True,
            learnable=self._algorithm == "learnable",
        )
        return Activation(rounding, Milestones(self.milestones))

    def input_capabilities(self) -> Collection[Capability]:
        """Integer inputs."""
        return (Capability.INT8_ACTIVATIONS,)

    def companion(self, module: nn.Module) -> Companion | None:
        """The freezing of batch norm, if there is a milestone for it, and rounding within attention."""
        operands: list[Activation] = []
        names: dict[nn.Module, list[str]] = {}
        modules = dict(module.named_modules(remove_duplicate=False))
        for name, part in modules.items():
            if "parametrizations" not in name.split(".") and not isinstance(part, Stepped):
                names.setdefault(part, []).append(name)
        for part, aliases in names.items():
            options = self._attention_options(part, aliases, enclosing_modules(aliases, modules))
            if options is not None:
                device = next((parameter.device for parameter in part.parameters()), None)
                made = {name: self._activation(options).to(device) for name in OPERANDS}
                operands += made.values()
                round_within(part, made)
            elif isinstance(part, nn.MultiheadAttention) and any(input_techniques(part.out_proj)):
                round_within(part)
        freezing = BatchNormFreezing(module, Milestones(self.milestones)) if self.freezes_batch_norm else None
        return None if freezing is None and not operands else QuantizationCompanion(freezing, operands)

    def _attention_options(
        self, part: nn.Module, aliases: Sequence[str], enclosing: Enclosing
    ) -> QuantizationOptions | None:
        """The options of a module whose products are rounded, or None."""
        is_attention = isinstance(part, nn.MultiheadAttention)
        if isinstance(part, torch.jit.ScriptModule) or not (is_attention or layer_kind(part) is None):
            return None
        match = self.configuration.match_layer(aliases, part, enclosing)
        if match.keys is None or not (is_attention or match.source is not None):
            return None
        options = QuantizationOptions.of(match.keys)
        return options if options.attention_products else None


def _holds_no_weight(name: str) -> bool:
    bare = name.removeprefix("torch.nn.")
    return is_operation(name) and bare not in KIND_NAMES and bare != nn.Bilinear.__name__
