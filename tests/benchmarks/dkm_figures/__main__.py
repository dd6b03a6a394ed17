"""The figures of lightning_compress/dkm/README.md, from runs of the code: `python -m tests.benchmarks.dkm_figures`.

Writes SVG files beside this one. That of times takes two minutes, and its numbers are those of the machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

from lightning_compress.dkm import palettize
from lightning_compress.dkm.hard import assign_hard
from lightning_compress.dkm.initial import first_palette
from tests.benchmarks.dkm_accuracy import (
    FLOOR,
    ITERATIONS,
    TEMPERATURE,
    by_coremltools,
    by_formulas,
    by_histogram,
    errors,
    shapes_of_weights,
)

FOLDER = Path(__file__).parent
BITS = (1, 2, 3, 4, 6, 8)


def soft_assignment(axes: Axes) -> None:
    """The value that each weight becomes, at three temperatures, and the palette's four values."""
    weight = torch.randn(50_000, generator=torch.Generator().manual_seed(0)) * 0.02
    palette = first_palette(weight.view(1, -1, 1), 4)[0]
    order = weight.sort().indices[::25]
    for temperature, color in ((1e-5, "#0a84ff"), (1e-4, "#30a14e"), (1e-3, "#d9822b")):
        output, _ = palettize(weight, palette, temperature=temperature, iterations=3)
        axes.plot(weight[order], output[order], color=color, label=f"temperature {temperature:g}")
    hard = assign_hard(weight.view(1, -1), palette.view(1, -1))[0]
    axes.plot(weight[order], hard[order], color="black", linewidth=0.8, linestyle=":", label="evaluation")
    axes.set(xlabel="weight", ylabel="palettized weight", xlim=(-0.06, 0.06))


def grid_against_formulas(axes: Axes) -> None:
    """Errors of the grid and of coremltools against the formulas in double precision, the median of six weights."""
    found: dict[str, list[float]] = {}
    for bits in BITS:
        of_weights: dict[str, list[float]] = {}
        for weight in shapes_of_weights(60_000).values():
            upstream = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
            centroids = first_palette(weight.view(1, -1, 1), 2**bits)[0]
            exact = by_formulas(weight, centroids, upstream)
            for kernel, run in (("grid", by_histogram), ("coremltools", by_coremltools)):
                results = errors(run(weight, centroids, upstream), exact)
                for what, error in zip(("output", "gradient"), results[:2], strict=True):
                    of_weights.setdefault(f"{kernel}, {what}", []).append(error)
        for name, values in of_weights.items():
            found.setdefault(name, []).append(statistics.median(values))
    for name, values in found.items():
        style = {"color": "#0a84ff" if name.startswith("grid") else "#888888"}
        axes.plot(BITS, values, marker="o", linestyle="-" if "output" in name else "--", label=name, **style)
    axes.set(xlabel="bits", ylabel="relative error", yscale="log", xticks=BITS)


def error_over_bits(axes: Axes) -> None:
    """What a palette takes from weights, beside as many equal steps over their range."""
    weights = shapes_of_weights(60_000)
    for name, color in (("normal, std 0.02", "#0a84ff"), ("Student t, 3 degrees", "#d9822b")):
        weight = weights[name]
        palettes, steps = [], []
        for bits in BITS:
            palette = first_palette(weight.view(1, -1, 1), 2**bits).view(1, -1)
            palettes.append(_distance(assign_hard(weight.view(1, -1), palette)[0], weight))
            low, high = float(weight.min()), float(weight.max())
            equal = torch.linspace(low, high, 2**bits)
            steps.append(_distance(assign_hard(weight.view(1, -1), equal.view(1, -1))[0], weight))
        axes.plot(BITS, palettes, marker="o", color=color, label=f"{name}: palette")
        axes.plot(BITS, steps, marker="o", color=color, linestyle="--", label=f"{name}: equal steps")
    axes.set(xlabel="bits", ylabel="relative error of the weights", yscale="log", xticks=BITS)


def _distance(values: Tensor, weight: Tensor) -> float:
    return float((values - weight).norm() / weight.norm())


def time_over_size(axes: Axes) -> None:
    """Processor seconds of forward and backward at 4 bits, on one thread."""
    torch.set_num_threads(1)
    kernels: dict[str, tuple[Callable[..., object], int, str]] = {
        "grid, passes in C": (_once(native=True), 1 << 24, "#0a84ff"),
        "grid, passes in torch": (_once(native=False), 1 << 24, "#30a14e"),
        "every weight by itself": (_once(exact=True), 1 << 20, "#d9822b"),
        "coremltools": (by_coremltools, 1 << 20, "#888888"),
    }
    sizes = [1 << power for power in range(12, 25, 2)]
    for name, (run, largest, color) in kernels.items():
        seconds = []
        for size in (size for size in sizes if size <= largest):
            weight = torch.randn(size, generator=torch.Generator().manual_seed(0)) * 0.02
            centroids = first_palette(weight.view(1, -1, 1), 16)[0]
            seconds.append(_seconds(lambda run=run, w=weight, c=centroids: run(w, c, torch.ones_like(w))))
        axes.plot(sizes[: len(seconds)], seconds, marker="o", color=color, label=name)
    axes.set(xlabel="weights", ylabel="processor seconds", xscale="log", yscale="log")


def _once(**options: bool) -> Callable[[Tensor, Tensor, Tensor], None]:
    def run(weight: Tensor, centroids: Tensor, upstream: Tensor) -> None:
        weight = weight.clone().requires_grad_()
        shared = {"temperature": TEMPERATURE, "iterations": ITERATIONS, "attention_floor": FLOOR}
        palettize(weight, centroids, **shared, **options)[0].backward(upstream)  # type: ignore[arg-type]

    return run


def _seconds(run: Callable[[], object]) -> float:
    """Processor seconds, which a busy machine does not change: the least of three, after one that does not count."""
    run()
    times = []
    for _ in range(3):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


FIGURES: dict[str, Callable[[Axes], None]] = {
    "soft_assignment": soft_assignment,
    "grid_against_formulas": grid_against_formulas,
    "error_over_bits": error_over_bits,
    "time_over_size": time_over_size,
}


def main() -> None:
    """Draw the figures asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figures", nargs="*", default=list(FIGURES), help=f"any of {', '.join(FIGURES)}")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    matplotlib.use("svg")
    # The same file from the same numbers; letters stay letters.
    plt.rcParams.update(
        {"svg.hashsalt": "dkm", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}
    )
    for name in arguments.figures:
        figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
        FIGURES[name](axes)
        axes.grid(color="#e5e5e5")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7)
        figure.savefig(arguments.folder / f"{name}.svg", metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    main()
