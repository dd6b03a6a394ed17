"""What one update of all masks of a ResNet18 costs, uniform and global, beside coremltools' and a training step.

    python -m tests.benchmarks.pruning_mask [--repeats 5] [--threads 1]

Every convolution and linear layer is updated to the same sparsity, in turns; prints medians in seconds, the cost of a
training step (16 images of 64 x 64, Adam), and whether the uniform masks are coremltools'.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from coremltools.optimize.torch.pruning import MagnitudePruner, MagnitudePrunerConfig
from torch import nn

from lightning_compress import MagnitudePruning
from lightning_compress.methods import PreparedModule
from lightning_compress.methods.mechanism.schedule import FitLength


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="updates of each; the median counts")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    keys = {"target_sparsity": 0.75, "scheduler": {"update_steps": list(range(1, arguments.repeats + 1))}}
    pruner = MagnitudePruner(copy.deepcopy(network), MagnitudePrunerConfig.from_dict({"global_config": keys}))
    theirs = pruner.prepare(inplace=True)
    uniform = prepared(network, arguments.repeats, keys)
    together = prepared(network, arguments.repeats, {**keys, "allocation": "global"})
    actions: dict[str, Callable[[], object]] = {
        "uniform": uniform.step,
        "global": together.step,
        "coremltools": pruner.step,
        "a training step": training_step(network),
    }
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(arguments.repeats):
        for name, action in actions.items():
            times[name].append(seconds(action))
    print(f"{count(network):,} weights")
    for name, values in times.items():
        print(f"{name:<16} {statistics.median(values):.3f} s")
    print(f"uniform masks are coremltools': {same_masks(theirs, uniform.module)}")


def prepared(network: nn.Module, steps: int, keys: dict[str, object]) -> PreparedModule:
    module = PreparedModule(copy.deepcopy(network), [MagnitudePruning(**keys)])
    module.resolve_schedule(FitLength(steps))
    module.start_training()
    return module


def training_step(network: nn.Module) -> Callable[[], object]:
    optimizer = torch.optim.Adam(network.parameters())
    images = torch.randn(16, 3, 64, 64)

    def step() -> None:
        optimizer.zero_grad()
        network(images).square().mean().backward()
        optimizer.step()

    return step


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def count(network: nn.Module) -> int:
    return sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear))


def same_masks(theirs: nn.Module, ours: nn.Module) -> bool:
    return all(
        torch.equal(
            mask.bool(), ours.get_submodule(name.removesuffix(".weight_mask")).parametrizations.weight[0].mask
        )
        for name, mask in theirs.named_buffers()
        if name.endswith(".weight_mask")
    )


if __name__ == "__main__":
    main()
