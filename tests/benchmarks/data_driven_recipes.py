"""Compression by data of a recipe's network, beside coremltools' `SKMPalettizer` and `LayerwiseCompressor`.

    python -m tests.benchmarks.data_driven_recipes [--bits 4 3] [--samples 256] [--ways NAME ...]
        recipe=ssd_resnet18 float_fit.weights=float.ckpt

The words are those of `lightning-compress train`. Every way compresses the whole network by the same number of training
samples, in a process of its own with one thread. Prints seconds, gradients included; by how much memory peaked over
what the process held before; and the recipe's metric of the torch module on the validation data.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_module
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from lightning_compress.callback.calibration import calibrate_by_training_data
from lightning_compress.callback.losses import TrainingLoss, on_its_own, single_examples
from lightning_compress.command_line.composing import CONFIGURATIONS
from lightning_compress.command_line.words import sort_words
from lightning_compress.commands.jobs.building import Building
from lightning_compress.copying import copy_whole
from lightning_compress.methods import (
    GPTQ,
    DKMPalettization,
    GPTQPalettization,
    Method,
    PreparedModule,
    SensitivePalettization,
)
from lightning_compress.tasks.measuring import measure
from tests.benchmarks.data_driven import layerwise_compressor, skm_palettizer
from tests.benchmarks.peak_memory import with_peak


class Subject:
    """A recipe's module with its float weights, and its data."""

    def __init__(self, words: Sequence[str], folder: Path) -> None:
        overrides = sort_words("train", words).overrides
        with initialize_config_module(CONFIGURATIONS, version_base="1.3"):
            config = compose("train", overrides=overrides)
        building = Building(config, folder)
        building.data.prepare_data()
        building.data.setup("fit")
        self.folder = folder
        self.data = building.data
        self.metric = building.recipe.metric
        self.module = building.float_module()
        self.path = building.recipe.network_path(self.module)

    @property
    def network(self) -> nn.Module:
        """What is compressed."""
        return self.module.get_submodule(self.path)

    def value(self) -> float:
        """The metric of the module as it is."""
        return measure(self.module, self.data, self.metric, self.folder, shows_progress=False)


Way = Callable[[Subject, int], nn.Module]
"""From a subject and a number of samples to its network compressed."""


def ours(method: Method) -> Way:
    def compress(subject: Subject, samples: int) -> nn.Module:
        prepared = PreparedModule(subject.network, [method])
        loader = subject.data.train_dataloader()
        calibrate_by_training_data(prepared, subject.module, subject.path, loader, samples, subject.data)
        return prepared.finalize()

    return compress


def sensitive_of_coremltools(bits: int) -> Way:
    def compress(subject: Subject, samples: int) -> nn.Module:
        loss = TrainingLoss(on_its_own(copy_whole(subject.module)), subject.data)

        def loss_of(network: nn.Module, example: Any) -> Tensor:
            # SKMPalettizer asks for gradients of a copy, in the mode that it was in.
            for part in network.modules():
                part.training &= not isinstance(part, nn.modules.batchnorm._BatchNorm)
            loss.module.set_submodule(subject.path, network)
            return loss(example)

        singles = list(single_examples(subject.data.train_dataloader(), samples, 0))
        return skm_palettizer(subject.network, bits, samples).compress(dataloader=singles, loss_fn=loss_of)

    return compress


def layerwise_of_coremltools(**keys: Any) -> Way:
    def compress(subject: Subject, samples: int) -> nn.Module:
        singles = single_examples(subject.data.train_dataloader(), samples, 0)
        inputs = [example[0] for example in singles]
        return layerwise_compressor(subject.network, samples, **keys).compress(inputs, device="cpu")

    return compress


def ways(bits: int) -> dict[str, Way]:
    """Every way of compressing, by name."""
    keys = {"n_bits": bits, "weight_threshold": 0}
    found = {
        "k-means": ours(DKMPalettization(**keys)),
        "sensitive k-means": ours(SensitivePalettization(**keys)),
        "coremltools SKMPalettizer": sensitive_of_coremltools(bits),
        "GPTQ on palettes": ours(GPTQPalettization(**keys)),
    }
    if bits == 4:
        found["GPTQ int4"] = ours(GPTQ(weight_dtype="int4"))
        found["coremltools LayerwiseCompressor int4"] = layerwise_of_coremltools(weight_dtype="uint4")
    return found


def compress_once(bits: int, way: str, samples: int, words: Sequence[str]) -> None:
    """Compress in one way, and print what it took and what became of it."""
    warnings.simplefilter("ignore")
    logging.getLogger("lightning_compress").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(words, Path(folder))
        if way:
            # What is loaded and allocated at the first use is no one's cost.
            example = next(single_examples(subject.data.train_dataloader(), 1, 0))
            TrainingLoss(on_its_own(copy_whole(subject.module)), subject.data)(example).backward()
            began = time.perf_counter()
            compressed, peak = with_peak(lambda: ways(bits)[way](subject, samples))
            cost = f"{time.perf_counter() - began:.1f} {peak:.0f}"
            subject.module.set_submodule(subject.path, compressed)
        else:
            cost = "- -"
        print(f"{cost} {subject.value():.4f}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="+", help="those of `lightning-compress train`")
    parser.add_argument("--bits", nargs="+", type=int, default=[4, 3], choices=[4, 3, 2])
    parser.add_argument("--samples", type=int, default=256, help="training samples that compression sees")
    parser.add_argument("--ways", nargs="*", default=[""], help="only those with one of these in their names")
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        compress_once(int(arguments.cell[0]), arguments.cell[1], arguments.samples, arguments.words)
        return
    cells = [(bits, way) for bits in arguments.bits for way in ways(bits)]
    chosen = [(bits, way) for bits, way in cells if any(part in way for part in arguments.ways)]
    table = Table("bits", "way", "seconds", "MiB", "metric", title=" ".join(arguments.words))
    for bits, way in [(32, ""), *chosen]:
        command = [sys.executable, "-m", __spec__.name, *arguments.words, "--samples", str(arguments.samples)]
        done = subprocess.run(
            [*command, "--cell", str(bits), way], capture_output=True, text=True, check=False
        )
        lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or ["no output"]
        found = lines[-1].split() if done.returncode == 0 else [lines[-1][:60]]
        table.add_row(str(bits), way or "float", *found)
        print(bits, way or "float", *found, flush=True)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
