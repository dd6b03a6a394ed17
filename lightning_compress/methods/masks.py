"""coremltools' magnitude pruning with a faster mask and copies that stand on their own."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import torch
from coremltools.optimize.torch.pruning import MagnitudePruner, MagnitudePrunerConfig
from coremltools.optimize.torch.pruning.magnitude_pruner import (
    _MagnitudePrunerInfo,
    _MagnitudePruningMethod,
)
from torch import nn


def magnitude_mask(weight: torch.Tensor, sparsity: float) -> torch.Tensor:
    """The mask that keeps the largest magnitudes of a tensor, coremltools' own definition without its full sort.

    Args:
        weight: Weights of any shape.
        sparsity: Fraction of weights to drop, in [0, 1].

    Returns:
        A boolean mask of the shape of `weight`; ties with the smallest kept magnitude are kept.
    """
    magnitude = weight.detach().abs()
    # coremltools counts in float32, and the count must be the same for the mask to be.
    kept = int(torch.ceil(torch.as_tensor(weight.numel(), dtype=torch.float32) * (1 - sparsity)))
    if kept == 0:
        return torch.zeros_like(magnitude, dtype=torch.bool)
    if kept >= weight.numel():
        return torch.ones_like(magnitude, dtype=torch.bool)
    dropped = weight.numel() - kept
    if magnitude.device.type == "cpu" and magnitude.dtype == torch.float32:
        # numpy's introselect is several times faster than torch.kthvalue here.
        threshold: Any = float(np.partition(magnitude.flatten().numpy(), dropped)[dropped])
    else:
        threshold = magnitude.flatten().kthvalue(dropped + 1).values
    return torch.ge(magnitude, threshold)


def _getstate_without_pruned_tensor(module: nn.Module) -> dict[str, Any]:
    state: dict[str, Any] = nn.Module.__getstate__(module)  # type: ignore[no-untyped-call]
    method = state.get("pruning_method")
    if method is not None and method._tensor_name in state:
        # Not a leaf, so it cannot be copied; the next forward computes it again.
        state[method._tensor_name] = None
    return state


class PruningMethod(_MagnitudePruningMethod):  # type: ignore[misc]
    """coremltools' pruning method, mended in three places (coremltools 9.0)."""

    amount: float

    def bind_module(self, module: nn.Module) -> None:
        """Attach to `module`.

        coremltools binds a `__getstate__` that closes over the original's own; on Python 3.11 and later, where every
        object has one, a copy of a copy then returns the original's weights.
        """
        super().bind_module(module)
        module.__dict__["__getstate__"] = types.MethodType(_getstate_without_pruned_tensor, module)

    def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor | None) -> torch.Tensor:
        """The mask for `t` in its dtype: 1 keeps a weight, 0 drops it.

        coremltools sorts the whole tensor, and truncates `n / m * m`, which may lie just under `n`.
        """
        if self.n_m_ratio is not None:
            self.amount = _snap_to_ratio(self.amount, self.n_m_ratio[1])
        elif self.block_size == 1 and (self.granularity == "per_scalar" or t.dim() == 2):
            return magnitude_mask(t, self.amount).to(torch.float32)
        mask: torch.Tensor = super().compute_mask(t, default_mask)
        return mask


def _snap_to_ratio(amount: float, block: int) -> float:
    zeros = round(amount * block)
    return (zeros + 1e-9) / block if abs(amount * block - zeros) < 1e-6 else amount


class Pruner(MagnitudePruner):  # type: ignore[misc]
    """coremltools' `MagnitudePruner` on `PruningMethod`, for modules chosen beforehand."""

    def prepare_modules(self, module: nn.Module, configs: dict[str, Any]) -> None:
        """Insert masks into the named modules of `module`, in place.

        Args:
            module: The model; a quantizer or palettizer has already been there in a joint compression.
            configs: coremltools' module configuration by module name.
        """
        self._model = module
        for name, config in configs.items():
            submodule = module.get_submodule(name)
            if config.n_m_ratio is not None:
                config.target_sparsity = config.n_m_ratio[0] / config.n_m_ratio[1]
            PruningMethod.from_module_and_params(
                submodule,
                param_name=config.param_name,
                amount=config.initial_sparsity,
                block_size=config.block_size,
                granularity=config.granularity,
                n_m_ratio=config.n_m_ratio,
                dim=config.dim,
            )
            self._pruner_info[name] = _MagnitudePrunerInfo(
                config=config, module=submodule, sparsity_level=config.initial_sparsity
            )


def new_pruner(module: nn.Module) -> Pruner:
    """A pruner whose configuration selects nothing by itself."""
    config = MagnitudePrunerConfig()
    config.global_config = None
    return Pruner(module, config)
