"""Palettization by differentiable k-means while a model trains (Cho et al., arXiv 2108.12659)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_compress.dkm.joint_palettes import PalettizedWeight
from lightning_compress.dkm.weight_palette import Palettes, precision
from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.annealing import Cooling
from lightning_compress.methods.joint_palettes import JointPalettes, join_palettes
from lightning_compress.methods.mechanism.configuration import Keys, Match, Schema, plain
from lightning_compress.methods.mechanism.method import Method, TensorState
from lightning_compress.methods.mechanism.schedule import FitLength
from lightning_compress.methods.mechanism.stored import StoredTensor
from lightning_compress.methods.mechanism.technique import Stage, Stepped, Technique
from lightning_compress.methods.mechanism.tensors import TensorReference
from lightning_compress.methods.palette_options import PaletteOptions, check_options, refuse_renamed
from lightning_compress.methods.palettes import (
    check_palette,
    palette_capabilities,
    palette_label,
    stored_palette,
    too_small,
    weight_palette,
)
from lightning_compress.package.targets import Capability


class DKMPalettization(Method):
    """Train with weights drawn from a palette of `2**n_bits` values that is learned with them.

    Every key of coremltools' `ModuleDKMPalettizerConfig` is a keyword argument, `n_bits` (1, 2, 3, 4, 6 or 8),
    `weight_threshold` (2048: smaller weights stay as they are), `granularity` and `group_size`,
    `enable_per_channel_scale`, `cluster_dim`, `milestone` and the options of the algorithm among them, beside
    `module_type_configs` and `module_name_configs`; a list there holds configurations for weights above one
    `weight_threshold` or another. The milestone, where palettization begins, is an `int` of optimizer steps or a
    `float` fraction of the fit. `PaletteOptions` says which keys do nothing here, and has five more, `estimator` and
    `annealing` among them.

    Args:
        configuration: The keys.

    Raises:
        ConfigurationError: An unknown key or an invalid value, with the valid ones.

    Example:
        >>> method = DKMPalettization(n_bits=2, module_type_configs={"Linear": {"n_bits": 4}})
    """

    schema = Schema("DKMPalettization", PaletteOptions, by_size="weight_threshold")

    def __init__(self, **configuration: Any) -> None:
        refuse_renamed(plain(configuration))
        super().__init__(**configuration)

    def check_values(self, keys: Keys, source: str) -> None:
        """Refuse bits, group sizes and milestones that cannot be, and what would be ignored."""
        check_options(keys, source)

    def reason_to_leave(self, reference: TensorReference, match: Match) -> str | None:
        """Weights of no more elements than the threshold gain nothing from a palette."""
        assert match.keys is not None
        return too_small(reference, PaletteOptions.of(match.keys))

    def check_tensor(self, reference: TensorReference, keys: Keys) -> None:
        """Refuse groups and vectors that do not divide the channels, and palettes larger than the weight."""
        check_palette(reference, PaletteOptions.of(keys))

    def check_plan(self, tensors: Collection[TensorReference], inputs: Collection[str]) -> None:
        """Refuse a configuration, or a part of one, that leaves nothing to palettize."""
        chosen = {self.configuration.match(reference).source for reference in tensors}
        for pattern, section in self.configuration.by_name.items():
            if section.entries and f"module_name_configs[{pattern!r}]" not in chosen:
                threshold = PaletteOptions.of(section.entries[0]).weight_threshold
                raise ConfigurationError(
                    f"module_name_configs[{pattern!r}] of DKMPalettization palettizes nothing: it matches only weights "
                    f"of no more elements than its weight_threshold of {threshold:,}, or that an earlier pattern "
                    "matches too; set weight_threshold to 0 for this pattern, or leave it out"
                )
        if not tensors:
            raise ConfigurationError(
                "DKMPalettization finds nothing to compress: no weight that its configuration leaves is larger than "
                "its weight_threshold (2048 unless set)"
            )

    def technique(self, reference: TensorReference, keys: Keys) -> Palette:
        """A palette for a tensor."""
        return Palette(reference, PaletteOptions.of(keys))

    def capabilities(self, reference: TensorReference, keys: Keys) -> Collection[Capability]:
        """What a package must be able to hold for a tensor's palette."""
        return palette_capabilities(reference, PaletteOptions.of(keys))

    def connect(self, states: Sequence[TensorState]) -> None:
        """Let palettes be computed in one go."""
        join_palettes(states)

    def unfinished(self, step: int, parts: Sequence[Stepped]) -> str | None:
        """The step reached and the last milestone."""
        last = max((part.last_step for part in parts), default=0)
        return None if step >= last else f"palettization stands at step {step} of {last}, its last milestone"


class Palette(Technique):
    """A palette on a tensor: clustered softly around while training, assigned to otherwise.

    A training pass starts from the palette that was committed and proposes an improved one.

    Args:
        reference: The tensor.
        options: Its keys.

    Attributes:
        palette: Buffer of the centroids, (G, K, D).
        scales: Buffer of what each channel is divided by before, (C, 1), or None for nothing.
    """

    stage = Stage.VALUES
    precise = frozenset({"palette", "scales"})

    palette: Tensor
    scales: Tensor | None

    def __init__(self, reference: TensorReference, options: PaletteOptions) -> None:
        super().__init__(reference.name)
        self._form = weight_palette(reference, options)
        self._vectors = options.cluster_dim or 1
        self._rank = len(reference.shape)
        self._bits_by_default = options.n_bits is None
        self._milestone = options.milestone
        self._annealing = options.annealing
        self._relative = options.share_of_variance(self._form.n_clusters, self._form.cluster_dim)
        self._temperature, self._cooled = options.temperature, 1.0
        self._cooling: Cooling | None = None
        self._begins_after: int | None = None
        if isinstance(options.milestone, int) and options.milestone > 0:
            self._begins_after = options.milestone + 1
        self._last_step = self._begins_after or 0
        self._proposal: Palettes | None = None
        self._joint: JointPalettes | None = None
        dtype = precision(reference.dtype)
        self.register_buffer("palette", torch.zeros(self._form.palette_shape(reference.shape), dtype=dtype))
        scaled = self._form.scale_scheme is not None
        scales = torch.zeros(self._form.scales_shape(reference.shape), dtype=dtype) if scaled else None
        self.register_buffer("scales", scales)
        self.add_switch("enabled", options.milestone == 0)
        self.add_switch("initialised")

    @property
    def label(self) -> str:
        """The bits of an index, and what is special about the palette."""
        default = " (n_bits is None: 4 in Linear, 2 in others)" if self._bits_by_default else ""
        if self._vectors != self._form.cluster_dim:
            default = f" (not of vectors of {self._vectors}, which do not fit)"
        return palette_label(self._form, default)

    @property
    def keeps_zeros(self) -> bool:
        """Whether zeros stay zeros, and an entry of the palette stands for them alone."""
        return self._form.keep_zeros

    @property
    def unit(self) -> tuple[int, int] | None:
        """The channels of a vector."""
        return (self._form.channel_axis, self._form.cluster_dim) if self._form.cluster_dim > 1 else None

    def join(self, before: Sequence[Technique], after: Sequence[Technique]) -> None:
        """Zeros that another technique decides stay zeros."""
        if any(technique.stage == Stage.ZEROS for technique in before):
            self._form = replace(self._form, keep_zeros=True)

    # Schedule.

    def resolve_schedule(self, length: FitLength) -> None:
        """Turn a milestone that is a fraction of the fit into steps."""
        if self._annealing is not None:
            self._cooling = self._annealing.resolve(length, f"the annealing of {self.tensor_name!r}")
        if self._milestone == 0:
            return
        step = length.step_of(self._milestone, f"the palettization milestone of {self.tensor_name!r}")
        # Milestones count from 0: milestone m takes effect after optimizer step m + 1.
        if isinstance(self._milestone, float) and step > 0:
            step -= 1
        self._begins_after = step + 1
        self._last_step = step + 1 if step > 0 else 0
        length.check(self._last_step, "the palettization schedule")

    @property
    def last_step(self) -> int:
        """The optimizer step after which the weight is palettized."""
        return self._last_step

    def begin(self, tensor: Callable[[], Tensor]) -> None:
        """Make the first palette of a weight that is palettized from the start."""
        # What passes before training proposed is of no step.
        self._proposal = None
        if self.is_on("enabled") and not self.is_on("initialised"):
            self._initialise(tensor())

    def advance(self, step: int, tensor: Callable[[], Tensor]) -> None:
        """Begin once the milestone is reached, or was passed."""
        if self._cooling is not None:
            self._attend_at(self._temperature, self._cooling.at(step))
        if not self.is_on("enabled") and self._begins_after is not None and step >= self._begins_after:
            self.switch("enabled", True)
            self.begin(tensor)

    def progress(self) -> dict[str, Any]:
        """The first temperature and what share of it is left, where they are not those of the configuration."""
        if self._annealing is None and self._relative is None:
            return {}
        return {"temperature": self._temperature, "cooled": self._cooled}

    def restore(self, progress: Mapping[str, Any]) -> None:
        """Attend at the temperature that was reached."""
        self._attend_at(progress["temperature"], progress["cooled"])

    # Values.

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, tensor: Tensor) -> Tensor:
        """Cluster softly and propose a better palette in training; assign to the palette in evaluation.

        `torch.compile` passes over it: a palette is laid out with numpy.
        """
        if not self.is_on("enabled") or not tensor.numel():
            return tensor
        palettes = self._palettes(tensor)
        if not self.training:
            return self._form.assign(tensor, palettes)
        joint = None if self._joint is None else self._joint.take(self, tensor)
        clustered, updated = joint or self._form.cluster(tensor, palettes)
        if self._proposal is None:
            self._proposal = Palettes(updated, palettes.scales)
        return clustered

    def to_cluster(self, weight: Tensor) -> PalettizedWeight | None:
        """What clustering takes in training, once there is a palette."""
        if not (self.training and self.is_on("enabled") and self.is_on("initialised")):
            return None
        return PalettizedWeight(self._form, weight, self.palette)

    def join_others(self, joint: JointPalettes) -> None:
        """From now on, ask for what is computed together with other weights."""
        self._joint = joint

    def commit(self) -> None:
        """Take up the palette that the first pass of the step proposed."""
        if self._joint is not None:
            self._joint.forget()
        if self._proposal is not None:
            self._hold(self._proposal)

    def complete(self, tensor: Tensor) -> None:
        """Make a palette where there is none yet."""
        self._form.check_finite(tensor)
        self.switch("enabled", True)
        if not self.is_on("initialised"):
            self._initialise(tensor)

    def store(self, stored: StoredTensor) -> StoredTensor:
        """Palettes, scales, and the integers that stand for entries, along the axis of the channels."""
        palettes = Palettes(self.palette, self.scales)
        return replace(stored, palette=stored_palette(self._form, palettes, self._rank))

    def lost_values(self, tensor: Tensor) -> Tensor | None:
        """The greatest share of a palette's entries that lie where others do."""
        if not self.is_on("initialised") or not tensor.numel():
            return None
        return self._form.lost_entries(tensor, Palettes(self.palette, self.scales))

    @property
    def remedy_for_lost_values(self) -> str:
        """A lower temperature."""
        if self._relative is not None:
            return f"a lower relative_tau than {self._relative:g} keeps entries apart"
        return f"a lower palett_tau than {self._temperature:g} keeps entries apart"

    def report(self, tensor: Tensor, compressed: Tensor) -> dict[str, Any]:
        """The palettes and the share of the weight that each entry has."""
        if not self.is_on("enabled") or not tensor.numel():
            return {}
        palettes = self._palettes(tensor)
        return {
            "palette": self._form.rounded(palettes.entries).values,
            "shares": self._form.shares(tensor, palettes),
        }

    def evaluated(self, tensor: Tensor) -> Tensor | None:
        """The tensor assigned to the palette, where training clusters it softly."""
        if not self.is_on("initialised") or not tensor.numel():
            return None
        # A pass of training clusters around the palette that it proposes.
        return self._form.assign(tensor, self._proposal or self._palettes(tensor))

    def _attend_at(self, first: float, cooled: float) -> None:
        self._temperature, self._cooled = first, cooled
        clustering = replace(self._form.clustering, temperature=first * cooled)
        self._form = replace(self._form, clustering=clustering)

    def _palettes(self, tensor: Tensor) -> Palettes:
        if self.is_on("initialised"):
            return Palettes(self.palette, self.scales)
        return self._form.begin(tensor)

    def _initialise(self, tensor: Tensor) -> None:
        if tensor.numel():
            palettes = self._form.begin(tensor)
            if self._relative is not None:
                variance = self._form.variance(tensor, palettes.scales)
                # A weight of one value has no spread to be soft over.
                self._attend_at(self._relative * variance or self._temperature, self._cooled)
            self._hold(palettes)

    @torch.no_grad()
    def _hold(self, palettes: Palettes) -> None:
        self._proposal = None
        self.palette.copy_(palettes.entries)
        if self.scales is not None and palettes.scales is not None and palettes.scales is not self.scales:
            self.scales.copy_(palettes.scales)
        self.switch("initialised", True)

    def _load_from_state_dict(self, *arguments: Any, **keywords: Any) -> None:
        super()._load_from_state_dict(*arguments, **keywords)
        self._proposal = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy goes its own way; others of its network need not be copied with it.
        return {**vars(self), "_joint": None}

    def extra_repr(self) -> str:
        """The palettes' size and what is special about them."""
        groups, clusters, dimensions = self.palette.shape
        return f"groups={groups}, entries={clusters}, cluster_dim={dimensions}, lut_dtype={self._form.lut_dtype!r}"
