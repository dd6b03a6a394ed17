"""The optimizer and the learning rate schedule that the recipes share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import lightning as L
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from lightning_compress.errors import ConfigurationError, did_you_mean

from .ranges import require_between

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

_OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adamw": lambda groups, learning_rate, momentum: AdamW(groups, lr=learning_rate, betas=(momentum, 0.999)),
    "sgd": lambda groups, learning_rate, momentum: SGD(groups, lr=learning_rate, momentum=momentum),
}


def check_optimizer(
    optimizer: str,
    learning_rate: float,
    warmup_fraction: float,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
) -> None:
    """Raises `ConfigurationError` for settings that `one_cycle` could not use; meant for constructors."""
    if optimizer not in _OPTIMIZERS:
        hint = did_you_mean(optimizer, _OPTIMIZERS)
        raise ConfigurationError(f"optimizer={optimizer!r} is unknown{hint} Valid: {', '.join(_OPTIMIZERS)}.")
    require_between("learning_rate", learning_rate, 0, above=True)
    require_between("warmup_fraction", warmup_fraction, 0, 1, above=True, below=True)
    require_between("weight_decay", weight_decay, 0)
    require_between("momentum", momentum, 0, 1, below=True)


def one_cycle(
    parameters: Iterable[nn.Parameter],
    total_steps: float,
    *,
    optimizer: str,
    learning_rate: float,
    weight_decay: float,
    momentum: float,
    warmup_fraction: float,
) -> OptimizerLRSchedulerConfig:
    """An optimizer under the one-cycle policy (Smith and Topin, arXiv 1708.07120).

    The rate changes with each optimizer step. Biases and the parameters of normalization
    layers (those of fewer than two dimensions) are not decayed.

    Args:
        parameters: what is optimized; those that need no gradient are left out.
        total_steps: length of the cycle in optimizer steps: `trainer.estimated_stepping_batches`.
        optimizer: `adamw` or `sgd`.
        learning_rate: the peak of the cycle.
        weight_decay: of weights with two or more dimensions.
        momentum: SGD's momentum, or AdamW's first beta; the policy lowers it to 0.85 where the rate peaks.
        warmup_fraction: share of the steps in which the rate rises.

    Raises:
        ConfigurationError: an unknown optimizer, or a fit whose length is not known.
    """
    check_optimizer(optimizer, learning_rate, warmup_fraction, weight_decay=weight_decay, momentum=momentum)
    if not math.isfinite(total_steps):
        raise ConfigurationError(
            "The one-cycle schedule needs to know how long the fit is, and this one has no end: set the Trainer's "
            "max_steps or max_epochs; on the command line these are float_fit.trainer.max_steps=…, "
            "compressed_fit.trainer.max_epochs=… and so on."
        )
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    chosen = _OPTIMIZERS[optimizer]([group for group in groups if group["params"]], learning_rate, momentum)
    schedule = OneCycleLR(
        chosen,
        max_lr=learning_rate,
        total_steps=max(1, int(total_steps)),
        pct_start=warmup_fraction,
        cycle_momentum=momentum > 0,
        max_momentum=momentum,
        base_momentum=min(momentum, 0.85),
    )
    return {"optimizer": chosen, "lr_scheduler": {"scheduler": schedule, "interval": "step", "frequency": 1}}


def one_cycle_of(module: L.LightningModule) -> OptimizerLRSchedulerConfig:
    """`one_cycle` as long as a module's fit, with the settings among its hyperparameters."""
    settings = ("optimizer", "learning_rate", "weight_decay", "momentum", "warmup_fraction")
    return one_cycle(
        module.parameters(),
        module.trainer.estimated_stepping_batches,
        **{name: module.hparams[name] for name in settings},
    )
