"""Averages of weights beside a compression: only weights are averaged, never masks, palettes or observers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, StochasticWeightAveraging, WeightAveraging
from torch import nn

from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.technique import Stepped


def check_averaging(
    callbacks: list[Callback], compression: Callback, pl_module: nn.Module, *, freezes_batch_norm: bool
) -> None:
    """Refuse averaging callbacks that would undo the compression.

    Args:
        callbacks: Those of the Trainer, in order.
        compression: The `Compression` among them.
        pl_module: What is trained.
        freezes_batch_norm: Whether the compression fixes the statistics of batch norm before the end.

    Raises:
        ConfigurationError: A callback would copy the module before it is prepared, or reset statistics that the
            compression has frozen.
    """
    for callback in callbacks[: callbacks.index(compression)]:
        if isinstance(callback, WeightAveraging | StochasticWeightAveraging):
            raise ConfigurationError(
                f"{type(callback).__name__} comes before Compression in the list of callbacks, and would average the "
                "module as it was before it was prepared; put Compression first"
            )
    normalized = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in pl_module.modules())
    averages = any(isinstance(callback, StochasticWeightAveraging) for callback in callbacks)
    if averages and normalized and freezes_batch_norm:
        raise ConfigurationError(
            "StochasticWeightAveraging resets the statistics of batch norm and measures them anew at the end of the "
            "fit, and the fourth milestone of LinearQuantization freezes them before; set that milestone to -1, or use "
            "EMAWeightAveraging"
        )


class ExactState:
    """Keeps the compression's own state in averaged models equal to that in training.

    An average of masks is no mask, an observer's range begins at infinity, and a palette at zero. So the averaged
    weights get the masks, palettes, scales and switches of the model in training.

    Args:
        pl_module: The LightningModule that is trained, prepared.
        own: What preparing has added to it.
    """

    def __init__(self, pl_module: L.LightningModule, own: Iterable[torch.Tensor]) -> None:
        identities = {id(tensor) for tensor in own}
        self._names = {
            name
            for name, tensor in _named_tensors(pl_module)
            if id(tensor) in identities or not tensor.is_floating_point()
        }
        self._pl_module = pl_module

    @torch.no_grad()
    def share(self, callbacks: list[Callback]) -> None:
        """Copy the state into every averaged model of `callbacks`."""
        for average in _averages(callbacks):
            tensors = dict(_named_tensors(average))
            for name, tensor in _named_tensors(self._pl_module):
                if name in self._names:
                    tensors[name].copy_(tensor)
            # Switches are known beside their buffers too.
            parts = dict(self._pl_module.named_modules())
            for name, part in average.named_modules():
                if isinstance(part, Stepped):
                    part.copy_switches(parts[name])


def _averages(callbacks: list[Callback]) -> Iterator[nn.Module]:
    for callback in callbacks:
        # Lightning 2.6 gives the averages no public name.
        if isinstance(callback, WeightAveraging) and callback._average_model is not None:
            yield callback._average_model.module
        elif isinstance(callback, StochasticWeightAveraging) and callback._average_model is not None:
            yield callback._average_model


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
