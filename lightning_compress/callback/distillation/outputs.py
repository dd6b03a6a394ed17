"""What two modules return, paired by its place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten_with_path, tree_map

from lightning_compress.errors import ConfigurationError

Pairs = dict[str, tuple[Tensor, Tensor]]
"""A tensor of the student and the teacher's, by their place in what was returned: "" for a tensor alone."""


def kept(outputs: Any) -> Any:
    """Outputs as they are now: whoever gets them may change them in place."""
    return tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, outputs)


def named_tensors(outputs: Any) -> dict[str, Tensor]:
    """The tensors in outputs, by their place, such as "boxes" or "0.1"; "" for a tensor alone."""
    leaves, _ = tree_flatten_with_path(outputs)
    return {".".join(map(_name, path)): leaf for path, leaf in leaves if isinstance(leaf, Tensor)}


def paired(student: Any, teacher: Any, what: str) -> tuple[Pairs, list[str]]:
    """Pair what a student and its teacher have returned.

    Args:
        student: What the student has returned.
        teacher: What the teacher has returned.
        what: What has returned it, for errors.

    Returns:
        Pairs in float32, or what is more precise, and the places of tensors that are no floating-point numbers.

    Raises:
        ConfigurationError: Places or shapes differ, or there is nothing to compare.
    """
    own, other = named_tensors(student), named_tensors(teacher)
    if own.keys() != other.keys():
        raise ConfigurationError(
            f"{what} of the compressed module in training is {_listed(own)}, and of its teacher in evaluation "
            f"{_listed(other)}; for modules that return other things in training, compare inner modules alone with "
            "loss=None and modules=[...], or give a function of both outputs as loss"
        )
    differing = {place: tensor for place, tensor in own.items() if tensor.shape != other[place].shape}
    if differing:
        raise ConfigurationError(
            f"{what} of the compressed module is {_listed(differing)}, and of its teacher "
            f"{_listed({place: other[place] for place in differing})}; shapes must be the same"
        )
    left = [place for place, tensor in own.items() if not tensor.is_floating_point()]
    pairs = {place: (_precise(own[place]), _precise(other[place])) for place in own if place not in left}
    if not pairs:
        raise ConfigurationError(
            f"{what} of the compressed module has no floating-point tensor: {_listed(own)}; tensors are found in "
            "tuples, lists and dictionaries, and for all else a function of both outputs is needed as loss"
        )
    return pairs, left


def places(names: Iterable[str]) -> str:
    """Places, in words."""
    return ", ".join(repr(name) if name else "the output" for name in names)


def _name(key: Any) -> str:
    """What stands in a path for a place: an index, a key or an attribute."""
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _precise(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _listed(tensors: dict[str, Tensor]) -> str:
    if not tensors:
        return "no tensor"
    return ", ".join(
        f"{f'{place!r}: ' if place else ''}{tuple(tensor.shape)}" for place, tensor in tensors.items()
    )
