"""Kill fits at random times, start them again, and compare the packages with those of fits that were never killed.

    python -m tests.faults [--jobs 50] [--seed 0] [--folder FOLDER]

Every method is fitted on one process and on two. A kill is SIGKILL, to all processes of a job or to one of them, while
it starts, steps, writes a checkpoint or exports. Prints one line a job and ends with 1 if a package differs or is torn.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from lightning_compress.package import inspect
from tests.faults.jobs import JOBS, Job, package_bytes, start, wait

PHASES = ("start", "step", "checkpoint", "export")
_PATIENCE = 120.0
"""Seconds after which processes whose peer was killed count as hanging."""


@dataclass
class Result:
    """What became of one job.

    Attributes:
        name: The method.
        world_size: Number of processes.
        kills: How often it was killed in each phase.
        identical: Whether its package is that of the fit that was never killed.
        torn: How often a package that was no whole one was found after a kill.
        hanging: How often a process outlived a killed peer for too long.
    """

    name: str
    world_size: int
    kills: Counter[str] = field(default_factory=Counter)
    identical: bool = False
    torn: int = 0
    hanging: int = 0


class FaultRun:
    """Kills jobs until enough of them were killed.

    Args:
        folder: Where the jobs write.
        seed: Of the times and victims.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.references: dict[tuple[str, int], dict[str, bytes]] = {}
        self.results: list[Result] = []

    def run(self, jobs: int, console: Console) -> None:
        """Run jobs, each killed up to three times, until `jobs` of them were killed."""
        round_number = 0
        while self.killed_jobs() < jobs:
            for world_size in (1, 2):
                for name in JOBS:
                    # The first round covers every method on one process and two.
                    if round_number and self.killed_jobs() >= jobs:
                        return
                    result = self.job(name, world_size, round_number)
                    self.results.append(result)
                    fell = ", ".join(f"{phase} {count}" for phase, count in result.kills.items())
                    console.print(
                        f"{name}, {world_size} processes: killed in {fell or 'no phase'}; "
                        f"{'identical' if result.identical else 'DIFFERS'}"
                    )
            round_number += 1

    def killed_jobs(self) -> int:
        """Jobs so far that were killed at least once: as many packages have come of kills."""
        return sum(bool(result.kills) for result in self.results)

    def reference(self, name: str, world_size: int) -> dict[str, bytes]:
        """The package of a fit that is never killed."""
        key = name, world_size
        if key not in self.references:
            job = Job(name, str(self.folder / f"reference_{world_size}_{name.replace(' ', '_')}"), world_size)
            if any(wait(start(job))):
                raise RuntimeError((Path(job.folder) / "log0.txt").read_text()[-3000:])
            self.references[key] = package_bytes(job.package)
        return self.references[key]

    def job(self, name: str, world_size: int, round_number: int) -> Result:
        """Run one job to its end through up to three kills, each aimed at another phase."""
        expected = self.reference(name, world_size)
        result = Result(name, world_size)
        folder = self.folder / f"{round_number}_{world_size}_{name.replace(' ', '_')}"
        job = Job(name, str(folder), world_size)
        finished = False
        for phase in self.random.sample(PHASES, 3):
            finished = self._attempt(job, phase, result)
            if finished:
                break
        if not finished and any(wait(start(job))):
            raise RuntimeError((folder / "log0.txt").read_text()[-3000:])
        result.identical = package_bytes(job.package) == expected
        return result

    def _attempt(self, job: Job, phase: str, result: Result) -> bool:
        """Start a job and kill it in a phase; True if it ended before."""
        (Path(job.folder) / "phase").unlink(missing_ok=True)
        processes = start(job)
        occurrence = self.random.randint(1, 6)
        delay = self.random.uniform(0, 0.6 if phase in ("start", "export") else 0.02)
        if not self._await_phase(job, phase, occurrence, processes[0]):
            return not any(wait(processes))
        time.sleep(delay)
        entered = self._phase(job)[0]
        # Before there is a process group a process waits for its peers for as long as torch's rendezvous does, half an
        # hour: it is for launchers to end it.
        every = entered == "start" or self.random.random() < 0.5
        victims = processes if every else [self.random.choice(processes)]
        killed = False
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                killed = True
        codes = self._wait_or_kill(processes, result)
        if not any(codes):
            return True
        if killed and -signal.SIGKILL in codes:
            result.kills[entered] += 1
        if job.package.exists():
            try:
                inspect(job.package)
            except Exception:
                result.torn += 1
        return False

    def _await_phase(self, job: Job, phase: str, occurrence: int, process: int) -> bool:
        seen, last = 0, -1
        while seen < (1 if phase in ("start", "export") else occurrence):
            if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return False
            current, count = self._phase(job)
            if count != last:
                last = count
                seen += current == phase
            time.sleep(0.001)
        return True

    def _phase(self, job: Job) -> tuple[str, int]:
        with contextlib.suppress(FileNotFoundError, ValueError):
            name, count = (Path(job.folder) / "phase").read_text().split()
            return name, int(count)
        return "start", -1

    def _wait_or_kill(self, processes: list[int], result: Result) -> list[int]:
        deadline = time.monotonic() + _PATIENCE
        for process in processes:
            while os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                if time.monotonic() > deadline:
                    result.hanging += 1
                    os.kill(process, signal.SIGKILL)
                    break
                time.sleep(0.01)
        return wait(processes)


def table(results: list[Result]) -> Table:
    """The kills by method and phase."""
    rendered = Table(title="Fits killed and resumed", title_justify="left")
    rendered.add_column("method", no_wrap=True)
    for heading in ("processes", "jobs", *PHASES, "kills", "identical", "torn", "hanging"):
        rendered.add_column(heading, justify="right")
    for name, world_size in sorted({(result.name, result.world_size) for result in results}):
        rendered.add_row(
            *_row([r for r in results if (r.name, r.world_size) == (name, world_size)], name, world_size)
        )
    rendered.add_section()
    rendered.add_row(*_row(results, "all", "1, 2"))
    return rendered


def _row(results: list[Result], name: str, world_size: int | str) -> list[str]:
    kills = sum((result.kills for result in results), Counter[str]())
    return [
        name,
        str(world_size),
        str(len(results)),
        *(str(kills[phase]) for phase in PHASES),
        str(kills.total()),
        f"{sum(result.identical for result in results)}/{len(results)}",
        str(sum(result.torn for result in results)),
        str(sum(result.hanging for result in results)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=50, help="stop when so many were killed at least once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the jobs write; a temporary one by default")
    arguments = parser.parse_args()
    # Before anything computes: forked processes have no threads of their parent's.
    torch.set_num_threads(1)
    console = Console()
    with tempfile.TemporaryDirectory() as temporary:
        run = FaultRun(arguments.folder or Path(temporary), arguments.seed)
        run.run(arguments.jobs, console)
    console.print(table(run.results))
    if not all(result.identical and not result.torn and not result.hanging for result in run.results):
        sys.exit(1)


if __name__ == "__main__":
    main()
