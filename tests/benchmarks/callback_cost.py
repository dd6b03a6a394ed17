"""What the callback costs beside the same loop written by hand on coremltools, in one run.

    python -m tests.benchmarks.callback_cost [--steps 60] [--size 112] [--batch 8] [--threads 1] [--log-every 50]

A fit of ResNet18 with `Compression` and, after each of its batches, a step of the loop by hand on a copy. The cost is
the time in all hooks of the callback, less the time of coremltools' `step()` by hand, over the median step by hand. The
first steps, which warm up and update masks, are left out.
"""

from __future__ import annotations

import argparse
import copy
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
import torchvision
from coremltools.optimize.torch.pruning import MagnitudePruner, MagnitudePrunerConfig
from coremltools.optimize.torch.quantization import LinearQuantizer, LinearQuantizerConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_compress import Compression, LinearQuantization, MagnitudePruning
from lightning_compress.methods import Method

_HOOKS = ("on_train_batch_start", "on_train_batch_end", "on_train_epoch_start", "on_train_epoch_end")
_WARM_UP = 5


class Timed(Compression):
    """Writes down the time in each hook that a training step calls."""

    spent: list[float]


for hook in _HOOKS:

    def timed(self: Timed, *arguments: Any, hook: str = hook) -> None:
        start = time.perf_counter()
        getattr(Compression, hook)(self, *arguments)
        self.spent.append(time.perf_counter() - start)

    setattr(Timed, hook, timed)


class Lit(L.LightningModule):
    """The network that the callback compresses."""

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.model = network
        self.example_input_array = torch.zeros(1, 3, size, size)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class ByHand(L.Callback):
    """After each batch of the fit, the same step by hand on a copy of the network."""

    def __init__(self, network: nn.Module, step: Callable[[], None]) -> None:
        self.network, self.step = network, step
        self.optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        self.steps: list[float] = []
        self.coremltools: list[float] = []

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        start = time.perf_counter()
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.network(batch[0]), batch[1]).backward()
        self.optimizer.step()
        before = time.perf_counter()
        self.step()
        end = time.perf_counter()
        self.coremltools.append(end - before)
        self.steps.append(end - start)


def pruning(network: nn.Module, steps: int, inputs: Tensor) -> tuple[nn.Module, Callable[[], None], Method]:
    """A schedule that ends with the first step: see `pruning_mask` for what an update costs."""
    schedule = {"target_sparsity": 0.75, "scheduler": {"update_steps": [1]}}
    pruner = MagnitudePruner(network, MagnitudePrunerConfig.from_dict({"global_config": schedule}))
    return pruner.prepare(inplace=True), pruner.step, MagnitudePruning(**schedule)


def quantization(
    network: nn.Module, steps: int, inputs: Tensor
) -> tuple[nn.Module, Callable[[], None], Method]:
    """Weights and activations at 8 bits, from the third step on."""
    keys = {"milestones": [0, 2, steps - 1, steps - 1]}
    quantizer = LinearQuantizer(network, LinearQuantizerConfig.from_dict({"global_config": keys}))
    return quantizer.prepare((inputs,), inplace=True).train(), quantizer.step, LinearQuantization(**keys)


def measure(kind: Callable[..., Any], arguments: argparse.Namespace) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    inputs = torch.zeros(1, 3, arguments.size, arguments.size)
    theirs, step, method = kind(copy.deepcopy(network), arguments.steps, inputs)
    by_hand = ByHand(theirs, step)
    compression = Timed(method, module="model")
    compression.spent = []
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=arguments.steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=arguments.log_every,
        callbacks=[compression, by_hand],
    )
    count = arguments.steps * arguments.batch
    images = torch.rand(arguments.batch, 3, arguments.size, arguments.size)
    data = TensorDataset(images.repeat(arguments.steps, 1, 1, 1), torch.randint(0, 1000, (count,)))
    trainer.fit(Lit(network, arguments.size), DataLoader(data, batch_size=arguments.batch))
    # Two hooks a batch, after one for the epoch.
    hooks = sum(compression.spent[1 + 2 * _WARM_UP :]) / (arguments.steps - _WARM_UP)
    coremltools = statistics.mean(by_hand.coremltools[_WARM_UP:])
    median = statistics.median(by_hand.steps[_WARM_UP:])
    print(
        f"{kind.__name__}: step by hand {median * 1e3:.0f} ms (median of {arguments.steps - _WARM_UP}); "
        f"hooks {hooks * 1e3:.2f} ms, coremltools' step {coremltools * 1e3:.2f} ms; "
        f"the callback's own cost {(hooks - coremltools) / median:.2%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--log-every", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for kind in (pruning, quantization):
        measure(kind, arguments)


if __name__ == "__main__":
    main()
