"""Which option gives how much at few bits: a small network on Fashion-MNIST, each option alone, over seeds.

    python -m tests.benchmarks.few_bits [--names ...] [--steps 500] [--float-steps 1500] [--seeds 1 2 3] [--root FOLDER]
        [--folder FOLDER]

A float fit a seed, and from its weights a fit with palettes for each option; the first layer and the head stay dense.
Prints the accuracy on 10,000 test images, by how much it is above that of the fit with the same palettes and no option,
the standard error of that over the seeds, and the relative gap between the weights of training and those of evaluation
in the last logged step. Float fits are kept in `--folder`, and not repeated.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import statistics
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.table import Table

from lightning_compress import Compression, Distillation, DKMPalettization
from tests.benchmarks.fashion_network import FashionImages, FashionNetwork, fitted
from tests.features.cases import make_trainer

DENSE = {r"0\.0": None, "8": None}
KIND = "fashion_mnist"
ANNEALING = {"factor": 0.01, "begin_step": 0.5}


@dataclass(frozen=True)
class Option:
    """One way to train with palettes.

    Attributes:
        keys: Of `DKMPalettization`.
        fit: Of the network.
        distillation: Of the callback.
    """

    keys: dict[str, Any]
    fit: dict[str, float] = field(default_factory=dict)
    distillation: dict[str, Any] | None = None


ONE = {"n_bits": 1}
VECTORS = {"n_bits": 4, "cluster_dim": 4}

PALETTES: dict[str, dict[str, Any]] = {
    "2 bits": {"n_bits": 2},
    "2 bits, 256 vectors of 4": {"n_bits": 8, "cluster_dim": 4},
    "1.5 bits, 64 vectors of 4": {"n_bits": 6, "cluster_dim": 4},
    "1 bit": ONE,
    "1 bit, 16 vectors of 4": VECTORS,
    "1 bit, 256 vectors of 8": {"n_bits": 8, "cluster_dim": 8},
    "0.75 bits, 64 vectors of 8": {"n_bits": 6, "cluster_dim": 8},
}


def options() -> dict[str, dict[str, Option]]:
    """By palette, and by what is changed."""
    found = {name: {"no option": Option(keys)} for name, keys in PALETTES.items()}
    for name, keys in PALETTES.items():
        if keys.get("cluster_dim", 1) > 1:
            found[name]["straight through"] = Option(keys | {"estimator": "straight_through"})
            found[name]["temperature 0.0001"] = Option(keys | {"palett_tau": 1e-4})
    for name, keys in (("1 bit", ONE), ("1 bit, 16 vectors of 4", VECTORS)):
        found[name] |= {
            "half the learning rate": Option(keys, {"learning_rate": 1.5e-3}),
            "twice the learning rate": Option(keys, {"learning_rate": 6e-3}),
            "no weight decay": Option(keys, {"weight_decay": 0.0}),
            "weight decay 0.1": Option(keys, {"weight_decay": 0.1}),
            "temperature 0.1 of the variance": Option(keys | {"relative_tau": 0.1}),
            "temperature 0.3 of the variance": Option(keys | {"relative_tau": 0.3}),
            "0.3 of the variance, annealed": Option(keys | {"relative_tau": 0.3, "annealing": ANNEALING}),
            "annealed": Option(keys | {"annealing": ANNEALING}),
            "scaled by channel": Option(
                keys | {"enable_per_channel_scale": True, "per_channel_scaling_factor_scheme": "abs"}
            ),
            "groups of 8 channels": Option(keys | {"granularity": "per_grouped_channel", "group_size": 8}),
            "soft labels, weight 0.3": Option(keys, {}, {"weight": 0.3}),
        }
    return found


def compressed(
    option: Option, weights: dict[str, torch.Tensor], data: FashionImages, steps: int, seed: int
) -> tuple[float, float]:
    """The accuracy of the finalized network, and the gap that was logged last."""
    L.seed_everything(seed + 100, verbose=False)
    module = FashionNetwork(KIND, steps, **option.fit)
    module.load_state_dict(weights)
    method = DKMPalettization(**option.keys, indivisible="scalars", module_name_configs=DENSE)
    distillation = None if option.distillation is None else Distillation(**option.distillation)
    compression = Compression(method, module="model", distillation=distillation, rehearse=False)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        settings = {"max_epochs": -1, "max_steps": steps, "log_every_n_steps": steps // 10}
        trainer = make_trainer(Path(folder), [compression], **settings)
        trainer.fit(module, datamodule=data)
        gap = float(trainer.callback_metrics["compression/assignment_gap"])
        assert compression.finalized is not None
        module.model = compression.finalized
    return accuracy_of(module, data), gap


def accuracy_of(module: FashionNetwork, data: FashionImages) -> float:
    """On all test images."""
    trainer = make_trainer(Path(), [], limit_val_batches=1.0)
    (metrics,) = trainer.validate(module, datamodule=data, verbose=False)
    return metrics["val/accuracy"]


def main() -> None:
    """Run the fits and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--names", nargs="+", help="options; by default all")
    parser.add_argument("--palettes", nargs="+", default=list(PALETTES), choices=list(PALETTES))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--float-steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--root", help="the folder with Fashion-MNIST's raw files")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="where float weights lie"
    )
    arguments = parser.parse_args()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for seed in arguments.seeds:
        file = arguments.folder / f"fashion_{arguments.float_steps}_{seed}.pt"
        module, data = fitted(KIND, arguments.root, arguments.float_steps, seed, file)
        weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        accuracy = accuracy_of(module, data)
        found.setdefault(("float", ""), []).append((accuracy, 0.0))
        print(f"seed {seed}: float {accuracy:.4f}", flush=True)
        for palette in arguments.palettes:
            for name, option in options()[palette].items():
                if name == "no option" or arguments.names is None or name in arguments.names:
                    values = compressed(option, weights, data, arguments.steps, seed)
                    found.setdefault((palette, name), []).append(values)
                    print(f"seed {seed}: {palette}, {name}: {values[0]:.4f}, {values[1]:.3f}", flush=True)
    _print(found)


def _print(found: dict[tuple[str, str], list[tuple[float, float]]]) -> None:
    table = Table()
    for heading in ("palette", "option", "accuracy", "above no option", "gap"):
        table.add_column(heading, justify="left" if heading in ("palette", "option") else "right")
    for (palette, name), values in found.items():
        above = ""
        if (palette, "no option") in found and name != "no option":
            alone = found[palette, "no option"]
            each = [100 * (one[0] - other[0]) for one, other in zip(values, alone, strict=True)]
            error = f" ± {statistics.stdev(each) / len(each) ** 0.5:.2f}" if len(each) > 1 else ""
            above = f"{statistics.mean(each):+.2f}{error}"
        accuracy = statistics.mean(100 * accuracy for accuracy, _ in values)
        gap = statistics.mean(gap for _, gap in values)
        table.add_row(palette, name, f"{accuracy:.2f}", above, f"{gap:.3f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
