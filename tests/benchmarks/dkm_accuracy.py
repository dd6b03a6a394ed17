"""Errors of both kernels against DKM's formulas in double precision: `python -m tests.benchmarks.dkm_accuracy`.

Prints relative errors of output, gradient and centroids for eight shapes of weights at 1 to 8 bits, ours and those of
coremltools' FakePalettize, each from the same first palette, and marks what exceeds the limits: 1e-5 for output and
centroids and 1e-3 for the gradient, or coremltools' own error where that is larger. `--path device` has a column for
what is computed on GPUs too, and `--path single` for what is on MPS, both computed here.
"""

from __future__ import annotations

import argparse

import torch
from coremltools.optimize.torch.palettization import FakePalettize as CoreMLFakePalettize
from torch import Tensor
from torch.ao.quantization import MovingAveragePerChannelMinMaxObserver

from lightning_compress.dkm import palettize
from lightning_compress.dkm.clustering import PATHS
from lightning_compress.dkm.initial import first_palette

TEMPERATURE, ITERATIONS, FLOOR = 1e-4, 3, 1e-7
_LIMITS = (1e-5, 1e-3, 1e-5)
_OBSERVER = MovingAveragePerChannelMinMaxObserver.with_args(dtype=torch.qint8)
Results = tuple[Tensor, Tensor, Tensor]


def shapes_of_weights(size: int) -> dict[str, Tensor]:
    """Weights of the shapes that networks have."""
    generator = torch.Generator().manual_seed(0)

    def normal() -> Tensor:
        return torch.randn(size, generator=generator)

    chi = (normal() ** 2 + normal() ** 2 + normal() ** 2) / 3
    return {
        "normal, std 0.02": normal() * 0.02,
        "Student t, 3 degrees": normal() / chi.sqrt() * 0.01,
        "two peaks at 0.1": torch.where(normal() < 0, -0.1, 0.1) + normal() * 0.005,
        "half zero": torch.where(normal() < 0, torch.zeros(size), normal() * 0.02),
        "normal, std 0.001": normal() * 0.001,
        "normal, std 0.3": normal() * 0.3,
    }


def wide_weights(size: int) -> dict[str, Tensor]:
    """Weights beside whose width attention switches ever more steeply."""
    normal = torch.randn(size, generator=torch.Generator().manual_seed(2))
    return {"normal, std 0.1": normal * 0.1, "normal, std 1": normal}


def by_formulas(weight: Tensor, centroids: Tensor, upstream: Tensor) -> Results:
    """DKM as the paper writes it, in double precision."""
    weight = weight.double().requires_grad_()
    flat, centroids = weight.unsqueeze(-1), centroids.double()
    for _ in range(ITERATIONS):
        attention = torch.softmax(-((flat - centroids.T) ** 2) / TEMPERATURE, dim=-1).clamp_min(FLOOR)
        centroids = attention.T @ flat / attention.sum(dim=0).unsqueeze(-1)
    output = (attention @ centroids).squeeze(-1)
    (gradient,) = torch.autograd.grad(output, weight, upstream.double())
    return output.detach(), gradient, centroids.detach()


def by_histogram(weight: Tensor, centroids: Tensor, upstream: Tensor, path: str = "auto") -> Results:
    """Our kernel."""
    weight = weight.clone().requires_grad_()
    options = {"temperature": TEMPERATURE, "iterations": ITERATIONS, "attention_floor": FLOOR}
    output, updated = palettize(weight, centroids, **options, path=path)
    (gradient,) = torch.autograd.grad(output, weight, upstream)
    return output.detach(), gradient, updated.detach()


def by_coremltools(weight: Tensor, centroids: Tensor, upstream: Tensor) -> Results:
    """coremltools' kernel, without the options that change the formulas."""
    options = {"palett_epsilon": -1.0, "prune_threshold": 0.0, "kmeans_max_iter": ITERATIONS}
    fake = CoreMLFakePalettize(_OBSERVER, 1, centroids.shape[1], advanced_options=options)
    fake.n_clusters = len(centroids)
    fake.enable_fake_palett()
    weight = weight.clone().requires_grad_()
    fake.create_partitions(weight.detach())
    fake.centroids = [centroids.clone()]
    output = fake(weight)
    (gradient,) = torch.autograd.grad(output, weight, upstream)
    return output.detach(), gradient, fake.centroids[0]


def errors(results: Results, reference: Results) -> tuple[float, ...]:
    """Relative errors of output, gradient and centroids."""
    return tuple(
        ((value.double() - exact).norm() / exact.norm()).item()
        for value, exact in zip(results, reference, strict=True)
    )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=60_000)
    parser.add_argument("--bits", type=int, nargs="+", default=[1, 2, 3, 4, 6, 8])
    parser.add_argument("--upstream", choices=["random", "constant"], default="random")
    parser.add_argument("--path", choices=PATHS[1:], nargs="+", default=["host"])
    arguments = parser.parse_args()
    print(
        f"{arguments.size} weights, {arguments.upstream} upstream gradient; errors of output / gradient / centroids"
    )
    print(
        f"{'weights':<22}{'bits':>4}  {'coremltools':<26}" + "".join(f"{path:<31}" for path in arguments.path)
    )
    exceeded = 0
    for name, weight in (shapes_of_weights(arguments.size) | wide_weights(arguments.size)).items():
        generator = torch.Generator().manual_seed(1)
        random = torch.randn(weight.shape, generator=generator)
        upstream = random if arguments.upstream == "random" else torch.ones_like(weight)
        for bits in arguments.bits:
            centroids = first_palette(weight.view(1, -1, 1), 2**bits)[0]
            exact = by_formulas(weight, centroids, upstream)
            theirs = errors(by_coremltools(weight, centroids, upstream), exact)
            print(f"{name:<22}{bits:>4}  {_line(theirs):<26}", end="")
            for path in arguments.path:
                ours = errors(by_histogram(weight, centroids, upstream, path), exact)
                over = any(
                    own > max(limit, other) for own, limit, other in zip(ours, _LIMITS, theirs, strict=True)
                )
                exceeded += over
                print(f"{_line(ours):<26}{'over' if over else '':<5}", end="", flush=True)
            print()
    print(f"{exceeded} over the limits")


def _line(found: tuple[float, ...]) -> str:
    return " / ".join(f"{error:.0e}" for error in found)


if __name__ == "__main__":
    main()
