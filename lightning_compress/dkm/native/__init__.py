"""The passes in C, for processors: an optional library, built when the package is installed with a compiler at hand.

They compute what `dkm.passes` and `dkm.attender` compute with torch, which takes their place on other devices and
where there was no compiler. `unavailable` says why they do not run.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from importlib.util import find_spec

from torch import Tensor

_EXTENSION = f"{__name__}._passes"


@lru_cache(maxsize=1)
def load() -> ctypes.CDLL | None:
    """The library, or None where it was not built."""
    specification = find_spec(_EXTENSION)
    if specification is None or specification.origin is None:
        return None
    return ctypes.CDLL(specification.origin)


def serves(tensor: Tensor) -> bool:
    """Whether the passes in C can be made over a tensor."""
    return tensor.device.type == "cpu" and load() is not None


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """Where a contiguous tensor begins."""
    assert tensor is None or tensor.is_contiguous()
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def whole(number: int) -> ctypes.c_int64:
    """A number as the library wants it."""
    return ctypes.c_int64(number)
