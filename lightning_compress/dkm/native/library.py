"""The compiled library, and the threads that its passes run on."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

_EXTENSION = "lightning_compress.dkm.native._passes"


@lru_cache(maxsize=1)
def _load() -> ctypes.CDLL | None:
    specification = find_spec(_EXTENSION)
    if specification is None or specification.origin is None:
        return None
    return ctypes.CDLL(specification.origin)


@lru_cache(maxsize=1)
def _fork() -> ctypes.c_void_p:
    """The entry of the OpenMP library that torch runs on, or null where torch runs on another.

    A library of threads of our own would fight torch's, which keep their processors busy for a while after each
    operation.
    """
    if sys.platform.startswith("linux"):
        try:
            openmp = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD | os.RTLD_LOCAL)
        except OSError:
            return ctypes.c_void_p(None)
        return ctypes.cast(openmp.GOMP_parallel, ctypes.c_void_p)
    return ctypes.c_void_p(None)


def serves(tensor: Tensor) -> bool:
    """Whether the passes in C can be made over a tensor: it is on a processor, and the library was built."""
    return tensor.device.type == "cpu" and _load() is not None


def call(function: str, parts: int, *arguments: object) -> int:
    """Call a function of the library, whose work may be cut into parts: its status.

    Args:
        function: Its name.
        parts: As `parts_for` gives them.
        arguments: Tensors, which must be contiguous, or None for pointers; integers and floats.
    """
    library = _load()
    assert library is not None
    status: int = getattr(library, function)(_fork(), *map(_argument, (parts, *arguments)))
    return status


def parts_for(work: int, least: int) -> int:
    """Parts that work is cut into: one for each thread, and none smaller than is worth handing over."""
    return max(1, min(torch.get_num_threads(), work // least))


def _argument(value: object) -> object:
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, Tensor):
        assert value.is_contiguous()
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, float):
        return ctypes.c_double(value)
    assert isinstance(value, int)
    return ctypes.c_int64(value)
