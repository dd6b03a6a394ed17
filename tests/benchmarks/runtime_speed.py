"""ResNet50 as a Core ML package run here, against torch's own eager network: loading and time a batch.

    python -m tests.benchmarks.runtime_speed [--device cuda] [--repeats 15] [--threads 2]

Prints seconds to load the package and to make its dense weights, and for batches of 1 and 8 the median time of torch's
network, of the package at both precisions and of a package palettized to 4 bits, each over torch's. The runs of one
batch size alternate, so that a change of the machine's load falls on all. Exit status 1 if the float32 package takes
more than 1.1 times torch's time, or loading more than 3 s.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import coremltools as ct
import coremltools.optimize.coreml as cto
import torch
import torchvision
from rich.console import Console
from rich.table import Table
from torch import nn

from lightning_compress import runtime
from lightning_compress.coreml.quiet import quiet_conversion

LARGEST_RATIO = 1.1
LONGEST_LOAD = 3.0
SIZE = 224


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=15, help="timed runs of each; the median counts")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    torch.manual_seed(0)
    network = torchvision.models.resnet50().eval()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        dense, palettized = packages(network, Path(folder))
        start = time.perf_counter()
        runtime.load(dense)
        load = time.perf_counter() - start
        modules = {
            "package, float32": runtime.load(dense, device=arguments.device),
            "package, float16": runtime.load(dense, precision="float16", device=arguments.device),
            "4-bit package, float32": runtime.load(palettized, device=arguments.device),
        }
    network.to(arguments.device)
    table = Table("batch", "torch, ms", *(f"{name} / torch" for name in modules))
    worst = 0.0
    for batch in (1, 8):
        x = torch.rand(batch, 3, SIZE, SIZE, device=arguments.device)
        calls: list[Callable[[torch.Tensor], object]] = [network, *modules.values()]
        base, *others = median_times(calls, x, arguments.repeats)
        ratios = [other / base for other in others]
        worst = max(worst, ratios[0])
        table.add_row(str(batch), f"{base * 1e3:.1f}", *(f"{ratio:.2f}" for ratio in ratios))
    console.print(
        f"loading {load:.2f} s; {torch.get_num_threads()} threads on {device_name(arguments.device)}"
    )
    console.print(table)
    return 0 if worst <= LARGEST_RATIO and load <= LONGEST_LOAD else 1


def packages(network: nn.Module, folder: Path) -> tuple[Path, Path]:
    """The network as a float16 package, and palettized to 4 bits."""
    with quiet_conversion():
        model = ct.convert(
            torch.jit.trace(network, torch.rand(1, 3, SIZE, SIZE)),
            inputs=[ct.TensorType("x", shape=(1, 3, SIZE, SIZE))],
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
        )
        model.save(str(folder / "dense.mlpackage"))
        config = cto.OptimizationConfig(cto.OpPalettizerConfig(mode="uniform", nbits=4))
        cto.palettize_weights(model, config).save(str(folder / "palettized.mlpackage"))
    return folder / "dense.mlpackage", folder / "palettized.mlpackage"


def median_times(calls: list[Callable[[torch.Tensor], object]], x: torch.Tensor, repeats: int) -> list[float]:
    """Median seconds of each call, run in turns."""
    times: list[list[float]] = [[] for _ in calls]
    with torch.inference_mode():
        for turn in range(repeats + 2):
            for call, taken in zip(calls, times, strict=True):
                synchronize(x)
                start = time.perf_counter()
                call(x)
                synchronize(x)
                if turn > 1:
                    taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def synchronize(x: torch.Tensor) -> None:
    """Wait for a GPU."""
    if x.device.type == "cuda":
        torch.cuda.synchronize()


def device_name(device: str) -> str:
    """What the figures were measured on."""
    return torch.cuda.get_device_name() if torch.device(device).type == "cuda" else device


if __name__ == "__main__":
    sys.exit(main())
