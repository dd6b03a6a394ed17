"""Operations of palettes on a device in a training step, over layers: `python -m tests.benchmarks.dkm_operations`.

Counted by torch's profiler on the processor, where what a device computes is computed as well: operations that call no
others, forward and backward, of layers of 20,000 weights. A device takes some 5 to 10 microseconds to be given each.
"""

from __future__ import annotations

import argparse
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile

from lightning_compress.dkm import attender
from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.joint_palettes import PalettizedWeight, cluster_together
from lightning_compress.dkm.weight_palette import Palettes, WeightPalette

_SHAPE = (20, 1000)


def operations(layers: int, bits: int, *, together: bool = True) -> int:
    """The operations of one step of so many layers, clustered together or each by itself."""
    clustering = Clustering(1e-4, 3, epsilon=1e-4, attention_floor=1e-7, path="device")
    weights = []
    for seed in range(layers):
        weight = torch.randn(_SHAPE, generator=torch.Generator().manual_seed(seed)) * 0.02
        form = WeightPalette(f"layer {seed}", 2**bits, clustering)
        weights.append(PalettizedWeight(form, weight.requires_grad_(), form.begin(weight).entries))
    upstream = [torch.ones(_SHAPE) for _ in weights]
    # A device takes larger blocks of attention at once.
    blocks = patch.object(attender, "_BLOCK", attender._DEVICE_BLOCK)
    with blocks, profile(activities=[ProfilerActivity.CPU]) as profiled:
        if together:
            results = cluster_together(weights)
        else:
            results = [each.form.cluster(each.weight, Palettes(each.entries, None)) for each in weights]
        torch.autograd.backward([output for output, _ in results], upstream)
    events = [event for event in profiled.events() if event.name.startswith("aten::")]
    callers = {event.cpu_parent for event in events if event.cpu_parent is not None}
    return sum(event not in callers for event in events)


def main() -> None:
    """Count and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 4, 16, 50])
    arguments = parser.parse_args()
    print(f"{'layers':>6} {'each by itself':>14} {'together':>8}")
    for layers in arguments.layers:
        apart = operations(layers, arguments.bits, together=False)
        print(f"{layers:>6} {apart:>14,} {operations(layers, arguments.bits):>8,}", flush=True)


if __name__ == "__main__":
    main()
