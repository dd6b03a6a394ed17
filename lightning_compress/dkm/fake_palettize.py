"""`FakePalettize`: coremltools' palettization of one weight while training, on the histogram kernel."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from coremltools.optimize.torch.palettization import FakePalettize as CoreMLFakePalettize
from coremltools.optimize.torch.palettization._partitioner import NF_CLUSTER_SIZES
from torch import Tensor, nn

from lightning_compress.dkm.duplicates import spread_duplicates
from lightning_compress.dkm.functional import palettize
from lightning_compress.dkm.hard import assign_hard
from lightning_compress.dkm.initial import first_palette
from lightning_compress.dkm.lut import round_palette
from lightning_compress.dkm.scales import channel_scales
from lightning_compress.errors import ConfigurationError, WeightError

_logger = logging.getLogger(__name__)


class FakePalettize(CoreMLFakePalettize):  # type: ignore[misc]
    """Cluster a weight around a palette in every training step, and assign it to the palette in evaluation.

    A drop-in for the class of the same name in coremltools, with the same constructor, for what that class does with
    scalar clusters (`cluster_dim` 1, `palett_mode` "dkm"): per tensor or in groups of channels, with per-channel
    scales, `enforce_zero`, `prune_threshold`, `cluster_permute`, any temperature and number of iterations. It costs a
    few passes over the weight where the original costs an attention matrix per iteration
    (see `lightning_compress.dkm.palettize`). Other modes run coremltools' own code on the same buffers, and say so
    in the log.

    What differs from the original:

    - Palette and scales are buffers, all in full precision whatever the module is cast to. The state dict holds
      tensors only, of shapes that follow from the configuration and the weight, and loads before the first forward.
    - Nothing of the weight's size is kept from one step to the next, and evaluation assigns the weights anew.
    - The first palette is k-means by dynamic programming: deterministic, the same on every rank.
    - `prune_threshold` counts only where the first centroid is zero, that is with `enforce_zero`.
    - With `enforce_zero` and a `prune_threshold` of 0, and in pruned modules, zeros stay zeros exactly and the other
      centroids cluster the other weights.

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
        keep_zeros: Whether zeros stay zeros.
        layer_name: Name for error messages.

    Raises:
        ConfigurationError: For a type of LUT or a mode that does not exist.
    """

    enforce_zero: list[bool]
    palette: Tensor | None
    initialised: Tensor
    zeros_kept: Tensor
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
        self._original_centroids: list[Any] = []
        self._original_partitions: list[Any] = []
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
        self._channels = 0
        self._enabled = False
        self._initialised = False
        self._keep_zeros = bool(self.enforce_zero[0]) and self.prune_threshold == 0
        self.lut_dtype = _LUT_DTYPES.get(lut_dtype, "")
        if not self.lut_dtype:
            raise ConfigurationError(f"lut_dtype is {lut_dtype!r}; valid are {sorted(_LUT_DTYPES)}")
        # The original fake-quantizes LUTs by an observer that it never switches on.
        self.need_to_quantize = False
        self.served = (
            self.cluster_dim == 1 and self.palett_mode == "dkm" and self.percentage_palett_enable >= 1
        )
        del self.per_channel_scaling_factor
        self.register_buffer("palette", None)
        self.register_buffer("per_channel_scaling_factor", None)
        # Flags are floats: an average of a model's buffers takes them along and never rounds them down to zero.
        self.fake_palett_enabled = torch.zeros(1)
        self.register_buffer("initialised", torch.zeros(1))
        self.register_buffer("zeros_kept", torch.full((1,), float(self._keep_zeros)))

    # The original keeps centroids and partitions in lists that coremltools' converter reads.

    @property
    def centroids(self) -> list[Any]:
        """The palettes as coremltools' converter reads them, one tensor (K, cluster_dim) a group."""
        if not self.served or self.palette is None or not self._initialised:
            return self._original_centroids
        return list(self.lut().unbind(0))

    @centroids.setter
    def centroids(self, value: list[Any]) -> None:
        self._original_centroids = value

    @property
    def partitions(self) -> list[Any]:
        """Channels of each group, empty before there is a palette."""
        if not self.served or self.palette is None or not self._initialised:
            return self._original_partitions
        size = self._channels // self.palette.shape[0]
        return [list(range(start, start + size)) for start in range(0, self._channels, size)]

    @partitions.setter
    def partitions(self, value: list[Any]) -> None:
        self._original_partitions = value

    @property
    def keep_zeros(self) -> bool:
        """Whether zeros stay zeros and take no part in the clustering of the other weights."""
        return self._keep_zeros

    @keep_zeros.setter
    def keep_zeros(self, keep: bool) -> None:
        if keep == self._keep_zeros:
            return
        self._keep_zeros = keep
        self.zeros_kept.fill_(float(keep))
        # A palette without a zero must be made anew.
        if keep and self._initialised and self.palette is not None and bool((self.palette[:, 0] != 0).any()):
            self._set_initialised(False)

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
            ConfigurationError: If the groups do not divide the channels.
        """
        permuted = self._permute(weight.detach())
        channels = permuted.shape[0]
        size = self.group_size or max(channels, 1)
        if channels % size:
            valid = [divisor for divisor in range(1, channels + 1) if channels % divisor == 0]
            raise ConfigurationError(
                f"group_size {size} does not divide the {channels} channels of {self.layer_name}; valid are {valid}"
            )
        self._channels = channels
        if self.palette is None:
            shape = (max(channels // size, 1), self.n_clusters, self.cluster_dim)
            self.palette = torch.zeros(shape, dtype=_precision(weight), device=weight.device)
        if self.enable_per_channel_scale and self.per_channel_scaling_factor is None:
            self.per_channel_scaling_factor = torch.zeros(
                (channels, 1), dtype=_precision(weight), device=weight.device
            )
        for name in ("initialised", "zeros_kept", "fake_palett_enabled"):
            self._buffers[name] = self._buffers[name].to(weight.device)

    @torch.no_grad()
    def initialise(self, weight: Tensor) -> None:
        """Make the scales and the first palette from a weight.

        Raises:
            WeightError: If the weight holds NaN or infinity.
        """
        self.materialize(weight)
        assert self.palette is not None
        self.check_finite(weight)
        values = self._permute(weight.detach())
        if self.per_channel_scaling_factor is not None:
            precise = values.to(_precision(values))
            self.per_channel_scaling_factor.copy_(
                channel_scales(precise, self.per_channel_scaling_factor_scheme)
            )
            values = self._scaled(values)
        if not self.served:
            with self._original_lists(values):
                self.init_partitions(values.clone())
        else:
            self.palette.copy_(self._first_palette(values))
        self._set_initialised(True)

    def check_finite(self, weight: Tensor) -> None:
        """Raise WeightError, naming the layer, if the weight holds NaN or infinity."""
        finite = torch.isfinite(weight)
        if not bool(finite.all()):
            bad = weight[~finite][0].item()
            raise WeightError(f"{self.layer_name} holds {bad}: weights must be finite to be palettized")

    def lut(self) -> Tensor:
        """The palettes rounded to `lut_dtype`, (G, K, cluster_dim)."""
        assert self.palette is not None
        return round_palette(self.palette, self.lut_dtype).values

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, weights: Tensor) -> Tensor:
        """Palettize softly and improve the palette in training; assign to the palette in evaluation.

        `torch.compile` passes over it: the first palette is made with numpy, and a step changes the palette in place.
        """
        if not self._enabled or not weights.numel():
            return weights
        if self.palette is None or not self._channels:
            self.materialize(weights)
        if not self._initialised:
            self.initialise(weights)
        if not self.served:
            return self._forward_original(weights)
        assert self.palette is not None
        values = self._scaled(self._permute(weights))
        if self.training:
            values = self._cluster(values)
        else:
            groups = self.palette.shape[0]
            hard = assign_hard(
                values.reshape(groups, -1),
                self.lut().squeeze(-1),
                zero_preference=self._zero_preference(),
                keep_zeros=self._keep_zeros,
            )
            values = hard.view(values.shape)
        if self.per_channel_scaling_factor is not None:
            values = values * self._channel_view(values)
        values = values.to(weights.dtype)
        if self.cluster_permute:
            inverse = sorted(range(values.dim()), key=lambda axis: self.cluster_permute[axis])
            values = values.permute(inverse)
        if self.lut_dtype in ("f16", "bf16"):
            values = values.to(_HALVES[self.lut_dtype]).to(weights.dtype)
        return values

    def _cluster(self, values: Tensor) -> Tensor:
        assert self.palette is not None
        palette = spread_duplicates(
            self.palette,
            first_free=int(self._keep_zeros or bool(self.enforce_zero[0])),
            tolerance=self.palett_cluster_tol,
        )
        try:
            values, updated = palettize(
                values,
                palette,
                temperature=self.palett_tau,
                iterations=self.kmeans_max_iter,
                epsilon=self.palett_epsilon,
                attention_floor=self.zero_threshold,
                fix_zero=bool(self.enforce_zero[0]),
                zero_preference=self._zero_preference(),
                keep_zeros=self._keep_zeros,
            )
        except WeightError as error:
            raise WeightError(f"{self.layer_name}: {error}") from None
        self.palette.copy_(updated.detach())
        return values

    def _zero_preference(self) -> float:
        return float(self.prune_threshold) if self.enforce_zero[0] and not self._keep_zeros else 0.0

    def _first_palette(self, values: Tensor) -> Tensor:
        assert self.palette is not None
        groups = self.palette.shape[0]
        if "nf" in self.kmeans_init and self.n_clusters in NF_CLUSTER_SIZES:
            with self._original_lists(values):
                self.init_partitions(values.clone())
            return self.palette
        grouped = values.reshape(groups, -1)
        palette = first_palette(grouped, self.n_clusters, keep_zeros=self._keep_zeros)
        if self.enforce_zero[0] and not self._keep_zeros:
            # The centroid nearest to zero becomes zero and, as coremltools has it, the first.
            rows = torch.arange(groups)
            nearest = palette.abs().argmin(dim=-1)
            palette[rows, nearest] = palette[:, 0].clone()
            palette[:, 0] = 0.0
        return palette.unsqueeze(-1)

    def _permute(self, weight: Tensor) -> Tensor:
        if self.cluster_permute and len(self.cluster_permute) == weight.dim():
            return weight.permute(self.cluster_permute)
        return weight

    def _scaled(self, values: Tensor) -> Tensor:
        if self.per_channel_scaling_factor is None:
            return values
        return values.to(self.per_channel_scaling_factor.dtype) / self._channel_view(values)

    def _channel_view(self, values: Tensor) -> Tensor:
        assert self.per_channel_scaling_factor is not None
        return self.per_channel_scaling_factor.view(-1, *[1] * (values.dim() - 1))

    # Modes that the histogram does not serve run coremltools' code on lists that are filled from the buffers.

    def _forward_original(self, weights: Tensor) -> Tensor:
        _log_once(
            f"cluster_dim={self.cluster_dim}, palett_mode={self.palett_mode!r} runs coremltools' own kernel, "
            "whose time and memory grow with the number of clusters"
        )
        gradients = torch.is_grad_enabled() and weights.requires_grad
        with (
            self._original_lists(self._permute(weights.detach())),
            torch.set_grad_enabled(gradients),
            torch.autocast(device_type=weights.device.type, enabled=False),
        ):
            palettized: Tensor = super().forward(weights)
        return palettized

    @contextmanager
    def _original_lists(self, values: Tensor) -> Iterator[None]:
        """Fill the original's lists from the buffers, and the buffers from the lists afterwards."""
        assert self.palette is not None
        served, self.served = self.served, False
        enforce_zero = self.enforce_zero[:1]
        try:
            self.enforce_zero = list(enforce_zero)
            self.centroids, self.labels = [self.kmeans_init], [None]
            self.create_partitions(values)
            if self._initialised:
                self.centroids = [group.to(values.dtype) for group in self.palette.clone().unbind(0)]
            yield
            self.palette.copy_(torch.stack(self.centroids))
        finally:
            self.served = served
            self.enforce_zero = enforce_zero
            # Labels have the size of the weight and go stale with it.
            self.labels = [None] * len(self.labels)

    def _set_initialised(self, initialised: bool) -> None:
        self._initialised = initialised
        self.initialised.fill_(float(initialised))

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

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        for name in _SHAPED:
            saved = state_dict.get(prefix + name)
            if self._buffers[name] is None and isinstance(saved, Tensor):
                self._buffers[name] = torch.zeros_like(saved, device=self.initialised.device)
        nn.Module._load_from_state_dict(
            self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if self.initialised.device.type != "meta":
            self._enabled = bool(self.fake_palett_enabled > 0)
            self._initialised = bool(self.initialised > 0)
            self._keep_zeros = bool(self.zeros_kept > 0)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(n_bits={self.n_bits}, cluster_dim={self.cluster_dim}, "
            f"group_size={self.group_size}, lut_dtype={self.lut_dtype!r}, palett_tau={self.palett_tau}, "
            f"palett_mode={self.palett_mode!r}, enabled={self._enabled})"
        )


_LUT_DTYPES = {
    "f32": "f32",
    "float32": "f32",
    "f16": "f16",
    "float16": "f16",
    # The configuration's documentation says bf16, the original's code b16.
    "bf16": "bf16",
    "b16": "bf16",
    "bfloat16": "bf16",
    "i8": "i8",
    "int8": "i8",
    "u8": "u8",
    "uint8": "u8",
}
_HALVES = {"f16": torch.float16, "bf16": torch.bfloat16}
_SHAPED = ("palette", "per_channel_scaling_factor")
_PRECISE = (*_SHAPED, "initialised", "zeros_kept", "fake_palett_enabled")
_logged: set[str] = set()


def _log_once(message: str) -> None:
    if message not in _logged:
        _logged.add(message)
        _logger.warning(message)


def _precision(weight: Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype == torch.float64 else torch.float32
