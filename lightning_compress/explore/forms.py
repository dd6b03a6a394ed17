"""In what forms a tensor can be stored: names, the methods that bring tensors into them, and which form suits which."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_compress.errors import CompressionError, ConfigurationError, did_you_mean
from lightning_compress.methods import DKMPalettization, LinearQuantization, MagnitudePruning
from lightning_compress.methods.mechanism.joining import chained, needed_capabilities
from lightning_compress.methods.mechanism.method import Method
from lightning_compress.methods.mechanism.plan import Plan, PlannedTensor
from lightning_compress.methods.mechanism.tensors import TensorReference
from lightning_compress.package.targets import PALETTE_BITS, Capability

DENSE = "dense"
"""The name of the form of a tensor that is not compressed."""

_NAME = re.compile(
    r"(?:prune_(?P<sparsity>\d+))?"
    r"(?:_?palettize_(?P<bits>\d+)bit(?:_group(?P<group>\d+))?(?:_vectors(?P<vector>\d+))?(?P<scaled>_scaled)?)?"
    r"(?:_?int(?P<integers>8|4)(?:_block(?P<block>\d+))?)?"
)

_VALID = (
    "prune_50, palettize_4bit, palettize_4bit_group16, palettize_4bit_vectors2, palettize_4bit_scaled, int8, "
    "int4_block32, and prune_50_ before any of them"
)


@dataclass(frozen=True)
class Form:
    """How a tensor is stored.

    Attributes:
        sparsity: Percent of its elements that are zero; 0 for no pruning.
        bits: Of an index into its palettes; None for no palette.
        group: Output channels that share a palette; None for one palette.
        vector: Neighbouring channels that an entry stands for.
        scaled: Whether each channel is scaled before it is palettized.
        integers: Bits of integers, 8 or 4; None for none.
        block: Weights along the input channels that share a scale; None for a scale a channel.

    Example:
        >>> Form.parse("prune_50_palettize_4bit").sparsity
        50
    """

    sparsity: int = 0
    bits: int | None = None
    group: int | None = None
    vector: int = 1
    scaled: bool = False
    integers: int | None = None
    block: int | None = None

    @classmethod
    def parse(cls, name: str, source: str = "form") -> Form:
        """The form of a name.

        Args:
            name: As `name` gives it.
            source: Where it came from, for the error.

        Raises:
            ConfigurationError: There is no such form.
        """
        if name == DENSE:
            return cls()
        match = _NAME.fullmatch(name) if name else None
        found = {} if match is None else {key: text for key, text in match.groupdict().items() if text}
        form = cls(
            **{key: key == "scaled" or int(text) for key, text in found.items()}  # type: ignore[arg-type]
        )
        invalid = (
            not found
            or form.name != name
            or not 0 <= form.sparsity < 100
            or (form.bits is not None and form.bits not in PALETTE_BITS)
            or (form.bits is not None and form.integers is not None)
        )
        if invalid:
            known = [entry.name for entry in default_forms()]
            raise ConfigurationError(
                f"{source}={name!r} is no form{did_you_mean(name, known)} Valid are {_VALID}."
            )
        return form

    @property
    def name(self) -> str:
        """As records, keys and tables call it."""
        parts = []
        if self.sparsity:
            parts.append(f"prune_{self.sparsity}")
        if self.bits is not None:
            details = (
                f"_group{self.group}" if self.group is not None else "",
                f"_vectors{self.vector}" if self.vector > 1 else "",
                "_scaled" if self.scaled else "",
            )
            parts.append(f"palettize_{self.bits}bit{''.join(details)}")
        if self.integers is not None:
            parts.append(f"int{self.integers}" + (f"_block{self.block}" if self.block is not None else ""))
        return "_".join(parts) or DENSE

    @property
    def keys(self) -> Mapping[str, dict[str, Any]]:
        """What the configurations of methods say of a tensor in this form, by the name of the method's class."""
        keys: dict[str, dict[str, Any]] = {}
        if self.sparsity:
            keys["MagnitudePruning"] = {"target_sparsity": self.sparsity / 100}
        if self.bits is not None:
            palette: dict[str, Any] = {"n_bits": self.bits, "weight_threshold": 0}
            if self.group is not None:
                palette |= {"granularity": "per_grouped_channel", "group_size": self.group}
            if self.vector > 1:
                palette["cluster_dim"] = self.vector
            if self.scaled:
                palette["enable_per_channel_scale"] = True
            keys["DKMPalettization"] = palette
        if self.integers is not None:
            integers: dict[str, Any] = {
                "weight_dtype": f"qint{self.integers}",
                "activation_dtype": "float32",
            }
            if self.block is not None:
                integers["block_size"] = self.block
            keys["LinearQuantization"] = integers
        return keys


def default_forms() -> list[Form]:
    """What is tried where nothing else is asked for.

    Groups of channels, vectors and pruned forms take longer to find than they win without training; they are tried
    where they are named, and vectors for a whole network in training (`default_vectors`).
    """
    return [
        Form(),
        Form(integers=8),
        Form(integers=4, block=32),
        *(Form(bits=bits) for bits in sorted(PALETTE_BITS, reverse=True)),
    ]


def default_vectors() -> list[Form]:
    """The palettes of vectors that a whole network is trained in where nothing else is asked for.

    Without training they are worth less than widths of their own, so no tensor is scored in them.
    """
    return [Form(bits=bits, vector=vector) for bits, vector in ((8, 4), (6, 4), (8, 8), (6, 8), (4, 8))]


_CLASSES: Mapping[str, type[Method]] = {
    kind.__name__: kind for kind in (MagnitudePruning, DKMPalettization, LinearQuantization)
}
"""The methods by which forms are trained, and reached by values alone."""


def sections(forms: Mapping[str, Form]) -> dict[str, dict[str, Any]]:
    """The `module_name_configs` that bring tensors into forms, by the name of the method's class.

    Args:
        forms: The form of each tensor, by its dotted name.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, form in forms.items():
        for kind, keys in form.keys.items():
            found.setdefault(kind, {})[re.escape(name)] = keys
    return {kind: found[kind] for kind in _CLASSES if kind in found}


def methods_of(forms: Mapping[str, Form]) -> list[Method]:
    """The methods that bring each tensor into its form, and leave all others alone.

    Args:
        forms: The form of each tensor, by its dotted name.
    """
    return [_CLASSES[kind](module_name_configs=configs) for kind, configs in sections(forms).items()]


def needed_by(reference: TensorReference, form: Form) -> frozenset[Capability] | None:
    """What a package must be able to hold for a tensor in a form; None where the tensor cannot have it."""
    if form == Form():
        return frozenset()
    methods = methods_of({reference.name: form})
    try:
        keys = {method: method.decide(reference) for method in methods}
        taken = {method: found for method, found in keys.items() if not isinstance(found, str)}
        if len(taken) < len(methods):
            return None
        planned = PlannedTensor(reference, taken)
        chained(planned)
        return frozenset(needed_capabilities(Plan([planned], [])))
    except CompressionError:
        return None


def parse_forms(names: Sequence[str], source: str) -> list[Form]:
    """The forms of some names, the dense one among them, each once.

    Raises:
        ConfigurationError: One of them is no form, or there is none besides the dense one.
    """
    forms = [Form(), *(Form.parse(str(name), source) for name in names)]
    found = list(dict.fromkeys(forms))
    if len(found) < 2:
        raise ConfigurationError(f"{source} names no form to compress to; valid are {_VALID}")
    return found
