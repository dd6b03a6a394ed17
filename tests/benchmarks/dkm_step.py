"""Price of palettization in a training step, of ResNet18 by default: `python -m tests.benchmarks.dkm_step`.

With `--vectors 4` palettes are of vectors of so many channels, `--network` names a network of timm instead. Prints, at
each number of bits, the time of a training step over that of the plain model's step (interleaved in one
process, medians), the extra time of the first step in plain steps, and the extra peak memory (each in a process of its
own); then the floor: the bytes that the kernel's passes must move over the memory bandwidth measured here.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import torch
import torchvision
from torch import nn

from lightning_compress.dkm.clustering import ESTIMATORS
from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.palettization import DKMPalettization
from tests.benchmarks.peak_memory import peak_of_process

_BYTES_PER_WEIGHT = 4 * 9
"""Bytes of the passes: forward reads the weight for its range, its bin and its place, and writes the result; backward
reads the weight and the upstream gradient twice, and writes the gradient."""


class Step:
    """A training step on random images, plain or palettized, by this package or by coremltools."""

    def __init__(self, bits: int | None, arguments: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.model = network(arguments.network)
        kernel, batch, size = arguments.kernel, arguments.batch, arguments.size
        self.preparation: PreparedModule | None = None
        if bits is not None and kernel == "coremltools":
            from coremltools.optimize.torch.palettization import DKMPalettizer, DKMPalettizerConfig

            keys = {"n_bits": bits, "cluster_dim": arguments.vectors}
            config = DKMPalettizerConfig.from_dict({"global_config": keys})
            self.model = DKMPalettizer(self.model, config).prepare(inplace=True)
        elif bits is not None:
            method = DKMPalettization(
                n_bits=bits,
                cluster_dim=arguments.vectors,
                estimator=arguments.estimator,
                relative_tau=arguments.relative_tau,
                indivisible="scalars" if arguments.vectors > 1 else "refuse",
            )
            self.preparation = PreparedModule(self.model, [method])
        self.model.train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.images = torch.randn(batch, 3, size, size)
        self.labels = torch.randint(0, 1000, (batch,))
        self._started = False

    def __call__(self) -> float:
        start = time.perf_counter()
        if self.preparation is not None and not self._started:
            self.preparation.start_training()
        self._started = True
        loss = nn.functional.cross_entropy(self.model(self.images), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.preparation is not None:
            self.preparation.step()
        return time.perf_counter() - start


def network(name: str) -> nn.Module:
    """ResNet18, or a network of timm, with random weights."""
    if name == "resnet18":
        resnet: nn.Module = torchvision.models.resnet18(num_classes=1000)
        return resnet
    import timm

    made: nn.Module = timm.create_model(name, pretrained=False)
    return made


def peak_memory(bits: int | None, arguments: argparse.Namespace) -> float:
    """Peak resident memory in MB of a process that makes three steps."""
    command = [sys.executable, "-m", "tests.benchmarks.dkm_step", "--peak", str(bits or 0)]
    command += ["--batch", str(arguments.batch), "--size", str(arguments.size), "--kernel", arguments.kernel]
    command += ["--threads", str(arguments.threads), "--network", arguments.network]
    command += ["--vectors", str(arguments.vectors), "--estimator", arguments.estimator]
    if arguments.relative_tau is not None:
        command += ["--relative-tau", str(arguments.relative_tau)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.split()[-1])


def bandwidth() -> float:
    """Bytes a second that a copy of 256 MB moves."""
    source = torch.randn(1 << 26)
    target = torch.empty_like(source)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - start)
    return 2 * source.numel() * 4 / statistics.median(times)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 4, 6, 8])
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kernel", choices=["histogram", "coremltools"], default="histogram")
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--vectors", type=int, default=1, help="channels of a vector")
    parser.add_argument("--estimator", choices=ESTIMATORS, default="dkm")
    parser.add_argument("--relative-tau", type=float, help="temperature as a share of each weight's variance")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak is not None:
        step = Step(arguments.peak or None, arguments)
        for _ in range(3):
            step()
        print(peak_of_process())
        return
    plain = Step(None, arguments)
    for _ in range(2):
        plain()
    plain_memory = peak_memory(None, arguments)
    weights = sum(m.weight.numel() for m in plain.model.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    speed = bandwidth()
    floor = weights * _BYTES_PER_WEIGHT / speed
    print(
        f"{arguments.network}, batch {arguments.batch}, {arguments.size} px, {arguments.threads} threads, "
        f"kernel {arguments.kernel}, vectors of {arguments.vectors}, estimator {arguments.estimator}"
    )
    print(
        f"{'bits':>4} {'plain s':>8} {'palettized s':>12} {'ratio':>6} {'first step':>10} {'peak MB':>8} "
        f"{'over floor':>10}"
    )
    for bits in arguments.bits:
        step = Step(bits, arguments)
        first = step()
        pairs = [(plain(), step()) for _ in range(arguments.steps)]
        usual = statistics.median(before for before, _ in pairs)
        palettized = statistics.median(after for _, after in pairs)
        ratio = statistics.median(after / before for before, after in pairs)
        extra_memory = peak_memory(bits, arguments) - plain_memory
        print(
            f"{bits:>4} {usual:>8.3f} {palettized:>12.3f} {ratio:>6.2f} {(first - usual) / usual:>+10.2f} "
            f"{extra_memory:>+8.0f} {(palettized - usual) / floor:>10.1f}",
            flush=True,
        )
    print(
        f"floor: {weights / 1e6:.1f} M weights x {_BYTES_PER_WEIGHT} bytes / {speed / 1e9:.1f} GB/s "
        f"= {floor * 1e3:.0f} ms"
    )


if __name__ == "__main__":
    main()
