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

_IMPORT_MESSAGES = (
    # coremltools' runtime exists on macOS alone; everything here works without it.
    "Failed to load _ML",
    # Its range of tested versions ends before those that this package requires and tests.
    "scikit-learn version ",
    "Torch version ",
)


class _ImportMessageFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_IMPORT_MESSAGES)


def silence_import_messages() -> None:
    """Keep coremltools from logging a dozen lines about missing macOS libraries at its import.

    To be called before the first `import coremltools`; calling it again changes nothing.
    """
    logger = logging.getLogger("coremltools")
    if not any(isinstance(existing, _ImportMessageFilter) for existing in logger.filters):
        logger.addFilter(_ImportMessageFilter())


@contextmanager
def quiet_conversion() -> Iterator[None]:
    """Convert without progress bars and without warnings that nobody here can act on."""
    with warnings.catch_warnings(), ExitStack() as stack:
        # torch 2.9 and later deprecate tracing, which coremltools 9 still needs: its torch.export path fails
        # for every model that LinearQuantizer has prepared.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated", category=FutureWarning)
        # What LinearQuantizer finalizes quantizes with torch operations that torch 2.14 deprecates.
        warnings.filterwarnings("ignore", message="torch.quantize_per_tensor", category=UserWarning)
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
        yield
