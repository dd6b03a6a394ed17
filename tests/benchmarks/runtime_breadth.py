"""Torchvision's networks as Core ML packages, run by `lightning_compress.runtime` and compared with torch.

    python -m tests.benchmarks.runtime_breadth [--models resnet18 vit_b_16] [--targets iOS16 iOS18]

Each network is converted twice for each deployment target. Package at float16: the smallest cosine between torch's
and the package's output over samples and outputs, with the package computed as it is typed and with float32 arithmetic
on its float16 weights. Package at float32: the relative error (norm of the difference over norm of torch's output).
Batches of four crops of real photographs go through packages converted for one sample. Weights are random, with batch
normalization calibrated on such crops (see `calibrated`); exit status 1 if a bound of the project is missed.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import coremltools as ct
import numpy as np
import torch
import torchvision
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from lightning_compress import runtime
from lightning_compress.coreml.quiet import quiet_conversion

MODELS = (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "shufflenet_v2_x1_0",
    "convnext_tiny",
    "regnet_y_400mf",
    "vit_b_16",
    "swin_t",
    "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
)
TARGETS = ("iOS16", "iOS17", "iOS18")
LOWEST_COSINE = 0.999
LARGEST_ERROR = 1e-3
SIZE = 224


@dataclass(frozen=True)
class Row:
    """What one network showed at one target."""

    model: str
    target: str
    load_seconds: float
    cosine_float16: float
    cosine_float32: float
    relative_error: float
    batching: str

    @property
    def passed(self) -> bool:
        """Within the bounds of the project."""
        cosine = min(self.cosine_float16, self.cosine_float32)
        return cosine > LOWEST_COSINE and self.relative_error < LARGEST_ERROR


class Outputs(nn.Module):
    """A segmentation network's dictionary as a tuple, which tracing needs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        result = self.network(x)
        return result if isinstance(result, Tensor) else tuple(result.values())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--targets", nargs="+", default=TARGETS, choices=TARGETS)
    arguments = parser.parse_args()
    console = Console()
    rows: list[Row] = []
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.models:
            for row in measure(model, arguments.targets, Path(folder)):
                rows.append(row)
                console.print(f"{row.model} {row.target}: {'passed' if row.passed else 'FAILED'}")
    console.print(table_of(rows))
    return 0 if all(row.passed for row in rows) else 1


def measure(model: str, targets: tuple[str, ...], folder: Path) -> Iterator[Row]:
    """Convert one network for each target at both precisions and compare."""
    torch.manual_seed(0)
    x = photographs(32)
    network = calibrated(
        getattr(torchvision.models, model, None) or getattr(torchvision.models.segmentation, model), x
    )
    x = x[::8].clone()
    with torch.no_grad():
        expected = as_list(network(x))
    with quiet_conversion():
        # vit_b_16 alone fails coremltools' own check of the trace.
        traced = torch.jit.trace(network, x[:1], check_trace=False)
    for target in targets:
        half = convert(traced, target, ct.precision.FLOAT16, folder / "half.mlpackage")
        full = convert(traced, target, ct.precision.FLOAT32, folder / "full.mlpackage")
        start = time.perf_counter()
        module = runtime.load(half, precision="float16")
        seconds = time.perf_counter() - start
        with torch.no_grad():
            typed = module(x).values()
            widened = runtime.load(half)(x).values()
            exact = runtime.load(full)(x).values()
        yield Row(
            model,
            target,
            seconds,
            min(map(cosine, typed, expected)),
            min(map(cosine, widened, expected)),
            max(map(relative_error, exact, expected)),
            module.batching,
        )


def photographs(count: int) -> Tensor:
    """Crops of scikit-learn's two photographs, [count, 3, 224, 224], standardized as torchvision's networks expect."""
    images = load_sample_images().images
    corners = np.random.default_rng(0).integers((0, 0), (427 - SIZE, 640 - SIZE), (count, 2))
    crops = np.stack(
        [images[i % 2][top : top + SIZE, left : left + SIZE] for i, (top, left) in enumerate(corners)]
    )
    x = torch.from_numpy(crops).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (x - mean[:, None, None]) / std[:, None, None]


def calibrated(builder: object, x: Tensor) -> nn.Module:
    """A network of random weights whose batch normalization has seen the photographs, so that its values stay sane."""
    segmentation = "segmentation" in builder.__module__
    network = builder(weights=None, **({"weights_backbone": None} if segmentation else {}))
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
            # Networks of random weights are chaotic: rounding MobileNetV2's input to float16 alone brings its output to
            # a cosine of 0.9994. Activations that stay mostly positive make them as tame as trained ones.
            nn.init.constant_(module.weight, 0.5)
            nn.init.constant_(module.bias, 0.5)
        # ViT's head starts at zero and ConvNeXt's blocks at a millionth: little would be left to compare.
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)
        if hasattr(module, "layer_scale"):
            nn.init.constant_(module.layer_scale, 0.5)
    with torch.no_grad():
        network.train()(x)
    return Outputs(network).eval()


def convert(traced: torch.jit.ScriptModule, target: str, precision: ct.precision, path: Path) -> Path:
    """Save a package of the network for one sample."""
    with quiet_conversion():
        ct.convert(
            traced,
            inputs=[ct.TensorType("x", shape=(1, 3, SIZE, SIZE))],
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=precision,
            skip_model_load=True,
        ).save(str(path))
    return path


def as_list(result: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    """One output or several, as a list."""
    return [result] if isinstance(result, Tensor) else list(result)


def cosine(actual: Tensor, expected: Tensor) -> float:
    """The smallest cosine over samples."""
    return torch.cosine_similarity(actual.double().flatten(1), expected.double().flatten(1)).min().item()


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what was expected."""
    return ((actual - expected).norm() / expected.norm()).item()


def table_of(rows: list[Row]) -> Table:
    """The rows for the console."""
    table = Table(
        "network",
        "target",
        "load, s",
        "cosine, float16",
        "cosine, float32",
        "error, float32 package",
        "batches",
    )
    for row in rows:
        table.add_row(
            row.model,
            row.target,
            f"{row.load_seconds:.2f}",
            f"{row.cosine_float16:.6f}",
            f"{row.cosine_float32:.6f}",
            f"{row.relative_error:.1e}",
            row.batching,
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
