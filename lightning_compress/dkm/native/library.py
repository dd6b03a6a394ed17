"""The compiled library, and the threads that its passes run on."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

from lightning_compress.dkm.clustering import Clustering

_EXTENSION = "lightning_compress.dkm.native._passes"


_SHAPE = "nn"
_VECTORS, _PAID = "nnnnn", "dddnn"
_SIGNATURES = {
    "attend_points": f"fnn pp{_SHAPE} pppn ddd ppp",
    "cluster_scalars": "fnnp",
    "differentiate_scalars": "fnnp",
    "cluster_vectors": f"fn p{_VECTORS} nd {_PAID} ppp pp p",
    "differentiate_vectors": f"fn pp{_VECTORS} {_PAID} ppp pp p pp",
    "assign_vectors": f"fn p{_VECTORS} n dnn ppp",
}
"""Arguments of the functions: f the threads' entry, p pointers, n whole numbers, d numbers in double precision."""

_TYPES = {"f": ctypes.c_void_p, "p": ctypes.c_void_p, "n": ctypes.c_int64, "d": ctypes.c_double}


@lru_cache(maxsize=1)
def _load() -> ctypes.CDLL | None:
    specification = find_spec(_EXTENSION)
    if specification is None or specification.origin is None:
        return None
    library = ctypes.CDLL(specification.origin)
    for name, signature in _SIGNATURES.items():
        if hasattr(library, name):
            getattr(library, name).argtypes = [_TYPES[letter] for letter in signature if letter != " "]
    return library


@lru_cache(maxsize=1)
def threads() -> int | None:
    """The entry of the OpenMP library that torch runs on, or None where torch runs on another.

    A library of threads of our own would fight torch's, which keep their processors busy for a while after each
    operation.
    """
    if not sys.platform.startswith("linux"):
        return None
    try:
        openmp = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD | os.RTLD_LOCAL)
    except OSError:
        return None
    return ctypes.cast(openmp.GOMP_parallel, ctypes.c_void_p).value


def serves(tensor: Tensor) -> bool:
    """Whether the passes in C can be made over a tensor: it is on a processor, and the library was built."""
    return tensor.device.type == "cpu" and _load() is not None


def has(function: str) -> bool:
    """Whether the library was built, and with a function: those for vectors need a compiler that has vectors."""
    return hasattr(_load(), function)


def entry(function: str) -> Callable[..., int]:
    """A function of the library that `has` has found; `_SIGNATURES` has its arguments."""
    found: Callable[..., int] = getattr(_load(), function)
    return found


def call(function: str, *arguments: Tensor | float | None) -> None:
    """Call a function of the library with contiguous tensors, None for no tensor, and numbers.

    Raises:
        MemoryError: Where the function found no room for a few numbers.
    """
    plain = [value.data_ptr() if isinstance(value, Tensor) else value for value in arguments]
    if entry(function)(*plain):
        raise MemoryError(f"{function} found no memory")


def attention_options(clustering: Clustering, skip_zeros: bool) -> tuple[float, ...]:
    """How attention is paid, in the order in which functions that cluster take it."""
    return (
        clustering.temperature,
        clustering.attention_floor,
        clustering.zero_preference,
        int(clustering.fix_zero),
        int(skip_zeros),
    )


def early_stop(clustering: Clustering) -> float:
    """The change of inertia to stop at; below 0 for no early stop."""
    return -1.0 if clustering.epsilon is None else clustering.epsilon


def parts_for(work: int, least: int) -> int:
    """Parts that work is cut into: one for each thread, and none smaller than is worth handing over."""
    return max(1, min(torch.get_num_threads(), work // least))
