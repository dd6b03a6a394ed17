"""Keeps third-party noise that users can do nothing about off their terminal, message by message.

Everything else that coremltools and torch say still comes through.
"""

from __future__ import annotations

import functools
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from lightning_compress.coreml.workarounds import replaced


@contextmanager
def quiet_quantization() -> Iterator[None]:
    """Run what LinearQuantizer finalizes: it quantizes with torch operations that torch 2.14 deprecates."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.quantize_per_tensor", category=UserWarning)
        yield


@contextmanager
def quiet_conversion() -> Iterator[None]:
    """Convert without progress bars and without warnings that nobody here can act on."""
    with warnings.catch_warnings(), quiet_quantization(), ExitStack() as stack:
        # torch 2.9 and later deprecate tracing, which coremltools 9 still needs: its torch.export path fails
        # for every model that LinearQuantizer has prepared.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated", category=FutureWarning)
        # coremltools 9, converter.py `_mil_convert`: leaves its temporary weights folder to the garbage
        # collector.
        warnings.filterwarnings("ignore", message="Implicitly cleaning up", category=ResourceWarning)
        # coremltools 9 compares the ranges of integer and float16 types by casting one's largest value to the
        # other.
        warnings.filterwarnings(
            "ignore",
            message="overflow encountered in cast",
            category=RuntimeWarning,
            module=r"coremltools\.converters\.mil\.mil\.passes\.defs\.optimize_repeat_ops",
        )
        # coremltools 9 turns arrays of one element into numbers, which numpy 1.25 and later deprecate.
        warnings.filterwarnings(
            "ignore", message="Conversion of an array with ndim > 0", category=DeprecationWarning
        )
        # A classifier's probabilities get a name of their own; that of the network's output is never seen.
        warnings.filterwarnings("ignore", message="Output, '.*', of the source model, has been renamed")
        for name, module in list(sys.modules.items()):
            if name.startswith("coremltools."):
                for attribute in ("tqdm", "_tqdm"):
                    bar = vars(module).get(attribute)
                    if isinstance(bar, type):
                        stack.enter_context(replaced(module, attribute, functools.partial(bar, disable=True)))
        # One line an op at the level INFO, which Hydra's logging lets through.
        logger = logging.getLogger("coremltools")
        level = logger.level
        stack.callback(logger.setLevel, level)
        logger.setLevel(max(logger.getEffectiveLevel(), logging.WARNING))
        # Several outputs are what a detector is asked for.
        logger.addFilter(_is_not_about_tuples)
        stack.callback(logger.removeFilter, _is_not_about_tuples)
        yield


def _is_not_about_tuples(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Tuple detected at graph output")
