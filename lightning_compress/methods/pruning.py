"""Magnitude pruning while a model trains (Zhu & Gupta, arXiv 1710.01878)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.global_sparsity import shared_masks
from lightning_compress.methods.magnitude_masks import Granularity, magnitude_mask, ratio_mask
from lightning_compress.methods.mechanism.configuration import Keys, Match, Schema
from lightning_compress.methods.mechanism.layers import Layout
from lightning_compress.methods.mechanism.method import Method, TensorState
from lightning_compress.methods.mechanism.schedule import FitLength
from lightning_compress.methods.mechanism.stored import StoredTensor
from lightning_compress.methods.mechanism.technique import Stage, Stepped, Technique
from lightning_compress.methods.mechanism.tensors import TensorReference
from lightning_compress.methods.sparsity_schedule import SparsitySchedule, check_schedule, resolve_schedule
from lightning_compress.package.targets import Capability

_logger = logging.getLogger(__name__)

_GRANULARITIES = {"per_scalar": None, "per_kernel": 2, "per_channel": 1}
"""By how many axes, output and input channels first, the parts that are pruned together are told apart."""

_ALLOCATIONS = ("uniform", "global")


@dataclass(frozen=True)
class PruningOptions:
    """The keys of one tensor and their defaults: coremltools' `ModuleMagnitudePrunerConfig`, and `allocation`.

    Attributes:
        scheduler: When the sparsity is reached: see `MagnitudePruning`.
        initial_sparsity: Fraction of zeros at the beginning.
        target_sparsity: Fraction of zeros at the end.
        granularity: "per_scalar", "per_kernel" or "per_channel".
        block_size: Number of output channels that are pruned together.
        n_m_ratio: Of every m weights n become zero.
        dim: 1 for ratios along the input channels, 0 along the output channels.
        param_name: The parameter of a layer to prune; None for all of its weights.
        allocation: "uniform" for the target in every tensor, "global" for one threshold over all tensors.
        min_density: Least fraction of weights that "global" keeps in each tensor.
    """

    scheduler: Mapping[str, Any] | None = None
    initial_sparsity: float = 0.0
    target_sparsity: float = 0.5
    granularity: str = "per_scalar"
    block_size: int = 1
    n_m_ratio: Sequence[int] | None = None
    dim: int = 1
    param_name: str | None = None
    allocation: str = "uniform"
    min_density: float = 0.05

    @property
    def target(self) -> float:
        """The sparsity at the end, which a ratio implies."""
        return self.target_sparsity if self.n_m_ratio is None else self.n_m_ratio[0] / self.n_m_ratio[1]


class MagnitudePruning(Method):
    """Drop the weights of smallest magnitude while the model trains.

    Every key of coremltools' `ModuleMagnitudePrunerConfig` is a keyword argument: `target_sparsity` (0.5),
    `initial_sparsity` (0), `granularity` (`per_scalar`, `per_kernel`, `per_channel`), `block_size`, `n_m_ratio`, `dim`,
    `param_name` and `scheduler`, beside `module_type_configs` and `module_name_configs`. A scheduler is one of

    - `{"begin_step": s}`: the whole sparsity at once, from step `s` (the default, with `s = 0`),
    - `{"update_steps": [...] or "range(start, end, step)", "power": 3}`: coremltools' polynomial schedule,
    - `{"begin_step": s, "end_step": e, "updates": 50, "power": 3}`: the same with evenly spaced updates,

    where a step is an `int` number of optimizer steps or a `float` fraction of the fit.

    With `allocation="global"` the target is that of the whole network: one threshold over all tensors decides, on
    magnitudes scaled by layer (see `lightning_compress.methods.global_sparsity`), and `min_density` (0.05) of each
    tensor is kept in any case. Small networks, whose first and last layers do much with few weights, keep far more of
    their accuracy so.

    Joined with a palette of vectors, whole vectors are pruned.

    Raises:
        ConfigurationError: An unknown key or an invalid value, with the valid ones.

    Example:
        Reach 75% sparsity by 60% of training, and leave the head alone:

        >>> method = MagnitudePruning(
        ...     target_sparsity=0.75,
        ...     scheduler={"begin_step": 0.1, "end_step": 0.6},
        ...     module_name_configs={"head": None},
        ... )
    """

    schema = Schema(technique="MagnitudePruning", options=PruningOptions)

    def check_values(self, keys: Keys, source: str) -> None:
        """Refuse sparsities, granularities, ratios and schedules that cannot be."""
        for key in ("target_sparsity", "initial_sparsity", "min_density"):
            value = keys.get(key, 0.0)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise ConfigurationError(f"{key} of {source} is {value!r}; valid is a number in [0, 1)")
        for key, valid in (
            ("granularity", tuple(_GRANULARITIES)),
            ("allocation", _ALLOCATIONS),
            ("dim", (0, 1)),
        ):
            if key in keys and (keys[key] not in valid or isinstance(keys[key], bool)):
                raise ConfigurationError(f"{key} of {source} is {keys[key]!r}; valid are {list(valid)}")
        block_size = keys.get("block_size", 1)
        if isinstance(block_size, bool) or not isinstance(block_size, int) or block_size < 1:
            raise ConfigurationError(f"block_size of {source} is {block_size!r}; valid is an int from 1")
        if keys.get("n_m_ratio") is not None:
            _check_ratio(keys["n_m_ratio"], keys, source)
        if keys.get("allocation") == "global":
            _require_only(
                "allocation='global'",
                keys,
                source,
                n_m_ratio=None,
                block_size=1,
                granularity="per_scalar",
                initial_sparsity=0,
            )
        elif "min_density" in keys:
            raise ConfigurationError(
                f"min_density of {source} is {keys['min_density']!r}, which has no meaning without allocation='global'"
            )
        check_schedule(keys.get("scheduler"), source)

    def reason_to_leave(self, reference: TensorReference, match: Match) -> str | None:
        """Another parameter of the layer is asked for."""
        name = (match.keys or {}).get("param_name")
        if name is None or any(owner.parameter == name for owner in reference.owners):
            return None
        module = reference.owners[0].module
        if not isinstance(getattr(module, str(name), None), Tensor):
            raise ConfigurationError(
                f"param_name {name!r} is no parameter of {reference.owners[0].module_name!r}; valid are "
                f"{[key for key, _ in module.named_parameters(recurse=False)]}"
            )
        return f"param_name is {name!r}"

    def check_tensor(self, reference: TensorReference, keys: Keys) -> None:
        """Refuse blocks and ratios that do not fit the channels."""
        options = PruningOptions(**keys)
        shape = _channels_first(reference.shape, reference.layout)
        parts = math.ceil(shape[0] / options.block_size) * math.prod(
            shape[1 : _kept_axes(options, len(shape))]
        )
        if options.block_size > 1 and parts == 1:
            raise ConfigurationError(
                f"block_size is {options.block_size}, but {reference.name!r} has {shape[0]} output channels, and all "
                f"of them would be pruned together or not at all; valid are 1 to {shape[0] - 1}, or exclude the module"
            )
        if options.n_m_ratio is not None and shape[options.dim] % options.n_m_ratio[1]:
            raise ConfigurationError(
                f"n_m_ratio {list(options.n_m_ratio)} needs a number of channels along its dim {options.dim} that "
                f"{options.n_m_ratio[1]} divides, and {reference.name!r} has {shape[options.dim]}; exclude it with "
                "module_name_configs, or give it a target_sparsity instead"
            )
        if len(shape) < 3 and options.granularity != "per_scalar":
            _logger.warning(
                "granularity %s has no meaning for %s, whose weight has %d dimensions: it is pruned per scalar",
                options.granularity,
                reference.name,
                len(shape),
            )

    def technique(self, reference: TensorReference, keys: Keys) -> Mask:
        """A mask for a tensor."""
        return Mask(reference.name, reference.shape, reference.layout, PruningOptions(**keys))

    def capabilities(self, reference: TensorReference, keys: Keys) -> Collection[Capability]:
        """Sparse weights."""
        return {Capability.SPARSE_WEIGHTS}

    def advance(self, step: int, states: Sequence[TensorState]) -> None:
        """Update the masks that are due, those of `allocation="global"` together."""
        masks = [(state.technique, state.tensor) for state in states if isinstance(state.technique, Mask)]
        together = [(mask, tensor) for mask, tensor in masks if mask.options.allocation == "global"]
        for mask, tensor in masks:
            if mask.options.allocation != "global":
                mask.advance(step, tensor)
        changed = [mask.take_level(step) for mask, _ in together]
        if any(changed):
            found = shared_masks(
                [tensor() for _, tensor in together],
                [mask.level for mask, _ in together],
                [mask.options.min_density for mask, _ in together],
            )
            for (mask, _), kept in zip(together, found, strict=True):
                mask.mask.copy_(kept)

    def metrics(self, states: Sequence[TensorState]) -> dict[str, float]:
        """`sparsity`: the fraction of zeros over all masks."""
        masks = [state.technique for state in states if isinstance(state.technique, Mask)]
        kept, total = sum(mask.kept() for mask in masks), sum(mask.mask.numel() for mask in masks)
        return {"sparsity": 1 - kept / total} if total else {}

    def unfinished(self, step: int, parts: Sequence[Stepped]) -> str | None:
        """The step reached, the last one of the schedule, and the sparsity reached."""
        masks = [part for part in parts if isinstance(part, Mask)]
        last = max((mask.last_step for mask in masks), default=0)
        if step >= last:
            return None
        kept, total = sum(mask.kept() for mask in masks), sum(mask.mask.numel() for mask in masks)
        return f"pruning stands at step {step} of {last} and at a sparsity of {1 - kept / total:.3f}"


class Mask(Technique):
    """Zeros in a tensor: the tensor times a mask that the schedule renews.

    Args:
        tensor_name: Dotted name of the tensor.
        shape: Its shape.
        layout: What its axes mean.
        options: What is asked for.

    Attributes:
        mask: Buffer of the tensor's shape, 0 where it is zero and 1 elsewhere: averages of models cannot compute with
            booleans.
        level: The sparsity that the mask was made for.
    """

    stage = Stage.ZEROS
    mask: Tensor

    def __init__(self, tensor_name: str, shape: torch.Size, layout: Layout, options: PruningOptions) -> None:
        super().__init__(tensor_name)
        self.options = options
        self.level = 0.0
        self._layout = layout
        self._granularity = Granularity(_GRANULARITIES[options.granularity], options.block_size)
        self._schedule: SparsitySchedule | None = None
        self._is_new = True
        self.register_buffer("mask", torch.ones(shape, dtype=torch.uint8))

    @property
    def label(self) -> str:
        """The target, and what is pruned together."""
        together = f", {self._granularity.block_size} together" if self._granularity.block_size > 1 else ""
        return f"{self.options.target:.0%} zeros{together}"

    def forward(self, tensor: Tensor) -> Tensor:
        """The tensor with its zeros."""
        return tensor * self.mask

    def join(self, before: Sequence[Technique], after: Sequence[Technique]) -> None:
        """Prune what a later technique stores as one together."""
        for technique in after:
            if technique.unit is not None:
                self._prune_together(*technique.unit)

    def _prune_together(self, axis: int, count: int) -> None:
        channel_axis = _order(len(self.mask.shape), self._layout).index(axis)
        if self._granularity == Granularity() and self.options.n_m_ratio is None:
            if self.options.allocation == "global":
                raise ConfigurationError(
                    f"allocation='global' prunes single weights of {self.tensor_name!r}, and its palette of vectors "
                    f"stores {count} as one; use allocation='uniform', or a palette of cluster_dim=1"
                )
            self._granularity = Granularity(None, count, channel_axis)
        elif channel_axis != 0 or self.options.block_size % count or self.options.n_m_ratio is not None:
            raise ConfigurationError(
                f"{self.tensor_name!r} is pruned with {self._described()}, and its palette of vectors stores {count} "
                f"elements along axis {axis} as one; leave these keys out, and whole vectors are pruned, or give a "
                f"block_size that is a multiple of {count}"
            )

    def _described(self) -> str:
        keys = ("granularity", "block_size", "n_m_ratio")
        return ", ".join(f"{key}={getattr(self.options, key)!r}" for key in keys)

    def resolve_schedule(self, length: FitLength) -> None:
        """Turn fractions of the fit into steps."""
        self._schedule = resolve_schedule(
            self.options.scheduler, length, f"the pruning schedule of {self.tensor_name!r}"
        )

    @property
    def last_step(self) -> int:
        """The last step at which the mask changes."""
        return 0 if self._schedule is None else self._schedule.last_step

    def begin(self, tensor: Callable[[], Tensor]) -> None:
        """Make the mask of the initial sparsity."""
        if self._is_new and self.options.initial_sparsity:
            self.level = self.options.initial_sparsity
            self.mask.copy_(self._mask_for(tensor()))
        self._is_new = False

    def take_level(self, step: int) -> bool:
        """Take the level of the schedule after an optimizer step; whether it is another."""
        if self._schedule is None:
            return False
        level = self._schedule.level(step, self.level, self.options.initial_sparsity, self.options.target)
        changed, self.level = level != self.level, level
        return changed

    def advance(self, step: int, tensor: Callable[[], Tensor]) -> None:
        """Make another mask if the schedule says so."""
        if self.take_level(step):
            self.mask.copy_(self._mask_for(tensor()))

    def complete(self, tensor: Tensor) -> None:
        """Nothing: a mask that has not begun keeps everything."""

    def anticipate(self, tensor: Tensor) -> None:
        """Take the sparsity at the end of the schedule."""
        self.level = self.options.target
        self.mask.copy_(self._mask_for(tensor))

    def store(self, stored: StoredTensor) -> StoredTensor:
        """Store what is not zero."""
        return replace(stored, sparse=self.kept() < self.mask.numel())

    def kept(self) -> int:
        """Number of weights that are not zero."""
        return int(self.mask.count_nonzero())

    def progress(self) -> dict[str, Any]:
        """The sparsity level, which float32 would round."""
        return {"level": self.level}

    def restore(self, progress: Mapping[str, Any]) -> None:
        """Take up the sparsity level."""
        self.level = float(progress["level"])
        self._is_new = False

    def report(self, tensor: Tensor, compressed: Tensor) -> dict[str, Any]:
        """The sparsity reached."""
        return {"sparsity": 1 - self.kept() / self.mask.numel()}

    def _mask_for(self, tensor: Tensor) -> Tensor:
        order = _order(tensor.dim(), self._layout)
        weight = tensor.permute(order)
        ratio = self.options.n_m_ratio
        zeros = 0 if ratio is None else _zeros_of_block(self.level, ratio[1])
        if ratio is not None and zeros:
            mask = ratio_mask(weight, zeros, ratio[1], along_input=self.options.dim == 1)
        else:
            mask = magnitude_mask(weight, self.level, self._granularity)
        return mask.permute([order.index(axis) for axis in range(tensor.dim())])


def _order(rank: int, layout: Layout) -> list[int]:
    """The axes of a tensor, its output channels first and its input channels second."""
    first = [layout.output_axis, layout.input_axis]
    return first + [axis for axis in range(rank) if axis not in first]


def _channels_first(shape: torch.Size, layout: Layout) -> list[int]:
    return [shape[axis] for axis in _order(len(shape), layout)]


def _kept_axes(options: PruningOptions, rank: int) -> int:
    kept = _GRANULARITIES[options.granularity]
    return rank if kept is None or rank < 3 else kept


def _zeros_of_block(level: float, block: int) -> int:
    # A level of n / m times m may lie just under n.
    zeros = round(level * block)
    return zeros if abs(level * block - zeros) < 1e-6 else int(level * block)


def _check_ratio(ratio: Any, keys: Keys, source: str) -> None:
    valid = isinstance(ratio, list | tuple) and len(ratio) == 2 and all(type(part) is int for part in ratio)
    if not valid or not 0 < ratio[0] < ratio[1]:
        raise ConfigurationError(
            f"n_m_ratio of {source} is {ratio!r}; valid are two ints n, m with 0 < n < m: n of each m weights become "
            "zero"
        )
    _require_only("n_m_ratio", keys, source, block_size=1, granularity="per_scalar", initial_sparsity=0)


def _require_only(what: str, keys: Keys, source: str, **only: Any) -> None:
    for key, value in only.items():
        if keys.get(key, value) != value:
            raise ConfigurationError(
                f"{key} of {source} is {keys[key]!r}; with {what} only {value!r} is valid"
            )
