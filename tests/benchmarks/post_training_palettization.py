"""Post-training palettization of ResNet50 at 2, 4, 6 and 8 bits: this package's one call against coremltools' four.

    python -m tests.benchmarks.post_training_palettization [--repeats 3]

Prints the median times and their ratio, and for each width the largest and the mean excess of a tensor's inertia over
the exact optimum (coremltools' dynamic programme), with centroids in double precision and with both sides' rounded to
the float16 that packages store, as well as what that rounding costs the optimum itself. Weights are torchvision's
random initialization unless `--checkpoint` names a state dict; k-means' work depends on their distribution only a
little.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import coremltools as ct
import numpy as np
import torch
import torchvision
from coremltools._deps import kmeans1d
from rich.console import Console
from rich.table import Table

from lightning_compress.coreml import CoreMLExport
from lightning_compress.coreml.post_training import palettize_package
from lightning_compress.coreml.quiet import quiet_conversion
from lightning_compress.coreml.rewriting import WEIGHT_THRESHOLD
from lightning_compress.kmeans import count_float16, inertia, kmeans_1d
from lightning_compress.package.inspection import decompressed_weights

WIDTHS = (2, 4, 6, 8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of either side; the median counts")
    parser.add_argument("--checkpoint", type=Path, help="state dict of a torchvision ResNet50")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    network = torchvision.models.resnet50()
    if arguments.checkpoint:
        network.load_state_dict(torch.load(arguments.checkpoint, weights_only=True))
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        path = CoreMLExport(Path(folder) / "resnet50.mlpackage").run(network, torch.rand(1, 3, 224, 224)).path
        ours = [time_ours(path) for _ in range(arguments.repeats)]
        theirs = [time_theirs(path) for _ in range(arguments.repeats)]
        console.print(time_table(ours, theirs))
        console.print(inertia_table(path))


def time_ours(path: Path) -> float:
    """Seconds for all widths in one call."""
    start = time.perf_counter()
    palettize_package(path, WIDTHS)
    return time.perf_counter() - start


def time_theirs(path: Path) -> float:
    """Seconds for one call of coremltools a width."""
    seconds = 0.0
    for bits in WIDTHS:
        model = ct.models.MLModel(str(path), skip_model_load=True)
        configuration = ct.optimize.coreml.OptimizationConfig(
            global_config=ct.optimize.coreml.OpPalettizerConfig(mode="kmeans", nbits=bits)
        )
        start = time.perf_counter()
        with quiet_conversion():
            ct.optimize.coreml.palettize_weights(model, configuration)
        seconds += time.perf_counter() - start
    return seconds


def time_table(ours: list[float], theirs: list[float]) -> Table:
    table = Table("palettizing ResNet50 at 2, 4, 6 and 8 bits", "seconds (median)")
    table.add_row("one call of palettize_package", f"{statistics.median(ours):.2f}")
    table.add_row("four calls of coremltools' palettize_weights", f"{statistics.median(theirs):.2f}")
    table.add_row("ratio", f"{statistics.median(theirs) / statistics.median(ours):.1f}")
    return table


def inertia_table(path: Path) -> Table:
    table = Table(
        "bits", "tensors", "worst excess", "mean", "worst, float16", "mean, float16", "cost of float16"
    )
    counted = [
        count_float16(values)
        for values in decompressed_weights(path).values()
        if values.size > WEIGHT_THRESHOLD and values.ndim > 1
    ]
    for bits in WIDTHS:
        rows = np.array([excesses(values, counts, 2**bits) for values, counts in counted])
        exact, stored, rounding = rows.T
        cells = (exact.max(), exact.mean(), stored.max(), stored.mean(), rounding.max())
        table.add_row(str(bits), str(len(counted)), *(f"{value:.4%}" for value in cells))
    return table


def excesses(values: np.ndarray, counts: np.ndarray, n_clusters: int) -> tuple[float, float, float]:
    """Our inertia over the optimum, the same with both stored as float16, and what float16 costs the optimum."""
    best = np.sort(kmeans1d.cluster(values, min(n_clusters, values.size), weights=counts).centroids)
    ours = kmeans_1d(values, counts, n_clusters)
    optimum, optimum_stored, found, found_stored = (
        inertia(values, counts, centroids)
        for centroids in (best, best.astype(np.float16), ours, ours.astype(np.float16))
    )
    return found / optimum - 1, found_stored / optimum_stored - 1, optimum_stored / optimum - 1


if __name__ == "__main__":
    main()
