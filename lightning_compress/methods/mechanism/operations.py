"""Names of torch's own functions and modules without weights, which configurations by type may exclude."""

from __future__ import annotations

import operator

import torch
from torch import nn


def is_operation(name: str) -> bool:
    """Whether a type in a configuration is a function or a module of torch, or one of Python's operators.

    Example:
        >>> is_operation("torch.add"), is_operation("ReLU"), is_operation("Conv9d")
        (True, True, False)
    """
    bare = name.removeprefix("torch.nn.functional.").removeprefix("torch.nn.")
    if name.startswith("operator."):
        return hasattr(operator, name.removeprefix("operator."))
    if bare == name and name.startswith("torch."):
        return hasattr(torch, name.removeprefix("torch."))
    return bare.isidentifier() and (hasattr(nn, bare) or hasattr(nn.functional, bare))
