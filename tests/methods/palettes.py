"""A network whose weights are palettized, and a fit of a few steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.mechanism.schedule import FitLength
from lightning_compress.methods.palettization import DKMPalettization, Palette

LAYERS = ("0", "2", "6")

VARIANTS = {
    "per tensor": {},
    "in groups": {"granularity": "per_grouped_channel", "group_size": 2},
    "scaled by channel": {"enable_per_channel_scale": True},
    "scaled by greatest": {"enable_per_channel_scale": True, "per_channel_scaling_factor_scheme": "abs"},
    "with a zero": {"enforce_zero": True},
    "keeping zeros": {"enforce_zero": True, "prune_threshold": 0.0},
    "natural floats": {"n_bits": 3, "kmeans_init": "nf", "enable_per_channel_scale": True},
    "natural floats that fit": {"n_bits": 3, "kmeans_init": "nf_fit", "enable_per_channel_scale": True},
    "vectors": {"cluster_dim": 2},
    "vectors in groups": {"cluster_dim": 2, "granularity": "per_grouped_channel", "group_size": 2},
    "vectors scaled": {"cluster_dim": 2, "enable_per_channel_scale": True},
    "nearest": {"palett_mode": "hard"},
    "in part": {"granularity": "per_grouped_channel", "group_size": 2, "percentage_palett_enable": 0.5},
    "int8": {"lut_dtype": "i8"},
    "uint8 in groups": {"lut_dtype": "u8", "granularity": "per_grouped_channel", "group_size": 2},
    "half": {"lut_dtype": "f16", "enable_per_channel_scale": True},
    "exact": {"exact": True},
    "in torch": {"native": False},
}


def network() -> nn.Sequential:
    """Two convolutions and a linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def prepared(module: nn.Module | None = None, *others: Any, steps: int = 6, **options: Any) -> PreparedModule:
    """A module with palettes of two bits in place, ready to train."""
    method = DKMPalettization(**{"n_bits": 2, "weight_threshold": 100, **options})
    preparation = PreparedModule(network() if module is None else module, [method, *others])
    preparation.resolve_schedule(FitLength(steps))
    return preparation


def batch(step: int) -> Tensor:
    """The images of a step."""
    return torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(step))


def train(preparation: PreparedModule, steps: int, first: int = 0) -> None:
    """Train for some optimizer steps."""
    preparation.start_training()
    preparation.module.train()
    optimizer = torch.optim.SGD(preparation.module.parameters(), lr=0.1)
    for step in range(first, first + steps):
        optimizer.zero_grad()
        preparation.module(batch(step)).square().mean().backward()
        optimizer.step()
        preparation.step()


def palette_of(module: nn.Module, name: str) -> Palette:
    """The palette on the weight of a layer."""
    chain = module.get_submodule(name).parametrizations.weight
    return next(part for part in chain if isinstance(part, Palette))


def stored_value(module: nn.Module) -> Tensor:
    """The weight that the metadata of a finalized layer stand for, with the entries that the weight is nearest to."""
    buffers = {name.rpartition("/")[2]: value for name, value in module.named_buffers()}
    weight, lut = module.weight.detach(), buffers["lut"]
    scale = buffers.get("palettization_scale", torch.ones([1] * weight.dim()))
    vector_axis, dimensions = int(buffers.get("vector_axis", 0)), lut.shape[-1]
    group_axis = next((axis for axis in range(weight.dim()) if lut.shape[axis] > 1), 0)
    palettes = lut.flatten(0, -3)
    groups = []
    for part, palette in zip((weight / scale).chunk(len(palettes), dim=group_axis), palettes, strict=True):
        vectors = part.movedim(vector_axis, -1).unflatten(-1, (-1, dimensions))
        index = (vectors.unsqueeze(-2) - palette).square().sum(-1).argmin(-1)
        groups.append(palette[index].flatten(-2).movedim(-1, vector_axis))
    return torch.cat(groups, dim=group_axis) * scale
