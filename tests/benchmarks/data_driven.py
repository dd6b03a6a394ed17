"""Compression by data without training, beside coremltools' `SKMPalettizer` and `LayerwiseCompressor`.

    python -m tests.benchmarks.data_driven [--networks small resnet50] [--bits 4 3] [--samples 256] [--skip NAME ...]

Trains each network for a minute or two on scikit-learn's digits, moved and turned at random, and compresses it in each
way by the same training images, every way in a process of its own with one thread. Prints seconds, gradients included;
by how much memory peaked over what the process held before; and accuracy and cross entropy on digits by other writers.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from lightning_compress.methods import (
    GPTQ,
    DKMPalettization,
    GPTQPalettization,
    Method,
    PreparedModule,
    SensitivePalettization,
    calibrate,
    squared_gradients,
)
from lightning_compress.methods.mechanism.tensors import find_tensors
from recipes.data.digits import read_digits
from tests.benchmarks.peak_memory import with_peak

BATCH = 32
VIEWS = 8
"""Random views of each digit that accuracy is measured on."""

Pair = tuple[Tensor, Tensor]


class Block(nn.Module):
    """Two convolutions beside what they are added to."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.beside = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first_norm(self.first(inputs)).relu()
        return (self.second_norm(self.second(hidden)) + self.beside(inputs)).relu()


def small() -> nn.Sequential:
    """A residual network of about 300 thousand weights for images of 16 x 16."""
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = [Block(16, 32, 1), Block(32, 64, 2), Block(64, 96, 2)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))


def resnet50() -> nn.Sequential:
    """torchvision's ResNet50 as a sequence, which `LayerwiseCompressor` needs, for images of 32 x 32."""
    whole = torchvision.models.resnet50(num_classes=10)
    stem = [whole.conv1, whole.bn1, whole.relu, whole.maxpool]
    blocks = [*whole.layer1, *whole.layer2, *whole.layer3, *whole.layer4]
    return nn.Sequential(*stem, *blocks, whole.avgpool, nn.Flatten(), whole.fc)


NETWORKS: dict[str, tuple[Callable[[], nn.Sequential], int, int]] = {
    "small": (small, 16, 15),
    "resnet50": (resnet50, 32, 10),
}
"""The network, the size of its images, and the epochs that it trains for."""


def digits(split: str, size: int, views: int, seed: int) -> Pair:
    """Random views of the digits of one split."""
    images, labels = read_digits(split)
    grey = torch.from_numpy(images).float().div(255).unsqueeze(1)
    grey = F.interpolate(grey, (size, size), mode="bilinear").expand(-1, 3, -1, -1)
    turned = v2.RandomAffine(degrees=15, translate=(0.125, 0.125), scale=(0.7, 1.1))
    torch.manual_seed(seed)
    shown = [turned(image) for _ in range(views) for image in grey]
    return torch.stack(shown), torch.from_numpy(labels).repeat(views)


def train(network: nn.Module, size: int, epochs: int) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = epochs * (1437 // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    network.train()
    for epoch in range(epochs):
        images, labels = digits("train", size, 1, epoch)
        order = torch.randperm(len(images))[: len(images) // BATCH * BATCH]
        for chosen in order.split(BATCH):
            loss = F.cross_entropy(network(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def measure(network: nn.Module, size: int) -> tuple[float, float]:
    """Accuracy and cross entropy on digits by other writers."""
    images, labels = digits("val", size, VIEWS, 1000)
    logits = torch.cat([network.eval()(part) for part in images.split(64)])
    return float((logits.argmax(1) == labels).float().mean()), float(F.cross_entropy(logits, labels))


def loss_of(network: nn.Module, pair: Pair) -> Tensor:
    return F.cross_entropy(network(pair[0]), pair[1])


def ours(*methods: Method, inputs: bool, gradients: bool) -> Callable[[nn.Sequential, Pair], nn.Module]:
    def compress(network: nn.Sequential, data: Pair) -> nn.Module:
        importance = None
        if gradients:
            singles = zip(data[0].split(1), data[1].split(1), strict=True)
            importance = squared_gradients(
                find_tensors(network), lambda pair: loss_of(network, pair), singles
            )
        prepared = PreparedModule(network, methods)
        if inputs or gradients:
            calibrate(prepared, batches=data[0].split(BATCH) if inputs else (), importance=importance)
        return prepared.finalize()

    return compress


def skm_palettizer(network: nn.Module, bits: int, samples: int) -> Any:
    """coremltools' sensitive k-means."""
    from coremltools.optimize.torch.palettization import SKMPalettizer, SKMPalettizerConfig

    config = SKMPalettizerConfig.from_dict(
        {"global_config": {"n_bits": bits}, "calibration_nsamples": samples}
    )
    return SKMPalettizer(network, config)


def layerwise_compressor(network: nn.Module, samples: int, **keys: Any) -> Any:
    """coremltools' GPTQ."""
    from coremltools.optimize.torch.layerwise_compression import (
        LayerwiseCompressor,
        LayerwiseCompressorConfig,
    )

    config = LayerwiseCompressorConfig.from_dict(
        {
            "global_config": {"algorithm": "gptq", **keys},
            "input_cacher": "default",
            "calibration_nsamples": samples,
        }
    )
    return LayerwiseCompressor(network, config)


def sensitive_of_coremltools(bits: int) -> Callable[[nn.Sequential, Pair], nn.Module]:
    def compress(network: nn.Sequential, data: Pair) -> nn.Module:
        singles = list(zip(data[0].split(1), data[1].split(1), strict=True))
        return skm_palettizer(network, bits, len(singles)).compress(dataloader=singles, loss_fn=loss_of)

    return compress


def layerwise_of_coremltools(**keys: Any) -> Callable[[nn.Sequential, Pair], nn.Module]:
    def compress(network: nn.Sequential, data: Pair) -> nn.Module:
        batches = list(data[0].split(BATCH))
        return layerwise_compressor(network, len(data[0]), **keys).compress(batches, device="cpu")

    return compress


def ways(bits: int) -> dict[str, Callable[[nn.Sequential, Pair], nn.Module]]:
    """Every way of compressing, by name."""
    keys = {"n_bits": bits, "weight_threshold": 0}
    found = {
        "k-means": ours(DKMPalettization(**keys), inputs=False, gradients=False),
        "sensitive k-means": ours(SensitivePalettization(**keys), inputs=False, gradients=True),
        "  and bias correction": ours(
            SensitivePalettization(**keys, bias_correction=True), inputs=True, gradients=True
        ),
        "coremltools SKMPalettizer": sensitive_of_coremltools(bits),
        "GPTQ on palettes": ours(GPTQPalettization(**keys), inputs=True, gradients=False),
        "GPTQ on sensitive palettes": ours(GPTQPalettization(**keys), inputs=True, gradients=True),
    }
    if bits == 4:
        found |= {
            "GPTQ int4": ours(GPTQ(weight_dtype="int4"), inputs=True, gradients=False),
            "coremltools LayerwiseCompressor int4": layerwise_of_coremltools(weight_dtype="uint4"),
            "  in the order of activations": layerwise_of_coremltools(
                weight_dtype="uint4", use_activation_order_heuristic=True
            ),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--bits", nargs="+", type=int, default=[4, 3], choices=[4, 3, 2])
    parser.add_argument("--samples", type=int, default=256, help="training images that compression sees")
    parser.add_argument("--skip", nargs="*", default=[], help="ways to leave out, by a part of their names")
    parser.add_argument("--weights", type=Path, help="folder to keep trained weights in, for another run")
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.cell:
        compress_once(*arguments.cell, arguments.weights, arguments.samples)
        return
    with tempfile.TemporaryDirectory() as folder:
        weights = arguments.weights or Path(folder)
        for name in arguments.networks:
            print_table(name, weights, arguments)


def print_table(name: str, weights: Path, arguments: argparse.Namespace) -> None:
    make, size, epochs = NETWORKS[name]
    torch.manual_seed(0)
    network = make()
    path = weights / f"{name}.pt"
    if path.exists():
        network.load_state_dict(torch.load(path, weights_only=True))
    else:
        train(network, size, epochs)
        torch.save(network.state_dict(), path)
    accuracy, loss = measure(network, size)
    table = Table("bits", "way", "seconds", "MiB", "accuracy", "cross entropy", title=name)
    table.add_row("32", "float", "", "", f"{accuracy:.4f}", f"{loss:.4f}")
    for bits in arguments.bits:
        for way in ways(bits):
            if any(part in way for part in arguments.skip):
                continue
            command = [sys.executable, "-m", __spec__.name, "--cell", name, str(bits), way]
            command += ["--weights", str(weights), "--samples", str(arguments.samples)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            cells = done.stdout.strip().splitlines()[-1:] if done.returncode == 0 else [done.stderr[-200:]]
            table.add_row(str(bits), way, *cells[0].split())
            print(name, bits, way, *cells, flush=True)
    Console().print(table)


def compress_once(name: str, bits: str, way: str, weights: Path, samples: int) -> None:
    """Compress in one way, and print what it took and what became of it."""
    warnings.simplefilter("ignore")
    make, size, _ = NETWORKS[name]
    network = make()
    network.load_state_dict(torch.load(weights / f"{name}.pt", weights_only=True))
    network.eval()
    images, labels = digits("train", size, 1, 0)
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:samples]
    data = images[chosen], labels[chosen]
    # What is loaded and allocated at the first use is no one's cost.
    with torch.enable_grad():
        loss_of(copy.deepcopy(network), (data[0][:1], data[1][:1])).backward()
    started = time.perf_counter()
    compressed, peak = with_peak(lambda: ways(int(bits))[way](network, data))
    seconds = time.perf_counter() - started
    accuracy, loss = measure(compressed, size)
    print(f"{seconds:.1f} {peak:.0f} {accuracy:.4f} {loss:.4f}")


if __name__ == "__main__":
    main()
