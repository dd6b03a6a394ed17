"""Tensors in every compressed form, drawn at random, with the metadata that say how they are stored.

Numbers are chosen so that every product is exact in float16: palettes hold multiples of 1/16, scales are powers of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from lightning_compress.coreml.compressed import repeated
from lightning_compress.coreml.metadata_buffers import Metadata
from lightning_compress.metadata_names import PALETTIZED, PRUNED, QUANTIZED

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Form:
    """A tensor as training leaves it.

    Attributes:
        values: Its values.
        metadata: How it is to be stored.
        technique: What `inspect` has to say of it.
        bits: Bits of an index, an integer or a float.
        early: Whether iOS16 can say it.
    """

    values: Array
    metadata: Metadata
    technique: str
    bits: int
    early: bool


def divisors(extent: int) -> list[int]:
    """The counts of blocks that an extent can be cut into."""
    return [count for count in range(1, extent + 1) if extent % count == 0]


@st.composite
def block_counts(draw: Any, shape: tuple[int, ...], kinds: tuple[str, ...]) -> tuple[int, ...]:
    """Counts of blocks along each axis: of a whole tensor, of a channel each, of groups, or of blocks of two axes."""
    kind = draw(st.sampled_from(kinds))
    counts = [1] * len(shape)
    axis = draw(st.sampled_from((0, 0, 1)))
    if kind == "channel":
        counts[axis] = shape[axis]
    elif kind == "groups":
        counts[axis] = draw(st.sampled_from(divisors(shape[axis])))
    elif kind == "blocks":
        counts[0] = shape[0]
        counts[1] = draw(st.sampled_from(divisors(shape[1])))
    return tuple(counts)


shapes = st.lists(st.sampled_from((1, 2, 3, 4)), min_size=0, max_size=3).flatmap(
    lambda rest: st.tuples(st.sampled_from((2, 4, 6, 8)), st.sampled_from((2, 4, 6)), *map(st.just, rest))
)

ANY_BLOCKS = ("tensor", "channel", "groups", "blocks")


@st.composite
def palettized(
    draw: Any,
    *,
    sparse: bool | None = None,
    scaled: bool | None = None,
    vectors: bool | None = None,
    entries: str | None = None,
    grouped: bool | None = None,
) -> Form:
    """A palettized tensor; what is None is drawn.

    Args:
        sparse: Whether it is pruned too.
        scaled: Whether there is a scale for each block.
        vectors: Whether an entry stands for several elements.
        entries: "float", "int8" or "uint8".
        grouped: Whether there are several palettes.
    """
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    sparse, scaled, vectors, grouped = (
        draw(st.booleans()) if given is None else given for given in (sparse, scaled, vectors, grouped)
    )
    entries = draw(st.sampled_from(("float", "int8", "uint8"))) if entries is None else entries
    shape = draw(shapes)
    bits = draw(st.sampled_from((1, 2, 3, 4, 6, 8)))
    axis = draw(st.sampled_from((0, 1))) if vectors else 0
    size = 2 if vectors else 1
    of_data = list(shape)
    of_data[axis] //= size
    groups = draw(block_counts(tuple(of_data), ("groups",))) if grouped else (1,) * len(shape)
    lut, quantization = _lut(draw, random, (*groups, 2**bits, size), entries)
    indices = random.integers(0, 2**bits, of_data)
    looked_up = np.empty((*of_data, size), np.float32)
    for index in np.ndindex(*of_data):
        group = tuple(i // (n // g) for i, n, g in zip(index, of_data, groups, strict=True))
        looked_up[index] = lut[(*group, indices[index])]
    values = np.moveaxis(looked_up, -1, axis + 1).reshape(shape)
    scale = None
    if scaled:
        counts = draw(block_counts(shape, ("channel", "groups")))
        scale = 2.0 ** random.integers(-2, 3, counts).astype(np.float32)
        values = values * repeated(scale, shape)
    if sparse:
        values = values * np.repeat(
            random.random(of_data) > draw(st.sampled_from((0.3, 1.0))), size, axis=axis
        )
    kinds = [PRUNED] * sparse + [PALETTIZED] + [QUANTIZED] * (entries != "float")
    metadata = Metadata(
        tuple(kinds),
        lut=lut,
        palettization_scale=scale,
        vector_axis=axis if vectors else None,
        **quantization,
    )
    words = ["pruned"] * sparse + ["palettized"] + ["quantized"] * (entries != "float")
    early = (
        not sparse and not scaled and not vectors and entries == "float" and max(groups) == 1 and bits != 3
    )
    return Form(values.astype(np.float32), metadata, " + ".join(words), bits, early)


def _lut(draw: Any, random: Any, shape: tuple[int, ...], entries: str) -> tuple[Array, dict[str, Any]]:
    """Palettes with no entry twice, none of them zero, and what says which integers they hold."""
    *groups, count, size = shape
    integers = (
        np.stack([random.permutation(255)[: count * size] for _ in range(int(np.prod(groups)))])
        if (count * size <= 255)
        else np.stack([random.integers(0, 255, count * size) for _ in range(int(np.prod(groups)))])
    )
    # -128 to 126, without zero.
    integers = integers.reshape(shape).astype(np.float32) - 128
    integers[integers == 0] = 127
    if entries == "float":
        return integers / 16, {}
    scale = 2.0 ** random.integers(-3, 2, (*groups, 1, 1)).astype(np.float32)
    quantization: dict[str, Any] = {"quantization_n_bits": 8, "quantization_scale": scale}
    if entries == "uint8":
        # An offset in the middle, so that integers without a sign stand for both.
        quantization["zero_point"] = np.full((*groups, 1, 1), 128, np.float32)
    return integers * scale, quantization


@st.composite
def quantized(
    draw: Any,
    *,
    sparse: bool | None = None,
    bits: int | None = None,
    affine: bool | None = None,
    blocks: tuple[str, ...] = ANY_BLOCKS,
) -> Form:
    """A tensor of integers; what is None is drawn.

    Args:
        sparse: Whether it is pruned too.
        bits: Bits of an integer, 4 or 8.
        affine: Whether there are zero points, and integers without a sign.
        blocks: Kinds of blocks that share a scale.
    """
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    sparse, affine = (draw(st.booleans()) if given is None else given for given in (sparse, affine))
    bits = draw(st.sampled_from((4, 8))) if bits is None else bits
    shape = draw(shapes)
    counts = draw(block_counts(shape, blocks))
    low, high = (0, 2**bits) if affine else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    integers = random.integers(low, high, shape).astype(np.float32)
    scale = 2.0 ** random.integers(-8, 1, counts).astype(np.float32)
    zero_point = random.integers(low, high, counts).astype(np.float32) if affine else None
    values = integers if zero_point is None else integers - repeated(zero_point, shape)
    values = values * repeated(scale, shape)
    if sparse:
        values = values * (random.random(shape) > draw(st.sampled_from((0.3, 1.0))))
    kinds = [PRUNED] * sparse + [QUANTIZED]
    metadata = Metadata(
        tuple(kinds), quantization_n_bits=bits, quantization_scale=scale, zero_point=zero_point
    )
    several = [extent for extent, count in zip(shape, counts, strict=True) if count > 1]
    early = not sparse and bits == 8 and (not several or (len(several) == 1 and several[0] == max(counts)))
    return Form(
        values.astype(np.float32),
        metadata,
        " + ".join(["pruned"] * sparse + ["quantized"]),
        bits,
        early,
    )


@st.composite
def pruned(draw: Any) -> Form:
    """A tensor with zeros, up to all of it."""
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    shape = draw(shapes)
    values = (
        random.integers(-128, 128, shape) / 16 * (random.random(shape) > draw(st.sampled_from((0.5, 1.0))))
    )
    return Form(values.astype(np.float32), Metadata((PRUNED,)), "pruned", 16, True)


forms = st.one_of(palettized(), quantized(), pruned())
