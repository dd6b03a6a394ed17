"""Runs a job in Hydra's run directory, and says where it stood when it was stopped."""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from lightning_compress.commands.jobs.folder import (
    resume_command,
    run_folder,
    shown,
    where_it_began,
)
from lightning_compress.commands.jobs.job import Job
from lightning_compress.commands.jobs.processes import is_first
from lightning_compress.commands.results import Result
from lightning_compress.stopping import Stopped, Stops


def run_job(kind: type[Job], config: DictConfig) -> list[Result]:
    """Run the job that a composed configuration describes, or go on with an earlier one.

    Args:
        kind: Of job.
        config: With `resume` it may be of that folder alone.

    Returns:
        One result a package; empty on every process but the first.

    Raises:
        CompressionError: Before training wherever that is possible.
        SystemExit: With 130 after Ctrl-C and 143 after SIGTERM, when what is needed to go on is on the disk.
    """
    job: Job | None = None
    try:
        with Stops() as stops, run_folder(config, kind.command) as folder, where_it_began(folder):
            job = kind(folder.config, folder.path, stops, is_resumed=folder.is_resumed)
            return job.run()
    except Stopped as stop:
        if not is_first():
            # The first process would take another status for a failure and be killed by Lightning.
            raise SystemExit(0) from None
        _explain(job, stop)
        raise SystemExit(stop.exit_status) from None


def _explain(job: Job | None, stop: Stopped) -> None:
    if job is None:
        print(f"\nstopped by {stop.number.name} before anything was begun", file=sys.stderr)
        return
    lines = [f"stopped by {stop.number.name} {job.standing()}"]
    kept = job.kept()
    if kept:
        lines += [f"kept: {kept}", "go on with:", f"  {resume_command(job.folder, job.command)}"]
    else:
        lines += [f"nothing was trained yet, and nothing is kept in {shown(job.folder)}"]
    print("\n" + "\n".join(lines), file=sys.stderr)
