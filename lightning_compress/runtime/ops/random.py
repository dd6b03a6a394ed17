"""Random values. A seed makes them repeat from call to call; -1 takes torch's own generator."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_compress.runtime.ops.transformation import Integers, integers
from lightning_compress.runtime.registry import register


@register("random_bernoulli", tensors="")
def random_bernoulli(shape: Integers, prob: float = 0.5, seed: int = -1) -> Tensor:
    """1 with the given probability, else 0."""
    return (torch.rand(integers(shape), generator=_generator(seed)) < prob).to(torch.float32)


@register("random_normal", tensors="")
def random_normal(shape: Integers, mean: float = 0.0, stddev: float = 1.0, seed: int = -1) -> Tensor:
    """Normally distributed values."""
    return mean + stddev * torch.randn(integers(shape), generator=_generator(seed))


@register("random_uniform", tensors="")
def random_uniform(shape: Integers, low: float = 0.0, high: float = 1.0, seed: int = -1) -> Tensor:
    """Evenly distributed values from `low` up to `high`."""
    return low + (high - low) * torch.rand(integers(shape), generator=_generator(seed))


@register("random_categorical", tensors="x", traceable=False)
def random_categorical(x: Tensor, mode: str = "logits", size: int = 1, seed: int = -1) -> Tensor:
    """Class numbers drawn from the logits or probabilities along the last axis."""
    probabilities = torch.softmax(x.float(), -1) if mode == "logits" else x.float()
    rows = probabilities.reshape(-1, x.shape[-1]).cpu()
    drawn = torch.multinomial(rows, size, replacement=True, generator=_generator(seed))
    return drawn.reshape(*x.shape[:-1], size).to(x.device, x.dtype)


def _generator(seed: int) -> torch.Generator | None:
    return None if seed == -1 else torch.Generator().manual_seed(seed)
