"""Forked children of a test: they end themselves, and never return into the test that forked them."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn


def end_with(work: Callable[[], object], log: int) -> NoReturn:
    """Do the work of a forked child, and end its process with the status that the work had.

    Args:
        work: What to do; a `SystemExit` of it is its status, and any other exception is printed and counts as 1.
        log: Descriptor of the file that takes what is printed.
    """
    code = 1
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
