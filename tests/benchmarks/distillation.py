"""Whether a teacher pays: a small network on Fashion-MNIST at few bits, from the same float weights with and without.

    python -m tests.benchmarks.distillation [--bits 1] [--images 10000] [--compressed-images N] [--epochs 3]
        [--teacher-width W] [--learning-rate 5e-3] [--seeds 1 2] [--root FOLDER]

A float network of 16, 32 and 64 channels trains on the first `--images` images for eight epochs, and each fit with
compression begins with its weights; the first layer and the head stay dense. `--compressed-images` leaves fits with
compression fewer images, for as many more epochs. `--teacher-width` takes as the teacher a float network that many
times as wide, trained as the float network was. Prints, over the seeds, the mean accuracy on 5,000 test images, by how
much it is above that of the fit without a teacher and the standard error of that, and the divergence of the finalized
network's probabilities from the float network's.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import logging
import statistics
import tempfile
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_compress import Compression, Distillation, DKMPalettization
from recipes.data.labels import FashionMNISTDataModule
from tests.features.cases import make_trainer

BATCH = 64
FLOAT_EPOCHS = 8

DISTILLATIONS: dict[str, dict[str, Any] | None] = {
    "no teacher": None,
    "soft labels, weight 0.3": {"weight": 0.3},
    "soft labels, weight 1": {"weight": 1.0},
    "soft labels, weight 3": {"weight": 3.0},
    "soft labels at T = 4, weight 1": {"weight": 1.0, "temperature": 4.0},
    "squared error, weight 0.3": {"loss": "squared_error", "weight": 0.3},
    "squared error, weight 1": {"loss": "squared_error", "weight": 1.0},
    "soft labels and batch norms, weight 1": {"weight": 1.0, "modules": ["1", "4", "7"]},
}


class Network(nn.Sequential):
    """Three convolutions of stride 2, each with batch norm, and a head."""

    def __init__(self, width: int = 1) -> None:
        channels = [1, *(width * count for count in (16, 32, 64))]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(channels):
            convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], 10))


class Classifier(L.LightningModule):
    """Trains a network by Adam under a one-cycle schedule."""

    def __init__(self, images: TensorDataset, learning_rate: float, width: int = 1) -> None:
        super().__init__()
        self.model = Network(width)
        self.images = images
        self.learning_rate = learning_rate

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def train_dataloader(self) -> DataLoader[Any]:
        """All images, in batches of one size."""
        return DataLoader(self.images, batch_size=BATCH, shuffle=True, drop_last=True)

    def configure_optimizers(self) -> Any:
        """As long as the fit."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def read(root: str) -> tuple[TensorDataset, TensorDataset]:
    """Images from -1 to 1 with labels, to train and to test on."""
    parts = FashionMNISTDataModule(root=root).read()[:2]
    train, test = (TensorDataset(part.data[:, None].float() / 127.5 - 1, part.targets) for part in parts)
    return train, test


def fit(module: Classifier, epochs: int, *callbacks: L.Callback) -> Classifier:
    """Fit in silence."""
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder:
        make_trainer(Path(folder), callbacks, max_epochs=epochs).fit(module)
    return module


@torch.no_grad()
def logits(network: nn.Module, images: Tensor) -> Tensor:
    """What a network makes of images, in evaluation."""
    network.eval()
    return torch.cat([network(part) for part in images.split(500)])


def main() -> None:
    """Run the fits and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bits", type=int, default=1)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--compressed-images", type=int, default=None)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--teacher-width", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--names", nargs="+", default=list(DISTILLATIONS), help="which distillations")
    parser.add_argument("--root", default="/usr/share/datasets/fashion-mnist")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    train, test = read(arguments.root)
    images = TensorDataset(*train[: arguments.images])
    fewer = TensorDataset(*train[: arguments.compressed_images or arguments.images])
    epochs = arguments.epochs * len(images) // len(fewer)
    inputs, labels = test[:5000]
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in arguments.seeds:
        L.seed_everything(seed, verbose=False)
        start = fit(Classifier(images, 5e-3), FLOAT_EPOCHS)
        weights = {name: tensor.clone() for name, tensor in start.state_dict().items()}
        wide = None
        if arguments.teacher_width > 1:
            wide = fit(Classifier(images, 5e-3, arguments.teacher_width), FLOAT_EPOCHS).model
            reached = _accuracy(logits(wide, inputs), labels)
            print(f"seed {seed}: teacher {reached:.4f}", flush=True)
        expected = logits(start.model, inputs)
        found.setdefault("float", []).append((_accuracy(expected, labels), 0.0))
        for name in arguments.names:
            options = DISTILLATIONS[name]
            L.seed_everything(seed + 100, verbose=False)
            module = Classifier(fewer, arguments.learning_rate)
            module.load_state_dict(weights)
            method = DKMPalettization(n_bits=arguments.bits, module_name_configs={"0": None, "11": None})
            distillation = None if options is None else Distillation(**options, teacher=wide)
            compression = Compression(method, module="model", distillation=distillation)
            fit(module, epochs, compression)
            assert compression.finalized is not None
            actual = logits(compression.finalized, inputs)
            divergence = F.kl_div(
                actual.log_softmax(1), expected.log_softmax(1), reduction="batchmean", log_target=True
            )
            found.setdefault(name, []).append((_accuracy(actual, labels), float(divergence)))
            print(f"seed {seed}: {name}: {found[name][-1][0]:.4f}, {found[name][-1][1]:.4f}", flush=True)
    _print(found)


def _accuracy(outputs: Tensor, labels: Tensor) -> float:
    return float((outputs.argmax(1) == labels).float().mean())


def _print(found: dict[str, list[tuple[float, float]]]) -> None:
    table = Table()
    for heading in ("", "accuracy", "above no teacher", "divergence from float"):
        table.add_column(heading, justify="left" if not heading else "right")
    alone = [accuracy for accuracy, _ in found.get("no teacher", [])]
    for name, values in found.items():
        accuracies = [accuracy for accuracy, _ in values]
        above = [100 * (one - other) for one, other in zip(accuracies, alone, strict=False)]
        error = f" ± {statistics.stdev(above) / len(above) ** 0.5:.2f}" if len(above) > 1 else ""
        table.add_row(
            name,
            f"{100 * statistics.mean(accuracies):.2f}",
            f"{statistics.mean(above):+.2f}{error}" if above else "",
            f"{statistics.mean(divergence for _, divergence in values):.4f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
