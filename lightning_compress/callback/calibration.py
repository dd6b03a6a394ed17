"""Data for techniques that are driven by them, from what a LightningModule trains with."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from lightning_compress.callback.losses import TrainingLoss, on_its_own, single_examples
from lightning_compress.callback.placement import Placement
from lightning_compress.copying import copy_whole
from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.importance import squared_gradients
from lightning_compress.methods.mechanism.calibration import calibrate, needs_of
from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.mechanism.tensors import find_tensors

_SEED = 0
"""Which samples are drawn does not change from one call to the next."""

_MOST_PASSES = 64
"""Each batch is a forward pass that waits in a thread of its own."""


def calibrate_by_training_data(
    prepared: PreparedModule,
    pl_module: L.LightningModule,
    path: str,
    loader: Any,
    samples: int,
    data: L.LightningDataModule | None = None,
) -> float:
    """Show techniques that are driven by data what the module trains with.

    Args:
        prepared: The module to compress, on the CPU; it is calibrated.
        pl_module: The LightningModule around it, of which a copy runs its training step.
        path: Where in that it stands.
        loader: The batches of a training step.
        samples: How many to look at.
        data: Its hooks around the transfer of a batch are called, as in a fit.

    Returns:
        Seconds that it took.

    Raises:
        CompressionError: As `calibrate` and `squared_gradients` raise it.
    """
    started = time.perf_counter()
    needs = needs_of(prepared)
    importance: dict[str, Tensor] | None = None
    # In evaluation nothing of an earlier calibration may be seen: what is asked is how the trained weights matter.
    prepared.forget_calibration()
    trained = on_its_own(copy_whole(pl_module))
    network = Placement.find(trained, path).module
    if needs.importance:
        names = set(needs.importance)
        references = [reference for reference in find_tensors(network) if reference.name in names]
        examples = single_examples(loader, samples, _SEED)
        importance = squared_gradients(references, TrainingLoss(trained, data), examples)
    if not needs.inputs:
        calibrate(prepared, importance=importance)
        return time.perf_counter() - started
    batches = _some_batches(loader, samples)
    with _as_it_is(prepared.module):
        _put_in_place(trained, network, prepared.module)
        run = TrainingLoss(trained, data)
        try:
            calibrate(prepared, run=run, batches=batches, importance=importance, evaluation=False)
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            # A step that goes backward itself.
            graded = torch.enable_grad()(run)
            calibrate(prepared, run=graded, batches=batches, importance=importance, evaluation=False)
    return time.perf_counter() - started


def training_batches(data: Any) -> tuple[Any, L.LightningDataModule | None]:
    """The batches to calibrate by: those that a data module trains with, or what iterates over batches itself.

    Raises:
        ConfigurationError: It is neither.
    """
    if isinstance(data, L.LightningDataModule):
        data.prepare_data()
        data.setup("fit")
        return data.train_dataloader(), data
    if isinstance(data, Tensor | nn.Module | str) or not hasattr(data, "__iter__"):
        raise ConfigurationError(
            f"data is a {type(data).__name__}; valid is a LightningDataModule, a DataLoader, or a list of batches as "
            "training_step takes them"
        )
    return data, None


def _some_batches(loader: Any, samples: int) -> list[Any]:
    """The first batches of a loader, of so many samples in all."""
    batches: list[Any] = []
    seen = 0
    with _same_draw():
        for batch in loader:
            batches.append(batch)
            seen += getattr(loader, "batch_size", None) or _samples(batch)
            if seen >= samples or len(batches) >= _MOST_PASSES:
                break
    return batches


def _put_in_place(copied: L.LightningModule, network: nn.Module, original: nn.Module) -> None:
    """Let a copy of a LightningModule run the original network, under each name that it knows it or parts of it by."""
    names = {part: name for name, part in network.named_modules()}
    for name, part in list(copied.named_modules(remove_duplicate=False)):
        if part in names and "parametrizations" not in name.split("."):
            copied.set_submodule(name, original.get_submodule(names[part]))


@contextlib.contextmanager
def _as_it_is(module: nn.Module) -> Iterator[None]:
    """Give a module its modes and types back."""
    modes = [(part, part.training) for part in module.modules()]
    parameters = [(parameter, parameter.dtype) for parameter in module.parameters()]
    buffers = [
        (part, name, buffer.dtype)
        for part in module.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        for parameter, dtype in parameters:
            parameter.data = parameter.data.to(dtype)
        for part, name, dtype in buffers:
            buffer = part._buffers[name]
            assert buffer is not None
            part._buffers[name] = buffer.to(dtype)


@contextlib.contextmanager
def _same_draw() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        yield


def _samples(batch: Any) -> int:
    tensors = [leaf for leaf in tree_flatten(batch)[0] if isinstance(leaf, Tensor) and leaf.dim()]
    return tensors[0].shape[0] if tensors else 1
