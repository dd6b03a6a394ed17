"""One update of all masks of a ResNet18: this package's pruner against coremltools', and whether masks are the same.

    python -m tests.benchmarks.pruning_mask [--repeats 5] [--threads 1]

Both update every convolution and linear layer to the same sparsity, in turns; prints medians and their ratio.
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
    parser.add_argument("--repeats", type=int, default=5, help="updates of either side; the median counts")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    keys = {"target_sparsity": 0.75, "scheduler": {"update_steps": list(range(1, arguments.repeats + 1))}}
    pruner = MagnitudePruner(copy.deepcopy(network), MagnitudePrunerConfig.from_dict({"global_config": keys}))
    theirs = pruner.prepare(inplace=True)
    prepared = PreparedModule(copy.deepcopy(network), [MagnitudePruning(**keys)])
    prepared.resolve_schedule(FitLength(arguments.repeats))
    times: dict[str, list[float]] = {"lightning-compress": [], "coremltools": []}
    for _ in range(arguments.repeats):
        times["lightning-compress"].append(seconds(prepared.step))
        times["coremltools"].append(seconds(pruner.step))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        print(f"{name}: {value:.3f} s an update of {count(network):,} weights")
    print(f"ratio: {medians['coremltools'] / medians['lightning-compress']:.1f}")
    print(f"same masks: {same_masks(theirs, prepared.module)}")


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def count(network: nn.Module) -> int:
    return sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear))


def same_masks(first: nn.Module, second: nn.Module) -> bool:
    masks = dict(second.named_buffers())
    return all(
        torch.equal(mask, masks[name]) for name, mask in first.named_buffers() if name.endswith("_mask")
    )


if __name__ == "__main__":
    main()
