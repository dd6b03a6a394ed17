"""What the same share of zeros costs in every layer, without the first and last layer, and by importance.

    python -m tests.benchmarks.global_sparsity [--sparsity 0.75] [--seeds 3] [--networks small mobilenet]

Each seed trains a float network on scikit-learn's digits (or on Fashion-MNIST, with --root the folder of its raw
files), then trains it on in each form, with the same number of epochs and zeros that rise until half of them. Prints
accuracy on images never trained on, as mean and range over the seeds, the share of zeros over all weights that can be
pruned, and what share allocation="global" chose for each layer.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import logging
import time
import warnings
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
import torchvision
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_compress import Compression, MagnitudePruning

BATCH_SIZE = 32
FORMS = ("float", "every layer", "without first and last", "global")


def small_network() -> nn.Module:
    """A convolutional network of about 75 thousand weights."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if inputs > 1 else []
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 192), nn.ReLU(), nn.Linear(192, 10)]
    return nn.Sequential(*layers, *head)


def mobilenet() -> nn.Module:
    """torchvision's MobileNetV2 of half width, of 700 thousand weights, for small images of one channel."""
    network = torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.5)
    network.features[0][0] = nn.Conv2d(1, 16, 3, padding=1, bias=False)
    return network


NETWORKS = {"small": small_network, "mobilenet": mobilenet}


class Classifier(L.LightningModule):
    """Trains a network, which is its attribute `model`."""

    def __init__(self, network: nn.Module, learning_rate: float) -> None:
        super().__init__()
        self.model = network
        self.learning_rate = learning_rate

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.model(images), labels)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@dataclass
class Data:
    """Images and labels, to train with and to measure with."""

    train: TensorDataset
    test: TensorDataset


@dataclass
class Result:
    """What one fit came to."""

    accuracy: float
    sparsities: dict[str, float]
    sparsity: float


def digits() -> Data:
    """Of 1,797 digits of 8 x 8 the first 1,000 to train with."""
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(bunch.target)
    return Data(TensorDataset(images[:1000], labels[:1000]), TensorDataset(images[1000:], labels[1000:]))


def fashion_mnist(root: str) -> Data:
    """Fashion-MNIST, of whose training images 10,000 are taken."""
    halves = [torchvision.datasets.FashionMNIST(root, train=train) for train in (True, False)]
    train, test = (TensorDataset(half.data[:10_000, None] / 255, half.targets[:10_000]) for half in halves)
    return Data(train, test)


def prunable(network: nn.Module) -> dict[str, nn.Module]:
    """The layers with weights, in the order of a forward."""
    return {name: part for name, part in network.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}


def method(form: str, network: nn.Module, sparsity: float) -> list[MagnitudePruning]:
    """The compression of a form."""
    keys: dict[str, Any] = {
        "target_sparsity": sparsity,
        "scheduler": {"begin_step": 0.0, "end_step": 0.5, "updates": 20},
    }
    names = list(prunable(network))
    if form == "without first and last":
        keys["module_name_configs"] = {names[0]: None, names[-1]: None}
    elif form == "global":
        keys["allocation"] = "global"
    return [] if form == "float" else [MagnitudePruning(**keys)]


def fit(network: nn.Module, data: Data, methods: list[MagnitudePruning], epochs: int, rate: float) -> Result:
    """Train a network in place, and measure what is finalized."""
    compression = Compression(*methods, module="model")
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[compression] if methods else [],
    )
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.fit(Classifier(network, rate), DataLoader(data.train, BATCH_SIZE, shuffle=True))
    finalized = compression.finalized if methods else network.eval()
    assert finalized is not None
    images, labels = data.test.tensors
    with torch.inference_mode():
        parts = [finalized(part).argmax(1) for part in images.split(500)]
    accuracy = float((torch.cat(parts) == labels).float().mean())
    zeros = {name: part.weight.detach() == 0 for name, part in prunable(finalized).items()}
    shares = {name: float(zero.float().mean()) for name, zero in zeros.items()}
    total = sum(zero.numel() for zero in zeros.values())
    return Result(accuracy, shares, sum(int(zero.sum()) for zero in zeros.values()) / total)


def measure(name: str, data: Data, arguments: argparse.Namespace) -> dict[str, list[Result]]:
    """Every form of a network, by seed."""
    results: dict[str, list[Result]] = {form: [] for form in FORMS}
    for seed in range(arguments.seeds):
        L.seed_everything(seed, verbose=False)
        network = NETWORKS[name]()
        fit(network, data, [], arguments.epochs, 3e-3)
        for form in FORMS:
            L.seed_everything(100 + seed, verbose=False)
            copied = copy.deepcopy(network)
            results[form].append(
                fit(copied, data, method(form, copied, arguments.sparsity), arguments.epochs, 1e-3)
            )
    return results


def print_table(name: str, results: dict[str, list[Result]]) -> None:
    """Accuracy and sparsity by form, then the sparsity by layer of "global"."""
    layers = prunable(NETWORKS[name]())
    weights = {layer: part.weight.numel() for layer, part in layers.items()}
    print(f"\n{name}: {sum(weights.values()):,} weights in {len(weights)} layers")
    print(f"{'zeros':<26}{'accuracy':>9}{'range':>16}{'overall zeros':>16}")
    for form, found in results.items():
        accuracies = [100 * result.accuracy for result in found]
        mean = sum(accuracies) / len(accuracies)
        extent = f"{min(accuracies):.1f} to {max(accuracies):.1f}"
        zeros = sum(result.sparsity for result in found) / len(found)
        print(f"{form:<26}{mean:>9.1f}{extent:>16}{zeros:>16.1%}")
    print("zeros that global chose, by layer:")
    for layer, count in weights.items():
        shares = [result.sparsities[layer] for result in results["global"]]
        print(f"  {layer:<32}{count:>10,}{sum(shares) / len(shares):>8.1%}")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--sparsity", type=float, default=0.75)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--root", help="folder with FashionMNIST/raw; digits without it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    data = fashion_mnist(arguments.root) if arguments.root else digits()
    for name in arguments.networks:
        start = time.perf_counter()
        print_table(name, measure(name, data, arguments))
        print(f"{time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
