"""What Ctrl-C and SIGTERM do to work that can be taken up again: it is brought to a point where nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_only

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_ECHO_SECONDS = 1.0
"""A launcher between the terminal and this process passes on a signal that it has got already."""


class Stopped(BaseException):
    """Work that was ended by a signal.

    No `Exception`: what handles errors on the way must not take it for one.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number

    @property
    def exit_status(self) -> int:
        """What a shell reports of a process that a signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


class Stops:
    """Keeps SIGINT and SIGTERM from ending a process in the middle of a step.

    Inside `with Stops() as stops`, a signal raises `Stopped` where the process stands. While `stops.waits` is true it
    is only noted, for whoever steps to look at `stops.received`; a second signal raises all the same. Processes of a
    fit other than the first only note it: the first decides for all.

    Attributes:
        received: The signal that has come, or None.
        waits: Whether somebody looks at `received` and will end the work.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.waits = False
        self._when = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stops:
        if _in_main_thread():
            self._previous = {number: signal.getsignal(number) for number in SIGNALS}
            self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def install(self) -> None:
        """Take the signals, and take them back from a Trainer.

        Lightning 2.6 puts a handler of its own before this one when a fit starts. With several processes it starts a
        collective operation from within the handler, wherever the process stands, and processes then wait for each
        other for good.
        """
        if self._previous:
            for number in SIGNALS:
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        is_first = self.received is None
        if is_first:
            self._when = now
        is_echo = now - self._when < _ECHO_SECONDS
        self.received = signal.Signals(number)
        # Lightning sets the rank when it is imported.
        if getattr(rank_zero_only, "rank", 0) != 0:
            return
        if is_first and self.waits:
            _say(
                f"{self.received.name}: stopping after this step, with a checkpoint; once more stops at once."
            )
        elif is_first or not is_echo:
            raise Stopped(self.received)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _say(text: str) -> None:
    # Print and rich hold locks that the interrupted code may hold too.
    os.write(2, f"\n{text}\n".encode())
