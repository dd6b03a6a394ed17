"""Random states of a fit: seeded by epoch, and held in its checkpoints in types that load with `weights_only`."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist


def seed_epoch(seed: int, epoch: int, rank: int) -> None:
    """Seed torch, numpy and Python for one epoch of one process, whatever has been drawn before."""
    words = np.random.SeedSequence([seed, epoch, rank]).generate_state(3)
    torch.manual_seed(int(words[0]))
    np.random.seed(int(words[1]))
    random.seed(int(words[2]))


def random_states(device: torch.device) -> list[dict[str, Any]]:
    """The random states of all processes, by rank; every process has to ask for them."""
    own = _own_states(device)
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return [own]
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, own)
    return states


def restore_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Set what `random_states` gave for one process."""
    torch.set_rng_state(states["torch"])
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, words, next_gauss = states["python"]
    random.setstate((version, tuple(words), next_gauss))
    if states["device"] is not None:
        _device_module(device).set_rng_state(states["device"])


def _own_states(device: torch.device) -> dict[str, Any]:
    # Always a tuple with legacy=True.
    state: Any = np.random.get_state(legacy=True)
    name, keys, position, has_gauss, gauss = state
    version, words, next_gauss = random.getstate()
    module = _device_module(device)
    return {
        "torch": torch.get_rng_state(),
        # Arrays of numpy do not load with weights_only.
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)],
        "python": [version, list(words), next_gauss],
        "device": None if module is None else module.get_rng_state(),
    }


def _device_module(device: torch.device) -> Any:
    """The module of torch that holds the states of a kind of accelerator; None for the CPU."""
    return {"cuda": torch.cuda, "mps": torch.mps}.get(device.type)
