"""How a finalized tensor is to be stored, and the buffers that carry this to the converter.

The buffers are those that coremltools' converter reads (`_COREML_/<parameter>/<key>`), so that a finalized module can
be converted by coremltools alone too. Weights of recurrent layers get them under a name of their own: coremltools 9.0
rearranges these weights while it converts, and fails on those with metadata, so they are recognised by their values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_compress.metadata_names import (
    BY_VALUE,
    CONVERTED,
    METADATA_VERSION,
    PALETTIZED,
    PRUNED,
    QUANTIZED,
)


@dataclass(frozen=True)
class StoredIntegers:
    """Values stored as integers: value = scale * (integer - zero_point).

    Attributes:
        n_bits: 4 or 8.
        scale: Of the rank of what it scales, one a block along each axis.
        zero_point: The integer that stands for zero, of the shape of `scale`; None where that is 0.
    """

    n_bits: int
    scale: Tensor
    zero_point: Tensor | None = None


@dataclass(frozen=True)
class StoredPalette:
    """Values stored as indices into palettes.

    Attributes:
        lut: One palette a group along each axis, (groups along each axis ..., entries, vector length).
        scale: What each channel was divided by before, of the tensor's rank; None for nothing.
        vector_axis: The axis along which the entries of a vector follow each other; None for scalars.
        entries: How the entries are stored, if as integers; the scale has the rank of `lut`.
    """

    lut: Tensor
    scale: Tensor | None = None
    vector_axis: int | None = None
    entries: StoredIntegers | None = None


@dataclass(frozen=True)
class StoredTensor:
    """How a tensor is stored: which techniques hold, each with its numbers.

    Attributes:
        sparse: Only what is not zero is stored.
        palette: Its palettes, or None.
        integers: Its integers, or None.
    """

    sparse: bool = False
    palette: StoredPalette | None = None
    integers: StoredIntegers | None = None

    @property
    def is_dense(self) -> bool:
        """Whether no technique holds."""
        return not self.sparse and self.palette is None and self.integers is None

    def register(self, module: nn.Module, parameter: str, prefix: str = CONVERTED) -> None:
        """Add the buffers that say so to the module that owns the tensor.

        Args:
            module: A finalized module.
            parameter: Name of its parameter.
            prefix: `CONVERTED`, or `BY_VALUE` for weights that the converter rearranges.
        """
        for key, value in self._buffers():
            tensor = value.detach().clone() if isinstance(value, Tensor) else torch.tensor(value)
            module.register_buffer(f"{prefix}/{parameter}/{key}", tensor)

    def _buffers(self) -> Iterator[tuple[str, Tensor | int | list[int]]]:
        palette = self.palette
        integers = self.integers if palette is None else palette.entries
        present = (
            (PRUNED, self.sparse),
            (PALETTIZED, palette is not None),
            (QUANTIZED, integers is not None),
        )
        yield "compression_type", [number for number, holds in present if holds]
        if palette is not None:
            yield "lut", palette.lut
            if palette.scale is not None:
                yield "palettization_scale", palette.scale
            if palette.vector_axis is not None:
                yield "vector_axis", palette.vector_axis
        if integers is not None:
            yield "quantization_n_bits", integers.n_bits
            yield "quantization_scale", integers.scale
            if integers.zero_point is not None:
                yield "zero_point", integers.zero_point


def read_stored(module: nn.Module, parameter: str) -> StoredTensor:
    """How a parameter of a finalized module is stored, as its buffers say."""
    found = {
        name.rpartition("/")[2]: buffer
        for name, buffer in module.named_buffers(recurse=False)
        for prefix in (CONVERTED, BY_VALUE)
        if name.startswith(f"{prefix}/{parameter}/")
    }
    kinds = found["compression_type"].tolist() if "compression_type" in found else []
    integers = None
    if QUANTIZED in kinds:
        bits = int(found["quantization_n_bits"])
        integers = StoredIntegers(bits, found["quantization_scale"], found.get("zero_point"))
    if PALETTIZED not in kinds:
        return StoredTensor(PRUNED in kinds, None, integers)
    axis = found.get("vector_axis")
    palette = StoredPalette(
        found["lut"], found.get("palettization_scale"), None if axis is None else int(axis), integers
    )
    return StoredTensor(PRUNED in kinds, palette, None)


def register_version(root: nn.Module) -> None:
    """Mark a finalized module as one with metadata."""
    root.register_buffer(METADATA_VERSION, torch.tensor(1))


def is_metadata(buffer_name: str) -> bool:
    """Whether the name of a buffer, dotted or not, is one of metadata."""
    return buffer_name.rpartition(".")[2].startswith((f"{CONVERTED}/", f"{BY_VALUE}/"))
