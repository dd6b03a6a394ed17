"""Forward passes that wait within a network, and what they hold meanwhile."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_PASSES = """
import torch
from pathlib import Path
from lightning_compress.methods.mechanism.suspension import running_pass, suspended_passes

def held():
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))

def work():
    for mebibytes in (24, 16, 20, 12, 16):
        freed = [torch.ones(mebibytes << 18) for _ in range(3)]
        del freed
    kept = torch.ones(1 << 18)
    running_pass().stop_at("a layer")
    del kept

torch.set_num_threads(1)
torch.ones(1)
with suspended_passes([work] * 6) as passes:
    before = held()
    for each in passes:
        each.resume()
    print(held() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heap of each thread is glibc's")
def test_passes_that_wait_hold_what_they_use_and_not_what_they_have_freed() -> None:
    done = subprocess.run([sys.executable, "-c", _PASSES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # A mebibyte each, and what a thread itself takes; what was freed are 72 each.
    assert float(done.stdout) < 30
