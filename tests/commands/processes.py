"""The command in processes of its own, forked from one that has imported everything: an import takes longer than a job.

    python -m tests.commands.processes '[{"words": ["train", "resume=run"], "stop_at": "train:3:SIGINT"}]'

runs one after the other in the present folder, and prints how each ended as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tests.forking import end_with


@dataclass(frozen=True)
class Call:
    """A call of the command.

    Attributes:
        words: After `lightning-compress`.
        stop_at: Where a signal comes, as `tests.commands.tiny` understands it.
        together: Whether the next call is not to wait for this one.
        folder: Where it is typed; by default where all of them are.
    """

    words: Sequence[str]
    stop_at: str = ""
    together: bool = False
    folder: str = "."


@dataclass(frozen=True)
class Ended:
    """How a call ended.

    Attributes:
        code: The exit status, negative for a signal.
        output: What it printed, errors too.
    """

    code: int
    output: str


def run_calls(*calls: Call, folder: Path, timeout: float = 500) -> list[Ended]:
    """Run the command several times, away from this process's threads."""
    root = Path(__file__).resolve().parents[2]
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    result = subprocess.run(
        [sys.executable, "-m", "tests.commands.processes", json.dumps([asdict(call) for call in calls])],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
    )
    if result.returncode:
        raise RuntimeError(result.stderr[-3000:])
    return [Ended(**entry) for entry in json.loads(result.stdout.splitlines()[-1])]


LAUNCHERS = {
    "joblib": ["hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra.launcher.timeout_min=5"],
    "submitit_slurm": ["hydra.launcher.timeout_min=15", "hydra.launcher.mem_gb=4"],
    "ray": ["+hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.init.include_dashboard=false"],
}
"""Hydra's launchers, each with words that let it begin two processes on this machine."""


def require_launcher(name: str) -> None:
    """Skip the test where one of Hydra's launchers is not installed."""
    plugin = f"hydra_plugins.hydra_{name.partition('_')[0]}_launcher"
    if importlib.util.find_spec("hydra_plugins") is None or importlib.util.find_spec(plugin) is None:
        pytest.skip(f"hydra/launcher={name} is not installed")
    if name == "submitit_slurm" and not _slurm_answers():
        pytest.skip("there is no SLURM on this machine, or its controller does not answer")


def _slurm_answers() -> bool:
    if shutil.which("sinfo") is None:
        return False
    return subprocess.run(["sinfo", "--noheader"], capture_output=True, check=False).returncode == 0


def main() -> None:
    """Run the calls given as JSON; prints how they ended as JSON."""
    import torch

    import lightning_compress.commands.train  # noqa: F401
    import tests.commands.tiny  # noqa: F401

    torch.set_num_threads(1)
    calls = [Call(**entry) for entry in json.loads(sys.argv[1])]
    running: list[tuple[int, str]] = []
    ended: list[Ended] = []
    for call in calls:
        running.append(_start(call))
        if not call.together:
            ended += [_wait(*process) for process in running]
            running = []
    print(json.dumps([asdict(one) for one in ended]))


def _start(call: Call) -> tuple[int, str]:
    descriptor, log = tempfile.mkstemp()
    sys.stdout.flush()
    identifier = os.fork()
    if identifier == 0:
        end_with(lambda: _command(call), descriptor)
    os.close(descriptor)
    return identifier, log


def _wait(identifier: int, log: str) -> Ended:
    code = os.waitstatus_to_exitcode(os.waitpid(identifier, 0)[1])
    output = Path(log).read_text(errors="replace")
    os.unlink(log)
    return Ended(code, output)


def _command(call: Call) -> None:
    from lightning_compress.cli import main as command

    os.chdir(call.folder)
    os.environ["STOP_AT"] = call.stop_at
    sys.argv = ["lightning-compress", *call.words]
    command()


if __name__ == "__main__":
    main()
