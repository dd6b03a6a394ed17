"""One layer palettized by both kernels: `python -m tests.benchmarks.dkm_layer`.

Prints the time of forward and backward of coremltools' FakePalettize and of ours, medians of runs in one process, and
their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from coremltools.optimize.torch.palettization import FakePalettize as CoreMLFakePalettize
from torch.ao.quantization import MovingAveragePerChannelMinMaxObserver

from lightning_compress.dkm import FakePalettize

_OBSERVER = MovingAveragePerChannelMinMaxObserver.with_args(dtype=torch.qint8)


def seconds(fake: CoreMLFakePalettize, weight: torch.Tensor, upstream: torch.Tensor, runs: int) -> float:
    """Median seconds of forward and backward, without the first."""
    times = []
    for _ in range(runs + 1):
        weight.grad = None
        start = time.perf_counter()
        fake(weight).backward(upstream)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs="+", default=[512, 512, 3, 3])
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--vectors", type=int, default=1, help="channels of a vector")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    weight = (torch.randn(arguments.shape) * 0.02).requires_grad_()
    upstream = torch.randn(arguments.shape)
    print(
        f"{'x'.join(map(str, arguments.shape))}, {arguments.threads} threads, vectors of {arguments.vectors}, "
        "forward and backward"
    )
    print(f"{'bits':>4} {'coremltools s':>13} {'histogram s':>11} {'times faster':>12}")
    for bits in arguments.bits:
        ours = FakePalettize(_OBSERVER, bits, arguments.vectors)
        ours.enable_fake_palett()
        ours.initialise(weight.detach())
        theirs = CoreMLFakePalettize(_OBSERVER, bits, arguments.vectors)
        theirs.enable_fake_palett()
        # The same palette for both, and not the minute that its k-means would take.
        theirs.create_partitions(weight.detach())
        assert ours.palette is not None
        theirs.centroids = [ours.palette[0].clone()]
        slow = seconds(theirs, weight, upstream, arguments.runs)
        fast = seconds(ours, weight, upstream, 3 * arguments.runs)
        print(f"{bits:>4} {slow:>13.3f} {fast:>11.4f} {slow / fast:>12.0f}", flush=True)


if __name__ == "__main__":
    main()
