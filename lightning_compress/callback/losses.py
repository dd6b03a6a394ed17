"""The loss of a LightningModule's own training step, of single examples and outside of a fit."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.compile import to_uncompiled
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.utils.data import DataLoader, IterableDataset, RandomSampler

from lightning_compress.callback.notices import without_notices
from lightning_compress.errors import ConfigurationError

_RANDOM = ("Dropout", "StochasticDepth", "DropPath")
"""What classes of random layers are called: torch's dropout, and what drops whole branches in torchvision and timm."""


class TrainingLoss:
    """The loss that a LightningModule's training step returns, with nothing random and no statistics that move.

    Batch norm uses its running statistics, since one example has none of its own, and dropout is off; all else is in
    training mode, for the sake of modules that return a loss in this mode alone.

    Args:
        module: Used up by this: nobody else may use it.
        data: Its hooks around the transfer of a batch are called, as in a fit.

    Raises:
        ConfigurationError: The module has no training step, or optimizes by hand, so that it returns no loss.
    """

    def __init__(self, module: L.LightningModule, data: L.LightningDataModule | None = None) -> None:
        require_training_loss(module)
        self.module = on_its_own(module).cpu().float().train()
        self._data = data
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._NormBase) or type(part).__name__.startswith(_RANDOM):
                part.eval()
        # Nothing is logged; a step may still ask its Trainer for a number.
        module.log = module.log_dict = _ignore  # type: ignore[method-assign]
        with without_notices():
            module.trainer = L.Trainer(
                accelerator="cpu",
                devices=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
            )
        self._count = 0

    def __call__(self, batch: Any) -> Tensor:
        """The loss of a batch, differentiable.

        Raises:
            ConfigurationError: The step returns no loss.
        """
        batch = self._hooked("on_before_batch_transfer", batch)
        batch = self._hooked("on_after_batch_transfer", batch)
        arguments = (batch, self._count) if _takes_index(self.module) else (batch,)
        self._count += 1
        returned = self.module.training_step(*arguments)
        loss = returned.get("loss") if isinstance(returned, Mapping) else returned
        if not isinstance(loss, Tensor):
            raise ConfigurationError(
                f"training_step of {type(self.module).__name__} returns {type(returned).__name__} without a loss; it "
                "must return the loss, or a dictionary with the key 'loss'"
            )
        return loss

    def _hooked(self, hook: str, batch: Any) -> Any:
        """What Lightning's hook makes of a batch: the data's own where they have one, else the module's."""
        holder: Any = self.module
        if self._data is not None and is_overridden(hook, self._data, L.LightningDataModule):
            holder = self._data
        return getattr(holder, hook)(batch, 0)


def require_training_loss(module: L.LightningModule) -> None:
    """Refuse a module whose training step can be run by nobody but its fit.

    Raises:
        ConfigurationError: It has no training step, or optimizes by hand, so that it returns no loss.
    """
    name = type(module).__name__
    if not is_overridden("training_step", module):
        raise ConfigurationError(
            f"{name} has no training_step, whose loss tells how much each weight matters"
        )
    if not module.automatic_optimization:
        raise ConfigurationError(
            f"{name} optimizes by hand (automatic_optimization=False), so that its training_step need not return "
            "the loss that tells how much each weight matters"
        )


def on_its_own(module: L.LightningModule) -> L.LightningModule:
    """A copy of a LightningModule, with nothing left in it that would run the original.

    `torch.compile` and Lightning's data-parallel strategies put methods into a module that know it by itself.
    """
    for name, value in list(vars(module).items()):
        if isinstance(value, types.MethodType) and isinstance(value.__self__, type(module)):
            setattr(module, name, types.MethodType(value.__func__, module))
    if module._compiler_ctx is not None:
        module = to_uncompiled(module)
    for name, part in list(module.named_modules(remove_duplicate=False)):
        if isinstance(part, OptimizedModule):
            module.set_submodule(name, part._orig_mod)
    return module


def single_examples(loader: Any, count: int, seed: int) -> Iterator[Any]:
    """Batches of one sample, drawn from the data set of a DataLoader without replacement.

    Args:
        loader: A DataLoader; of anything else the batches are taken as they are.
        count: How many at most.
        seed: Of the draw, and of whatever the data set does at random.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for index, batch in enumerate(_loader_of_single(loader, seed)):
            if index == count:
                return
            yield batch


def _loader_of_single(loader: Any, seed: int) -> Any:
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        return loader
    dataset: Any = loader.dataset
    sampler = None
    if not isinstance(dataset, IterableDataset):
        sampler = RandomSampler(dataset, generator=torch.Generator().manual_seed(seed))
    return DataLoader(dataset, batch_size=1, sampler=sampler, collate_fn=loader.collate_fn)


def _takes_index(module: L.LightningModule) -> bool:
    return bool(is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2))


def _ignore(*_: Any, **__: Any) -> None:
    pass
