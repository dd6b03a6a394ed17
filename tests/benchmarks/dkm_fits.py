"""Accuracy of whole fits with palettes, ours and coremltools': ResNet50 on handwritten digits, several seeds.

    python -m tests.benchmarks.dkm_fits                      # every convolution, as the recipe is: hours on a CPU
    python -m tests.benchmarks.dkm_fits --modules '(layer1|layer2).*'

A float fit a seed, then a fit with palettes from its weights for each width and kernel.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Mapping

import lightning as L
import torch
from coremltools.optimize.torch.palettization import DKMPalettizer, DKMPalettizerConfig
from rich.console import Console
from rich.table import Table

from lightning_compress import Compression, DKMPalettization
from lightning_compress.recipes.data.labels import DigitsDataModule
from lightning_compress.recipes.resnet50 import ImageClassifier

_KERNELS = ("histogram", "coremltools")


class _CoreMLPalettization(L.Callback):
    """coremltools' own palettizer in a fit."""

    def __init__(self, modules: str, bits: int) -> None:
        self._config = DKMPalettizerConfig.from_dict({"module_name_configs": {modules: {"n_bits": bits}}})

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._palettizer = DKMPalettizer(pl_module.model, self._config)
            self._palettizer.prepare(inplace=True)

    def on_train_batch_end(self, *arguments: object) -> None:
        self._palettizer.step()


class _SameRandomness(L.Callback):
    """Draws the same augmentations for both kernels, of which only one makes its first palettes from random numbers."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: object) -> None:
        torch.manual_seed(1000 * self._seed + trainer.global_step)


def _fit(
    module: L.LightningModule, data: L.LightningDataModule, steps: int, callbacks: list[L.Callback]
) -> tuple[float, float]:
    """Fit, and return the validation accuracy and the seconds the fit took."""
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )
    start = time.perf_counter()
    trainer.fit(module, datamodule=data)
    seconds = time.perf_counter() - start
    evaluator = L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    metrics = evaluator.validate(module, datamodule=data, verbose=False)[0]
    return float(metrics["val/accuracy"]), seconds


def _module(
    steps_rate: float, image_size: int, weights: Mapping[str, torch.Tensor] | None
) -> ImageClassifier:
    module = ImageClassifier(10, image_size, learning_rate=steps_rate)
    if weights is not None:
        module.load_state_dict(weights)
    return module


def main() -> None:
    """Run the fits and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--float-steps", type=int, default=220)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--modules", default=".*", help="regular expression of the modules to palettize")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")
    data = DigitsDataModule(image_size=arguments.image_size, batch_size=32)
    accuracies: dict[tuple[str, int], list[float]] = {}
    seconds: dict[tuple[str, int], list[float]] = {}
    floats: list[float] = []
    for seed in arguments.seeds:
        L.seed_everything(seed, verbose=False)
        module = _module(1e-3, arguments.image_size, None)
        floats.append(_fit(module, data, arguments.float_steps, [])[0])
        weights = {key: value.clone() for key, value in module.state_dict().items()}
        print(f"seed {seed}: float {floats[-1]:.4f}", flush=True)
        for bits in arguments.bits:
            for kernel in _KERNELS:
                L.seed_everything(seed, verbose=False)
                module = _module(3e-4, arguments.image_size, weights)
                palettes: L.Callback = _CoreMLPalettization(arguments.modules, bits)
                if kernel == "histogram":
                    method = DKMPalettization(module_name_configs={arguments.modules: {"n_bits": bits}})
                    palettes = Compression(method, module="model")
                callbacks = [palettes, _SameRandomness(seed)]
                accuracy, spent = _fit(module, data, arguments.steps, callbacks)
                accuracies.setdefault((kernel, bits), []).append(accuracy)
                seconds.setdefault((kernel, bits), []).append(spent)
                print(f"seed {seed}: {bits} bits, {kernel}: {accuracy:.4f} in {spent:.0f} s", flush=True)
    table = Table(title=f"ResNet50, palettized modules {arguments.modules!r}, {arguments.steps} steps")
    for heading in ("bits", "kernel", "accuracy, mean", "least", "most", "seconds a fit, median"):
        table.add_column(heading, justify="right")
    table.add_row(
        "32", "float", f"{statistics.mean(floats):.4f}", f"{min(floats):.4f}", f"{max(floats):.4f}", ""
    )
    for (kernel, bits), values in sorted(accuracies.items(), key=lambda entry: (entry[0][1], entry[0][0])):
        table.add_row(
            str(bits),
            kernel,
            f"{statistics.mean(values):.4f}",
            f"{min(values):.4f}",
            f"{max(values):.4f}",
            f"{statistics.median(seconds[kernel, bits]):.0f}",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
