"""Forward passes that stop within a network until they are told to go on.

So all batches can wait at a layer while it is compressed, and go on with what it has become: each layer sees inputs
that compressed layers made, and every batch goes through the network once. Each pass has a thread of its own, for a
forward pass cannot be left in another way; no two of them ever run at the same time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch

from lightning_compress.methods.mechanism.heaps import large_blocks_returned

Place = TypeVar("Place")

_own = threading.local()


class _Abandoned(BaseException):
    """Ends a pass that is not wanted any more; no error of the network's own, which handlers there might take."""


class SuspendedPass(Generic[Place]):
    """One pass, which begins when it is resumed for the first time.

    Args:
        function: Runs it.

    Attributes:
        place: Where it stands, None before it begins and once it has ended.
        has_ended: Whether it has.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self.place: Place | None = None
        self.has_ended = False
        self._function = function
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self._error: BaseException | None = None
        self._is_abandoned = False

    def resume(self) -> None:
        """Let it run to its next stop, or to its end.

        Raises:
            Exception: What it raised.
        """
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._go.release()
        self._stopped.acquire()
        if self._error is not None:
            raise self._error

    def stop_at(self, place: Place) -> None:
        """Called from within the pass: wait here until it is resumed."""
        self.place = place
        self._stopped.release()
        self._go.acquire()
        if self._is_abandoned:
            raise _Abandoned

    def abandon(self) -> None:
        """End it wherever it stands."""
        if self._thread.ident is not None and not self.has_ended:
            self._is_abandoned = True
            self._go.release()
            self._thread.join()

    @torch.no_grad()
    def _work(self) -> None:
        _own.running = self
        try:
            self._function()
        except _Abandoned:
            pass
        except BaseException as error:
            self._error = error
        self.place = None
        self.has_ended = True
        self._stopped.release()


def running_pass() -> SuspendedPass[Any] | None:
    """The pass that this is called from within, if from one."""
    return getattr(_own, "running", None)


@contextlib.contextmanager
def suspended_passes(functions: Sequence[Callable[[], Any]]) -> Iterator[list[SuspendedPass[Any]]]:
    """Passes of which none is left over in the end, whatever happens."""
    passes: list[SuspendedPass[Any]] = [SuspendedPass(function) for function in functions]
    with large_blocks_returned():
        try:
            yield passes
        finally:
            for each in passes:
                each.abandon()
