"""Our pruning behind the interface of coremltools' `MagnitudePruner`, for the tests that coremltools ships."""

from __future__ import annotations

import copy
import math
from typing import Any

from coremltools.optimize.torch.pruning import (
    ConstantSparsityScheduler,
    MagnitudePrunerConfig,
    ModuleMagnitudePrunerConfig,
)
from coremltools.optimize.torch.pruning._utils import (
    block2_sparsity,
    get_global_sparsity_summaries,
    structured_sparsity,
    unstructured_sparsity,
)
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_compress import MagnitudePruning
from lightning_compress.methods import PreparedModule
from lightning_compress.methods.mechanism.configuration import Keys
from lightning_compress.methods.mechanism.schedule import FitLength
from lightning_compress.methods.pruning import Mask


class UncheckedPruning(MagnitudePruning):
    """With the values that ours refuses: some of coremltools' tests prune everything."""

    def check_values(self, keys: Keys, source: str) -> None:
        """Nothing: coremltools' configuration has checked them."""


class PrunerInfo:
    """What coremltools keeps of a layer, seen in its mask."""

    def __init__(self, module: nn.Module, mask: Mask) -> None:
        self.module = module
        self.mask = mask

    @property
    def sparsity_level(self) -> float:
        """The sparsity that the mask was made for."""
        return self.mask.level


class MagnitudePruner:
    """As coremltools' class of that name."""

    def __init__(self, model: nn.Module, config: MagnitudePrunerConfig | None = None) -> None:
        self._model = model
        self._config = MagnitudePrunerConfig() if config is None else config
        self._prepared: PreparedModule | None = None
        self._pruner_info: dict[str, PrunerInfo] = {}

    def prepare(self, inplace: bool = False) -> nn.Module:
        """Put the masks in place."""
        self._model = self._model if inplace else copy.deepcopy(self._model)
        self._prepared = PreparedModule(self._model, [UncheckedPruning(**as_keywords(self._config))])
        self._prepared.resolve_schedule(FitLength(math.inf))
        self._prepared.start_training()
        for name, module in self._model.named_modules():
            if parametrize.is_parametrized(module):
                self._pruner_info[name] = PrunerInfo(module, mask_of(module))
                show_as_coremltools(module)
        return self._model

    def step(self) -> None:
        """Count an optimizer step."""
        assert self._prepared is not None
        self._prepared.step()

    def finalize(self, model: nn.Module | None = None, inplace: bool = False) -> nn.Module:
        """Give the layers plain weights, and metadata."""
        assert self._prepared is not None
        assert model is None or model is self._model
        if not self._pruner_info or not parametrize.is_parametrized(
            next(iter(self._pruner_info.values())).module
        ):
            return self._model
        finalized = self._prepared.finalize()
        if not inplace:
            return finalized
        for name, module in finalized.named_modules():
            target = self._model.get_submodule(name)
            if name in self._pruner_info:
                parametrize.remove_parametrizations(target, "weight", leave_parametrized=True)
                target.weight.data = module.weight.data
            for key, buffer in module.named_buffers(recurse=False):
                if key not in dict(target.named_buffers(recurse=False)):
                    target.register_buffer(key, buffer)
        return self._model

    def report(self) -> dict[str, dict[str, Any]]:
        """coremltools' statistics of the weights that layers compute with."""
        report: dict[str, dict[str, Any]] = {}
        for name, info in self._pruner_info.items():
            weight = info.module.weight.detach()
            report[name] = {
                "#params": weight.numel(),
                "structured_weight_sparsity": structured_sparsity(weight),
                "unstructured_weight_sparsity": unstructured_sparsity(weight),
                "block2_weight_sparsity": -1 if len(weight) % 2 else block2_sparsity(weight),
            }
        counts = [entry["#params"] for entry in report.values()]
        report["global"] = {
            key: get_global_sparsity_summaries([entry[key] for entry in list(report.values())], counts)
            for key in (
                "structured_weight_sparsity",
                "unstructured_weight_sparsity",
                "block2_weight_sparsity",
            )
        }
        return report


def as_keywords(config: MagnitudePrunerConfig) -> dict[str, Any]:
    """Our keyword arguments for one of coremltools' configurations."""
    sections = {
        key: {name: as_keys(entry) for name, entry in getattr(config, key).items()}
        for key in ("module_type_configs", "module_name_configs")
    }
    return {"global_config": as_keys(config.global_config), **sections}


def as_keys(config: ModuleMagnitudePrunerConfig | None) -> dict[str, Any] | None:
    """The keys of one layer; None stays None."""
    if config is None:
        return None
    scheduler = config.scheduler
    if isinstance(scheduler, ConstantSparsityScheduler):
        schedule = {"begin_step": scheduler.begin_step}
    else:
        steps = [int(step) for step in scheduler.update_steps.tolist()]
        schedule = {"update_steps": steps, "power": scheduler.power}
    names = (
        "initial_sparsity",
        "target_sparsity",
        "granularity",
        "block_size",
        "n_m_ratio",
        "dim",
        "param_name",
    )
    return {"scheduler": schedule, **{name: getattr(config, name) for name in names}}


def mask_of(module: nn.Module) -> Mask:
    """The technique of a pruned layer."""
    mask = module.parametrizations["weight"][0]  # type: ignore[index]
    assert isinstance(mask, Mask)
    return mask


def show_as_coremltools(module: nn.Module) -> None:
    """Let a pruned layer show its mask and weight under coremltools' names, as long as it is pruned."""
    # Parametrized layers have a class each, which copies share and which goes with the parametrization.
    layer_class: Any = type(module)
    layer_class.weight_mask = property(coremltools_mask)
    layer_class.weight_orig = property(lambda layer: layer.parametrizations.weight.original)
    layer_class.pruning_method = property(mask_of)


def coremltools_mask(module: nn.Module) -> Tensor:
    """The mask in the shape that coremltools gives it: one value for each part."""
    technique = mask_of(module)
    mask = technique.mask.float()
    told_apart = {"per_channel": 1, "per_kernel": 2}.get(technique.options.granularity, mask.dim())
    for axis in range(told_apart, mask.dim() if mask.dim() > 2 else 0):
        mask = mask.narrow(axis, 0, 1)
    return mask
