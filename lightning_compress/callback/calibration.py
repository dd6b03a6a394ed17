"""Data for techniques that are driven by them, from what a LightningModule trains with."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from lightning_compress.callback.inputs import on_cpu
from lightning_compress.callback.losses import TrainingLoss, on_its_own, single_examples
from lightning_compress.callback.placement import Placement
from lightning_compress.copying import copy_whole
from lightning_compress.errors import CompressionError, ConfigurationError
from lightning_compress.methods.importance import squared_gradients
from lightning_compress.methods.mechanism.agreement import Call
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
        pl_module: The LightningModule around it; all that is run is a copy of it.
        path: Where in that it stands.
        loader: The batches of a training step.
        samples: How many to look at.
        data: Its hooks around the transfer of a batch are called, as in a fit.

    Returns:
        Seconds that it took.

    Raises:
        CompressionError: As `calibrate` and `squared_gradients` raise it, or the training step never calls the module.
    """
    started = time.perf_counter()
    needs = needs_of(prepared)
    importance: dict[str, Tensor] | None = None
    calls: list[Call] = []
    # In evaluation nothing of an earlier calibration may be seen: what is asked is how the trained weights matter.
    prepared.forget_calibration()
    trained = on_its_own(copy_whole(pl_module))
    network = Placement.find(trained, path).module
    loss = TrainingLoss(trained, data)
    if needs.importance:
        names = set(needs.importance)
        references = [reference for reference in find_tensors(network) if reference.name in names]
        importance = squared_gradients(references, loss, single_examples(loader, samples, _SEED))
    if needs.inputs:
        calls = _calls(network, loss, loader, samples)
        if not calls:
            raise CompressionError(
                f"training_step of {type(pl_module).__name__} never calls {path!r}, so that nothing tells what comes "
                "into its layers; let it call the module, or give Compression(module=...) the one that it calls"
            )
    module = prepared.module
    dtype = next(module.parameters()).dtype

    def run(call: Call) -> Any:
        arguments, keywords = tree_map(
            lambda value: _in_type(value, dtype), (call.arguments, dict(call.keywords))
        )
        return module(*arguments, **keywords)

    calibrate(
        prepared,
        run=run,
        batches=calls,
        importance=importance,
    )
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


def _calls(network: nn.Module, loss: TrainingLoss, loader: Any, samples: int) -> list[Call]:
    """What the network is called with by the training step on some samples."""
    calls: list[Call] = []
    seen = 0

    def keep(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        nonlocal seen
        calls.append(Call(on_cpu(arguments), on_cpu(keywords)))
        seen += _samples(arguments, keywords)

    handle = network.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        # Some steps go backward themselves.
        with _same_draw(), torch.enable_grad():
            for batch in loader:
                loss(batch)
                if seen >= samples or len(calls) >= _MOST_PASSES:
                    break
    finally:
        handle.remove()
    return calls


@contextlib.contextmanager
def _same_draw() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        yield


def _in_type(value: Any, dtype: torch.dtype) -> Any:
    """Numbers in the type of the module's weights, which it may have been trained in."""
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _samples(*inputs: Any) -> int:
    tensors = [leaf for leaf in tree_flatten(inputs)[0] if isinstance(leaf, Tensor) and leaf.dim()]
    return tensors[0].shape[0] if tensors else 1
