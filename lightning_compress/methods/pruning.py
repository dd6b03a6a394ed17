"""Magnitude pruning while a model trains (Zhu & Gupta, arXiv 1710.01878), on coremltools' `MagnitudePruner`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from coremltools.optimize.torch.pruning import (
    ConstantSparsityScheduler,
    ModuleMagnitudePrunerConfig,
    PolynomialDecayScheduler,
)
from torch import nn

from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.base import Method, PreparedMethod, check_finite, refuse_empty
from lightning_compress.methods.configuration import Schema, nearest_key
from lightning_compress.methods.masks import new_pruner
from lightning_compress.methods.schedule import FitLength, Point, check_point, expand_range
from lightning_compress.package.targets import Capability

_logger = logging.getLogger(__name__)

_GRANULARITIES = ("per_scalar", "per_kernel", "per_channel")
_SCHEDULER_KEYS = ("begin_step", "end_step", "updates", "update_steps", "power")
_DEFAULT_UPDATES = 50


class MagnitudePruning(Method):
    """Drop the weights of smallest magnitude while the model trains.

    Every key of coremltools' `ModuleMagnitudePrunerConfig` is a keyword argument: `target_sparsity` (0.5),
    `initial_sparsity` (0), `granularity` (`per_scalar`, `per_kernel`, `per_channel`), `block_size`, `n_m_ratio`, `dim`,
    `param_name` and `scheduler`, beside `module_type_configs` and `module_name_configs`. A scheduler is one of

    - `{"begin_step": s}`: the whole sparsity at once, from step `s` (the default, with `s = 0`),
    - `{"update_steps": [...] or "range(start, end, step)", "power": 3}`: coremltools' polynomial schedule,
    - `{"begin_step": s, "end_step": e, "updates": 50, "power": 3}`: the same with evenly spaced updates,

    where a step is an `int` number of optimizer steps or a `float` fraction of the fit.

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

    schema = Schema(
        technique="MagnitudePruning",
        module_class=ModuleMagnitudePrunerConfig,
        module_types=(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    )

    def check_values(self, keys: Mapping[str, Any], source: str) -> None:
        """Refuse sparsities, granularities, ratios and schedules that cannot be."""
        for key in ("target_sparsity", "initial_sparsity"):
            value = keys.get(key, 0.0)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise ConfigurationError(f"{key} of {source} is {value!r}; valid is a number in [0, 1)")
        granularity = keys.get("granularity", "per_scalar")
        if granularity not in _GRANULARITIES:
            raise ConfigurationError(
                f"granularity of {source} is {granularity!r}; valid are {list(_GRANULARITIES)}"
            )
        block_size = keys.get("block_size", 1)
        if isinstance(block_size, bool) or not isinstance(block_size, int) or block_size < 1:
            raise ConfigurationError(f"block_size of {source} is {block_size!r}; valid is an int from 1")
        if keys.get("dim", 1) not in (0, 1):
            raise ConfigurationError(f"dim of {source} is {keys['dim']!r}; valid are 0 and 1")
        ratio = keys.get("n_m_ratio")
        if ratio is not None:
            _check_ratio(ratio, keys, source)
        _check_scheduler(keys.get("scheduler"), source)

    def select(self, module: nn.Module) -> dict[str, dict[str, Any]]:
        """The modules to prune, by name, each with its keys."""
        self.configuration.check_patterns(module)
        selection: dict[str, dict[str, Any]] = {}
        for name, submodule in module.named_modules():
            if not isinstance(submodule, self.schema.module_types):
                continue
            keys, _ = self.configuration.keys_for(name, submodule)
            if keys is None:
                continue
            parameter = getattr(submodule, keys.get("param_name", "weight"), None)
            if not isinstance(parameter, nn.Parameter):
                raise ConfigurationError(
                    f"param_name {keys['param_name']!r} is no parameter of {name!r}; valid are "
                    f"{[key for key, _ in submodule.named_parameters(recurse=False)]}"
                )
            check_finite(name, parameter)
            _check_block(name, parameter, keys)
            selection[name] = keys
        _check_ratio_channels(module, selection)
        refuse_empty(
            selection,
            "MagnitudePruning",
            "no module of type Linear, Conv1d, Conv2d or Conv3d is left by its configuration",
        )
        return selection

    def capabilities(self, selection: Mapping[str, Mapping[str, Any]]) -> set[Capability]:
        """Sparse weights."""
        return {Capability.SPARSE_WEIGHTS}

    def prepare(
        self,
        module: nn.Module,
        selection: Mapping[str, Mapping[str, Any]],
        example_inputs: tuple[Any, ...] | None = None,
    ) -> PreparedPruning:
        """Insert a mask into each selected module of `module`, in place."""
        return PreparedPruning(module, selection)


class PreparedPruning(PreparedMethod):
    """Masks in a module and where their schedules stand."""

    def __init__(self, module: nn.Module, selection: Mapping[str, Mapping[str, Any]]) -> None:
        self.module = module
        self._schedulers = {
            name: keys.get("scheduler") or {"begin_step": 0} for name, keys in selection.items()
        }
        self._last_step = 0
        self._pruner = new_pruner(module)
        self._pruner.prepare_modules(module, {name: _module_config(keys) for name, keys in selection.items()})

    def resolve_schedule(self, length: FitLength) -> None:
        """Turn fractions of the fit into coremltools' schedulers."""
        self._last_step = 0
        for name, keys in self._schedulers.items():
            scheduler, last_step = _scheduler(keys, length, f"the pruning schedule of {name!r}")
            self._pruner._pruner_info[name].config.scheduler = scheduler
            self._last_step = max(self._last_step, last_step)
        length.check(self._last_step, "the pruning schedule")

    def step(self) -> None:
        """Advance by one optimizer step and update the masks that are due."""
        with torch.no_grad():
            self._pruner.step()

    def finalize(self, module: nn.Module) -> nn.Module:
        """Multiply the masks into the weights of `module` and mark them as pruned."""
        for submodule in module.modules():
            method = getattr(submodule, "pruning_method", None)
            if method is not None:
                # coremltools warns where blocks or ratios make the mask's sparsity differ from the amount asked for.
                mask = getattr(submodule, f"{method._tensor_name}_mask")
                method.amount = method.infer_sparsity_amount_from_external_mask(mask)
        finalized: nn.Module = self._pruner.finalize(module, inplace=True)
        for submodule in finalized.modules():
            submodule.__dict__.pop("__getstate__", None)
        return finalized

    def metrics(self) -> dict[str, float]:
        """`sparsity`: the fraction of zeros over all masks."""
        zeros, total = 0, 0
        for info in self._pruner._pruner_info.values():
            mask = getattr(info.module, f"{info.config.param_name}_mask")
            zeros += mask.numel() - int(mask.count_nonzero())
            total += mask.numel()
        return {"sparsity": zeros / total}

    def unfinished(self) -> str | None:
        """The step reached and the last one of the schedule."""
        if self._pruner._step_count >= self._last_step:
            return None
        return (
            f"pruning stands at step {self._pruner._step_count} of {self._last_step} and at a sparsity of "
            f"{self.metrics()['sparsity']:.3f}"
        )

    def state_dict(self) -> dict[str, Any]:
        """The step count and the sparsity level of each module."""
        return {
            "step_count": self._pruner._step_count,
            "sparsity_levels": {
                name: float(info.sparsity_level) for name, info in self._pruner._pruner_info.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the step count and the sparsity level of each module."""
        self._pruner._step_count = state["step_count"]
        for name, level in state["sparsity_levels"].items():
            info = self._pruner._pruner_info[name]
            info.sparsity_level = level
            # The buffer that coremltools restores it from is float32.
            info.module.pruning_method.amount = level


def _module_config(keys: Mapping[str, Any]) -> ModuleMagnitudePrunerConfig:
    known = {item.name: item for item in attrs.fields(ModuleMagnitudePrunerConfig)}
    values = {key: value for key, value in keys.items() if key != "scheduler"}
    for key in ("target_sparsity", "initial_sparsity"):
        if key in values:
            values[key] = float(values[key])
    assert set(values) <= set(known)
    return ModuleMagnitudePrunerConfig(**values)


def _check_ratio(ratio: Any, keys: Mapping[str, Any], source: str) -> None:
    valid = isinstance(ratio, list | tuple) and len(ratio) == 2 and all(type(part) is int for part in ratio)
    if not valid or not 0 < ratio[0] < ratio[1]:
        raise ConfigurationError(
            f"n_m_ratio of {source} is {ratio!r}; valid are two ints n, m with 0 < n < m: n of each m "
            "weights become zero"
        )
    for key, only in (("block_size", 1), ("granularity", "per_scalar"), ("initial_sparsity", 0)):
        if keys.get(key, only) != only:
            raise ConfigurationError(
                f"{key} of {source} is {keys[key]!r}; with n_m_ratio only {only!r} is valid"
            )


def _check_block(name: str, parameter: nn.Parameter, keys: Mapping[str, Any]) -> None:
    block_size = keys.get("block_size", 1)
    if block_size > 1 and block_size > parameter.shape[0] // 2:
        raise ConfigurationError(
            f"block_size is {block_size}, but {name!r} has {parameter.shape[0]} output channels; valid are 1 to "
            f"{max(parameter.shape[0] // 2, 1)}, or exclude the module"
        )
    if parameter.dim() < 3 and keys.get("granularity", "per_scalar") != "per_scalar":
        _logger.warning(
            "granularity %s has no meaning for %s, whose weight has %d dimensions: it is pruned per scalar",
            keys["granularity"],
            name,
            parameter.dim(),
        )


def _check_ratio_channels(module: nn.Module, selection: Mapping[str, Mapping[str, Any]]) -> None:
    # coremltools pads with zeros and then drops the padding: fewer weights than asked for, without a word.
    offending: list[str] = []
    for name, keys in selection.items():
        ratio = keys.get("n_m_ratio")
        if ratio is None:
            continue
        channels = (
            module.get_submodule(name)
            .get_parameter(keys.get("param_name", "weight"))
            .shape[keys.get("dim", 1)]
        )
        if channels % ratio[1]:
            offending.append(f"{name} ({channels} channels, n_m_ratio {list(ratio)})")
    if offending:
        raise ConfigurationError(
            f"n_m_ratio needs a number of channels along its dim that m divides, and these have another: {offending}; "
            f"exclude them with module_name_configs, or give them a target_sparsity instead"
        )


def _check_scheduler(scheduler: Any, source: str) -> None:
    if scheduler is None:
        return
    where = f"scheduler of {source}"
    if not isinstance(scheduler, Mapping) or not scheduler:
        raise ConfigurationError(
            f"{where} is {scheduler!r}; valid is a mapping with keys of {list(_SCHEDULER_KEYS)}"
        )
    for key in scheduler:
        if key not in _SCHEDULER_KEYS:
            raise ConfigurationError(nearest_key(key, where, _SCHEDULER_KEYS))
    if "update_steps" in scheduler:
        clash = sorted(set(scheduler) - {"update_steps", "power"})
        if clash:
            raise ConfigurationError(
                f"{where} has {clash} beside update_steps; give the steps or their range, not both"
            )
        points = [
            check_point(point, f"update_steps in {where}")
            for point in expand_range(scheduler["update_steps"], where)
        ]
        if len({type(point) for point in points}) > 1:
            raise ConfigurationError(f"update_steps in {where} mixes steps and fractions; give one kind")
        if points != sorted(set(points)):
            raise ConfigurationError(f"update_steps in {where} is {points}; valid are steps in rising order")
        if points == [0]:
            raise ConfigurationError(
                f"update_steps in {where} is [0], which never comes: the first optimizer step is 1; give 1 or later"
            )
    elif "end_step" in scheduler:
        begin = check_point(scheduler.get("begin_step", 0), f"begin_step in {where}")
        end = check_point(scheduler["end_step"], f"end_step in {where}")
        if type(begin) is type(end) and end <= begin:
            raise ConfigurationError(f"{where} ends at {end}, not after its begin_step {begin}")
        updates = scheduler.get("updates", _DEFAULT_UPDATES)
        if isinstance(updates, bool) or not isinstance(updates, int) or updates < 1:
            raise ConfigurationError(f"updates in {where} is {updates!r}; valid is an int from 1")
    elif "begin_step" in scheduler:
        check_point(scheduler["begin_step"], f"begin_step in {where}")
        surplus = sorted(set(scheduler) - {"begin_step"})
        if surplus:
            raise ConfigurationError(
                f"{where} has {surplus} without end_step or update_steps, where they have no meaning"
            )
    else:
        raise ConfigurationError(
            f"{where} is {dict(scheduler)!r}; valid are begin_step, end_step or update_steps"
        )
    power = scheduler.get("power", 3)
    if isinstance(power, bool) or not isinstance(power, int) or power < 1:
        raise ConfigurationError(f"power in {where} is {power!r}; valid is an int from 1")


def _scheduler(
    keys: Mapping[str, Any], length: FitLength, source: str
) -> tuple[ConstantSparsityScheduler | PolynomialDecayScheduler, int]:
    """coremltools' scheduler, and the last step at which it changes anything."""
    if "update_steps" not in keys and "end_step" not in keys:
        begin = length.step_of(keys["begin_step"], source)
        return ConstantSparsityScheduler(begin_step=begin), max(begin, 1)
    if "update_steps" in keys:
        given: list[Point] = expand_range(keys["update_steps"], source)
        steps = sorted({length.step_of(point, source) for point in given})
        steps = steps if steps[-1] > 0 else [1]
    else:
        # coremltools' counter is 1 at the first optimizer step: an update at 0 never comes.
        begin = max(length.step_of(keys.get("begin_step", 0), source), 1)
        end = max(length.step_of(keys["end_step"], source), begin)
        updates = min(keys.get("updates", _DEFAULT_UPDATES), end - begin + 1)
        steps = sorted(
            {round(begin + (end - begin) * index / max(updates - 1, 1)) for index in range(updates)} | {end}
        )
    return PolynomialDecayScheduler(update_steps=steps, power=keys.get("power", 3)), steps[-1]
