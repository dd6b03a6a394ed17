"""Ctrl-C while a command is loaded ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT
"""How a command ends after Ctrl-C, as shells count it."""


@contextmanager
def ends_at_once_when_interrupted() -> Iterator[None]:
    """While libraries are imported, let SIGINT end the process and raise nothing.

    An exception in the middle of an import leaves half a module behind, which others take for a whole one: torch 2.14
    then calls itself until the stack is full. Nothing is there yet that could be lost.
    """
    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    sys.stdout.flush()
    os._exit(INTERRUPTED)
