"""Weights whose names have another prefix than a module's: `model.`, `module.` of DDP, `_orig_mod.` of compilation."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

_SHOWN = 3


def without_prefix(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a state dict whose names, a common prefix taken off, are most like those of a module.

    What the state dict holds beside that prefix is left: a LightningModule's metrics beside its network.

    Args:
        state: What was read.
        expected: The module's own state dict.

    Example:
        >>> expected = torch.nn.Linear(4, 2).state_dict()
        >>> list(without_prefix({f"model.{name}": value for name, value in expected.items()}, expected))
        ['weight', 'bias']
    """
    wanted = next(iter(expected), "")
    ends = [name.removesuffix(wanted) for name in state if wanted and name.endswith(f".{wanted}")]
    parts = [
        {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        for prefix in ["", *sorted(set(ends), key=len)]
    ]
    return max(parts, key=lambda part: len(part.keys() & expected.keys()))


def misfits(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What keeps a state dict from fitting a module, in words; nothing where it fits.

    Args:
        state: What was read.
        expected: The module's own state dict.
    """
    # Files older than torch 0.4.1 have no counter of batches, which only a momentum of None reads.
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    surplus = [name for name in state if name not in expected]
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    return [
        f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        for kind, names in (("missing", missing), ("unexpected", surplus), ("of another shape", shapes))
        if names
    ]
