"""`FakePalettize`: coremltools' palettization of one weight while training, with the clustering of this package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from coremltools.optimize.torch.palettization import FakePalettize as CoreMLFakePalettize
from torch import Tensor, nn

from lightning_compress.arguments import (
    refusal,
    require_flag,
    require_one_of,
    require_type,
    require_whole,
)
from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.weight_palette import LUT_DTYPES, Palettes, WeightPalette, precision
from lightning_compress.errors import ConfigurationError

_MOST_BITS = 8
_BITS = f"a whole number of bits from 1 to {_MOST_BITS}"


class FakePalettize(CoreMLFakePalettize):  # type: ignore[misc]
    """Cluster a weight around a palette in every training step, and assign it to the palette in evaluation.

    A drop-in for the class of the same name in coremltools, with the same constructor and options, for whoever uses
    coremltools' palettizer. It costs a few passes over the weight where the original costs an attention matrix per
    iteration (see `lightning_compress.dkm.palettize`). What differs from the original:

    - Palette and scales are buffers, all in full precision whatever the module is cast to. The state dict holds
      tensors only, of shapes that follow from the configuration and the weight, and loads before the first forward.
    - Nothing of the weight's size is kept from one step to the next, and evaluation assigns the weights anew.
    - The first palette is deterministic, the same on every rank.
    - `prune_threshold` counts only where the first centroid is zero, that is with `enforce_zero`.
    - With `enforce_zero` and a `prune_threshold` of 0 zeros stay zeros exactly and the other centroids cluster the
      other weights.

    Args:
        observer: As in coremltools; LUTs are rounded without it.
        n_bits: The palette has 2**n_bits centroids.
        cluster_dim: Dimensions of a centroid.
        enable_per_channel_scale: Divide each channel by a scale first.
        group_size: Number of channels that share a palette; by default all.
        quant_min: As in coremltools.
        quant_max: As in coremltools.
        lut_dtype: Type that the palette is rounded to: "f32", "f16", "bf16", "i8" or "u8".
        advanced_options: The optional keys of coremltools' `ModuleDKMPalettizerConfig`.
        observer_kwargs: Arguments of the observer.

    Attributes:
        palette: Buffer of the centroids, (G, K, cluster_dim), or None until `materialize` or the first weight.
        initialised: Buffer, above 0 once the palette was made.
        layer_name: Name for error messages.

    Raises:
        ConfigurationError: For a type of LUT or a channel axis that does not exist.
    """

    palette: Tensor | None
    initialised: Tensor
    per_channel_scaling_factor: Tensor | None

    def __init__(
        self,
        observer: Any,
        n_bits: int,
        cluster_dim: int,
        enable_per_channel_scale: bool = False,
        group_size: int | None = None,
        quant_min: int = -128,
        quant_max: int = 127,
        lut_dtype: str = "f32",
        advanced_options: Mapping[str, Any] | None = None,
        **observer_kwargs: Any,
    ) -> None:
        for argument, count in (("cluster_dim", cluster_dim), ("group_size", group_size)):
            if argument == "cluster_dim" or count is not None:
                require_whole(argument, count, 1)
        for argument, bound in (("quant_min", quant_min), ("quant_max", quant_max)):
            require_type(argument, bound, int, "a whole number")
        require_type("n_bits", n_bits, int, _BITS)
        if not 0 < n_bits <= _MOST_BITS:
            raise refusal("n_bits", n_bits, _BITS)
        require_flag("enable_per_channel_scale", enable_per_channel_scale)
        require_one_of("lut_dtype", lut_dtype, LUT_DTYPES)
        require_type("advanced_options", advanced_options, Mapping, "a mapping", optional=True)
        self._channels = 0
        self._initialised = False
        self._enabled = False
        super().__init__(
            observer,
            n_bits,
            cluster_dim,
            enable_per_channel_scale=enable_per_channel_scale,
            group_size=group_size,
            quant_min=quant_min,
            quant_max=quant_max,
            lut_dtype=lut_dtype,
            advanced_options=dict(advanced_options or {}),
            **observer_kwargs,
        )
        self.layer_name = "weight"
        if self.vector_ch_axis:
            raise ConfigurationError(
                f"channel_axis is {self.vector_ch_axis}; valid is 0, the output channels"
            )
        self.lut_dtype = LUT_DTYPES[lut_dtype]
        # The original fake-quantizes LUTs by an observer that it never switches on.
        self.need_to_quantize = False
        del self.per_channel_scaling_factor
        self.register_buffer("palette", None)
        self.register_buffer("per_channel_scaling_factor", None)
        # Flags are floats: an average of a model's buffers takes them along and never rounds them down to zero.
        self.fake_palett_enabled = torch.zeros(1)
        self.register_buffer("initialised", torch.zeros(1))

    # The original keeps lists that coremltools' converter reads.

    @property
    def centroids(self) -> list[Any]:
        """The palettes as coremltools' converter reads them, one tensor (K, cluster_dim) a group; no tensor before."""
        return list(self.lut().unbind(0)) if self._initialised else [self.kmeans_init]

    @centroids.setter
    def centroids(self, value: list[Any]) -> None:
        """What the original's constructor sets is not used."""

    @property
    def partitions(self) -> list[list[int]]:
        """Channels of each group, empty before there is a palette."""
        if self.palette is None or not self._initialised:
            return []
        size = self._channels // self.palette.shape[0]
        return [list(range(start, start + size)) for start in range(0, self._channels, size)]

    @partitions.setter
    def partitions(self, value: list[Any]) -> None:
        """What the original's constructor sets is not used."""

    def enable_fake_palett(self, enabled: bool = True) -> None:
        """Begin to palettize, or stop."""
        self._enabled = enabled
        self.fake_palett_enabled.fill_(float(enabled))

    @property
    def enabled(self) -> bool:
        """Whether the weight is palettized; does not wait for a device."""
        return self._enabled

    def materialize(self, weight: Tensor) -> None:
        """Make the buffers for a weight, so that a state dict can be loaded before the first forward.

        Raises:
            ConfigurationError: If groups or vectors do not divide the channels.
        """
        form = self._form(weight)
        channels = weight.shape[form.channel_axis]
        size = self.group_size or max(channels, 1)
        for name, part, whole in (
            ("group_size", size, channels),
            ("cluster_dim", self.cluster_dim, min(size, channels)),
        ):
            if whole % part:
                valid = [divisor for divisor in range(1, whole + 1) if whole % divisor == 0]
                raise ConfigurationError(
                    f"{name} {part} does not divide the {whole} channels of {self.layer_name}; valid are {valid}"
                )
        self._channels = channels
        dtype = precision(weight.dtype)
        if self.palette is None:
            self.palette = torch.zeros(form.palette_shape(weight.shape), dtype=dtype, device=weight.device)
        if self.enable_per_channel_scale and self.per_channel_scaling_factor is None:
            shape = form.scales_shape(weight.shape)
            self.per_channel_scaling_factor = torch.zeros(shape, dtype=dtype, device=weight.device)
        for name in ("initialised", "fake_palett_enabled"):
            self._buffers[name] = self._buffers[name].to(weight.device)

    @torch.no_grad()
    def initialise(self, weight: Tensor) -> None:
        """Make the scales and the first palette from a weight.

        Raises:
            WeightError: If the weight holds NaN or infinity.
        """
        self.materialize(weight)
        assert self.palette is not None
        palettes = self._form(weight).begin(weight)
        self.palette.copy_(palettes.entries)
        if self.per_channel_scaling_factor is not None and palettes.scales is not None:
            self.per_channel_scaling_factor.copy_(palettes.scales)
        self._initialised = True
        self.initialised.fill_(1.0)

    def lut(self) -> Tensor:
        """The palettes rounded to `lut_dtype`, (G, K, cluster_dim)."""
        assert self.palette is not None
        return self._form(None).rounded(self.palette).values

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, weights: Tensor) -> Tensor:
        """Palettize softly and improve the palette in training; assign to the palette in evaluation.

        `torch.compile` passes over it: a palette is laid out with numpy, and a step changes it in place.
        """
        if not self._enabled or not weights.numel():
            return weights
        if self.palette is None or not self._channels:
            self.materialize(weights)
        if not self._initialised:
            self.initialise(weights)
        assert self.palette is not None
        form, palettes = self._form(weights), Palettes(self.palette, self.per_channel_scaling_factor)
        if not self.training:
            return form.assign(weights, palettes)
        clustered, updated = form.cluster(weights, palettes)
        with torch.no_grad():
            self.palette.copy_(updated)
        return clustered

    def _form(self, weight: Tensor | None) -> WeightPalette:
        """How the weight is palettized, as the options have it now: coremltools' palettizer changes some of them."""
        permutation = self.cluster_permute
        enforce_zero = bool(self.enforce_zero[0])
        return WeightPalette(
            name=self.layer_name,
            n_clusters=self.n_clusters,
            clustering=Clustering(
                temperature=self.palett_tau,
                iterations=self.kmeans_max_iter,
                epsilon=self.palett_epsilon,
                attention_floor=self.zero_threshold,
                mode=self.palett_mode,
            ),
            cluster_dim=self.cluster_dim,
            group_size=self.group_size,
            # As in the original, an order of other axes than the weight's is ignored.
            axes=tuple(permutation)
            if permutation and weight is not None and len(permutation) == weight.dim()
            else None,
            scale_scheme=self.per_channel_scaling_factor_scheme if self.enable_per_channel_scale else None,
            lut_dtype=self.lut_dtype,
            first=self.kmeans_init,
            enforce_zero=enforce_zero,
            prune_threshold=float(self.prune_threshold),
            keep_zeros=enforce_zero and self.prune_threshold == 0,
            soft_share=self.percentage_palett_enable,
            repetition_tolerance=self.palett_cluster_tol,
        )

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> FakePalettize:
        """Move with the module, but keep the palette's precision when the module is cast."""
        kept = {name: self._buffers[name] for name in _PRECISE if self._buffers.get(name) is not None}
        super()._apply(fn, recurse)
        for name, before in kept.items():
            after = self._buffers[name]
            if before is not None and after is not None and after.dtype != before.dtype:
                self._buffers[name] = before.to(after.device)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        nn.Module._save_to_state_dict(self, destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        for name in _SHAPED:
            saved = state_dict.get(prefix + name)
            if self._buffers[name] is None and isinstance(saved, Tensor):
                self._buffers[name] = torch.zeros_like(saved, device=self.initialised.device)
        nn.Module._load_from_state_dict(self, state_dict, prefix, *arguments)
        if self.initialised.device.type != "meta":
            self._enabled = bool(self.fake_palett_enabled > 0)
            self._initialised = bool(self.initialised > 0)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(n_bits={self.n_bits}, cluster_dim={self.cluster_dim}, "
            f"group_size={self.group_size}, lut_dtype={self.lut_dtype!r}, palett_tau={self.palett_tau}, "
            f"palett_mode={self.palett_mode!r}, enabled={self._enabled})"
        )


_SHAPED = ("palette", "per_channel_scaling_factor")
_PRECISE = (*_SHAPED, "initialised", "fake_palett_enabled")
