"""What is asked of a package's weights after training: zeros, palettes, integers, and all that is joined of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from lightning_compress.errors import ConfigurationError
from lightning_compress.package.targets import PALETTE_BITS, Capability, palettization_capabilities

INTEGER_BITS = {"int8": 8, "int4": 4}
"""Bits of each type of integer that weights can be quantized to."""


@dataclass(frozen=True)
class PostTrainingForm:
    """How weights are to be stored, by what a package itself says and no data.

    Args:
        prune: Share of weights to set to zero, the smallest of each tensor, in (0, 1); only the others are stored.
        palettize: Bits of an index into a palette, 1, 2, 3, 4, 6 or 8, found by k-means.
        quantize: "int8" or "int4": integers with a scale for each output channel, symmetric around zero. With
            `palettize` "int8" makes the palettes' entries integers.
        group_size: Number of output channels that share a palette; None for one palette a tensor.
        cluster_dim: Number of output channels that follow each other and share an index: the palette is one of vectors,
            and a weight takes `palettize / cluster_dim` bits.
        block_size: Number of input channels that share a scale; None for one scale an output channel.

    Raises:
        ConfigurationError: If a value is none that Core ML has, keys do not belong together, or nothing is asked for.

    Example:
        >>> PostTrainingForm(prune=0.5, palettize=4).name
        'prune_50_palettize_4bit'
    """

    prune: float | None = None
    palettize: int | None = None
    quantize: str | None = None
    group_size: int | None = None
    cluster_dim: int | None = None
    block_size: int | None = None

    def __post_init__(self) -> None:
        if self.prune is None and self.palettize is None and self.quantize is None:
            raise ConfigurationError("nothing is asked for; give prune, palettize or quantize")
        if self.prune is not None and not (_is_number(self.prune) and 0 < self.prune < 1):
            raise ConfigurationError(
                f"prune={self.prune!r} is no share between 0 and 1, such as 0.75, without both ends"
            )
        if self.palettize is not None and not (_is_number(self.palettize) and self.palettize in PALETTE_BITS):
            raise ConfigurationError(
                f"palettize={self.palettize!r} is no width of a palette index; valid are {PALETTE_BITS}"
            )
        if self.quantize is not None and not (
            isinstance(self.quantize, str) and self.quantize in INTEGER_BITS
        ):
            raise ConfigurationError(
                f"quantize={self.quantize!r} is unknown; valid are {', '.join(INTEGER_BITS)}"
            )
        if self.palettize is not None and self.quantize == "int4":
            raise ConfigurationError(
                "quantize='int4' cannot be joined with palettize: entries are int8 or floats"
            )
        for argument, of in (
            ("group_size", "palettize"),
            ("cluster_dim", "palettize"),
            ("block_size", "quantize"),
        ):
            value = getattr(self, argument)
            if value is None:
                continue
            if getattr(self, of) is None or (argument == "block_size" and self.palettize is not None):
                raise ConfigurationError(
                    f"{argument}={value!r} says something of {of} alone, which is not asked for"
                )
            if not (_is_number(value) and float(value).is_integer() and value > 0):
                raise ConfigurationError(f"{argument}={value!r} is no positive whole number")
        if self.cluster_dim is not None and self.prune is not None:
            raise ConfigurationError(
                f"cluster_dim={self.cluster_dim!r} cannot be joined with prune: weights that are pruned one by one "
                "leave no vectors"
            )

    @property
    def name(self) -> str:
        """As files and tables name it: "palettize_4bit", "prune_75", "quantize_int4_block32"."""
        parts = []
        if self.prune is not None:
            parts.append(f"prune_{100 * self.prune:g}")
        if self.palettize is not None:
            parts.append(
                f"palettize_{self.palettize}bit"
                + ("" if self.cluster_dim is None else f"_vector{self.cluster_dim}")
                + ("" if self.group_size is None else f"_group{self.group_size}")
            )
        if self.quantize is not None:
            parts.append(
                ("lut_" if self.palettize is not None else "quantize_")
                + self.quantize
                + ("" if self.block_size is None else f"_block{self.block_size}")
            )
        return "_".join(parts)

    @property
    def capabilities(self) -> Collection[Capability]:
        """What a package must be able to hold."""
        needed: set[Capability] = set()
        if self.prune is not None:
            needed.add(Capability.SPARSE_WEIGHTS)
        if self.palettize is not None:
            needed |= palettization_capabilities(
                self.palettize,
                grouped=self.group_size is not None,
                cluster_dim=self.cluster_dim or 1,
                int8_lut=self.quantize is not None,
            )
        elif self.quantize is not None:
            needed.add(Capability.INT8_WEIGHTS if self.quantize == "int8" else Capability.INT4_WEIGHTS)
            if self.block_size is not None:
                needed.add(Capability.BLOCKWISE_WEIGHTS)
        if sum(part is not None for part in (self.prune, self.palettize, self.quantize)) > 1:
            needed.add(Capability.JOINT)
        return frozenset(needed)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
