"""What techniques share that find a palette once, from data: their keys, and what holds the palette found."""

from __future__ import annotations

import abc
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_compress.dkm.weight_palette import Palettes, precision
from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.data_options import check_data_options
from lightning_compress.methods.mechanism.calibrated import CalibratedTechnique, Evidence
from lightning_compress.methods.mechanism.configuration import Keys, Match
from lightning_compress.methods.mechanism.method import Method
from lightning_compress.methods.mechanism.stored import StoredTensor
from lightning_compress.methods.mechanism.technique import Stage, Technique
from lightning_compress.methods.mechanism.tensors import TensorReference
from lightning_compress.methods.palette_options import PaletteOptions, check_options
from lightning_compress.methods.palettes import (
    check_palette,
    palette_capabilities,
    palette_label,
    stored_palette,
    too_small,
    weight_palette,
)
from lightning_compress.package.targets import Capability


@dataclass(frozen=True)
class FoundPaletteOptions:
    """The keys of coremltools' `ModuleSKMPalettizerConfig`, and those of `DKMPalettization` that say what is stored.

    Attributes:
        n_bits: A palette has 2**n_bits entries.
        weight_threshold: Weights of no more elements stay as they are.
        granularity: "per_tensor" or "per_grouped_channel".
        group_size: Number of channels that share a palette.
        channel_axis: 0, the output channels.
        enable_per_channel_scale: Whether each channel is brought to one range before.
        per_channel_scaling_factor_scheme: By half of its range, "min_max", or its greatest magnitude, "abs".
        cluster_dim: Number of neighbouring channels that an entry stands for.
        lut_dtype: Type of the entries as they will be stored.
        bias_correction: Whether the mean of the layer's outputs is kept, by its bias.
    """

    n_bits: int = 4
    weight_threshold: int = 2048
    granularity: str = "per_tensor"
    group_size: int | None = None
    channel_axis: int = 0
    enable_per_channel_scale: bool = False
    per_channel_scaling_factor_scheme: str = "min_max"
    cluster_dim: int | None = None
    lut_dtype: str | None = None
    bias_correction: bool = False


_SHARED = {item.name for item in fields(FoundPaletteOptions)} & {item.name for item in fields(PaletteOptions)}


def palette_options(keys: Keys) -> PaletteOptions:
    """What keys say of the palette."""
    return PaletteOptions.of({"n_bits": FoundPaletteOptions.n_bits, **_of_palette(keys)})


def _of_palette(keys: Keys) -> Keys:
    # coremltools' configurations say None where entries are stored as they are.
    return {
        key: value
        for key, value in keys.items()
        if key in _SHARED and not (key == "lut_dtype" and value is None)
    }


class FoundPalettization(Method, abc.ABC):
    """A method that gives each tensor a palette that is found from data."""

    palette: ClassVar[type[FoundPalette]]
    """The technique on a tensor."""

    @property
    def is_trained(self) -> bool:
        """Never."""
        return False

    def check_values(self, keys: Keys, source: str) -> None:
        """Refuse bits, groups and vectors that cannot be."""
        check_options(_of_palette(keys), source)
        if "n_bits" in keys and keys["n_bits"] is None:
            raise ConfigurationError(f"n_bits of {source} is None; valid is a number of bits, such as 4")
        check_data_options(keys, source)

    def reason_to_leave(self, reference: TensorReference, match: Match) -> str | None:
        """Weights of no more elements than the threshold gain nothing from a palette."""
        assert match.keys is not None
        return too_small(reference, palette_options(match.keys))

    def check_tensor(self, reference: TensorReference, keys: Keys) -> None:
        """Refuse groups and vectors that do not divide the channels, and palettes larger than the weight."""
        check_palette(reference, palette_options(keys))

    def technique(self, reference: TensorReference, keys: Keys) -> FoundPalette:
        """A palette for a tensor."""
        return self.palette(reference, keys)

    def capabilities(self, reference: TensorReference, keys: Keys) -> Collection[Capability]:
        """What a package must be able to hold for a tensor's palette."""
        return palette_capabilities(reference, palette_options(keys))


class FoundPalette(CalibratedTechnique):
    """A palette, and which of its entries each element of a tensor is.

    Args:
        reference: The tensor.
        keys: Those that hold for it.

    Attributes:
        palette: Buffer of the entries, (G, K, D).
        scales: Buffer of what each channel is divided by before, (C, 1), or None for nothing.
        indices: Buffer of the entry of each vector, (G, N), uint8.
    """

    stage = Stage.VALUES
    precise = frozenset({"palette", "scales"})

    palette: Tensor
    scales: Tensor | None
    indices: Tensor

    def __init__(self, reference: TensorReference, keys: Keys) -> None:
        super().__init__(reference.name, corrects_bias=bool(keys.get("bias_correction", False)))
        self.form = weight_palette(reference, palette_options(keys))
        self._shape = reference.shape
        dtype = precision(reference.dtype)
        groups, entries, dimensions = self.form.palette_shape(reference.shape)
        self.register_buffer("palette", torch.zeros((groups, entries, dimensions), dtype=dtype))
        scaled = self.form.scale_scheme is not None
        scales = torch.zeros(self.form.scales_shape(reference.shape), dtype=dtype) if scaled else None
        self.register_buffer("scales", scales)
        vectors = reference.numel // (groups * dimensions)
        self.register_buffer("indices", torch.zeros((groups, vectors), dtype=torch.uint8))

    @property
    def label(self) -> str:
        """The bits of an index, and what is special about the palette."""
        return palette_label(self.form)

    @property
    def unit(self) -> tuple[int, int] | None:
        """The channels of a vector."""
        return (self.form.channel_axis, self.form.cluster_dim) if self.form.cluster_dim > 1 else None

    def join(self, before: Sequence[Technique], after: Sequence[Technique]) -> None:
        """Zeros that another technique decides stay zeros."""
        if any(technique.stage == Stage.ZEROS for technique in before):
            self.form = replace(self.form, keep_zeros=True)

    @abc.abstractmethod
    def choose(self, tensor: Tensor, evidence: Evidence) -> tuple[Palettes, Tensor]:
        """The palettes of a tensor and its indices."""

    def find(self, tensor: Tensor, evidence: Evidence) -> None:
        """Find palettes and indices."""
        self.form.check_finite(tensor)
        palettes, indices = self.choose(tensor, evidence)
        self.palette.copy_(palettes.entries)
        if self.scales is not None and palettes.scales is not None:
            self.scales.copy_(palettes.scales)
        self.indices.copy_(indices)

    def found(self, tensor: Tensor) -> Tensor:
        """The entries that the indices stand for."""
        return self.form.look_up(self.indices, self._palettes, self._shape, tensor.dtype)

    def store(self, stored: StoredTensor) -> StoredTensor:
        """Palettes, scales, and the integers that stand for entries, along the axis of the channels."""
        palette = stored_palette(self.form, self._palettes, len(self._shape))
        return replace(stored, palette=palette)

    def report(self, tensor: Tensor, compressed: Tensor) -> dict[str, Any]:
        """The palettes and the share of the weight that each entry has."""
        if not self.is_calibrated or not tensor.numel():
            return {}
        entries = self.palette.shape[1]
        shares = torch.stack([torch.bincount(group.int(), minlength=entries) for group in self.indices])
        return {
            "palette": self.form.rounded(self.palette).values,
            "shares": shares / self.indices.shape[1],
        }

    @property
    def _palettes(self) -> Palettes:
        return Palettes(self.palette, self.scales)
