"""Price of int8 weights and inputs in a training step of ResNet18: `python -m tests.benchmarks.quantized_step`.

Prints the time of a step over that of the plain model's step, with our quantization and with coremltools'
`LinearQuantizer`: interleaved in one process, medians, while ranges are observed and after that.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from coremltools.optimize.torch.quantization import LinearQuantizer, LinearQuantizerConfig
from torch import nn

from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.quantization import LinearQuantization


class Step:
    """A training step of ResNet18 on random images: plain, quantized by us ("ours") or by coremltools ("theirs")."""

    def __init__(self, kind: str, algorithm: str, observing: bool, batch: int, size: int) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = torchvision.models.resnet18(num_classes=1000)
        milestones = [0, 0, -1 if observing else 1, -1]
        keys = {"algorithm": algorithm, "milestones": milestones}
        self.images = torch.randn(batch, 3, size, size)
        self.labels = torch.randint(0, 1000, (batch,))
        self.count: Callable[[], None] = lambda: None
        if kind == "ours":
            prepared = PreparedModule(self.model, [LinearQuantization(**keys)])
            prepared.start_training()
            self.count = prepared.step
        elif kind == "theirs":
            quantizer = LinearQuantizer(self.model, LinearQuantizerConfig.from_dict({"global_config": keys}))
            self.model = quantizer.prepare((self.images[:1],), inplace=True)
            self.count = quantizer.step
        self.model.train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.001)

    def __call__(self) -> float:
        start = time.perf_counter()
        loss = nn.functional.cross_entropy(self.model(self.images), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.count()
        return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--algorithms", nargs="+", default=["vanilla", "learnable"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for algorithm in arguments.algorithms:
        for observing in (True, False):
            steps = {
                kind: Step(kind, algorithm, observing, arguments.batch, arguments.size)
                for kind in ("plain", "ours", "theirs")
            }
            for _ in range(3):
                for step in steps.values():
                    step()
            times: dict[str, list[float]] = {kind: [] for kind in steps}
            for _ in range(arguments.steps):
                for kind, step in steps.items():
                    times[kind].append(step())
            medians = {kind: statistics.median(values) for kind, values in times.items()}
            ours, theirs = (medians[kind] / medians["plain"] for kind in ("ours", "theirs"))
            phase = "observing" if observing else "observed"
            print(
                f"{algorithm}, {phase}: plain {medians['plain']:.3f} s; ours {ours:.2f}, "
                f"coremltools {theirs:.2f} of that; ours over coremltools' {ours / theirs:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
