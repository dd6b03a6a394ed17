"""`lightning-compress train`: a float fit, packages palettized after it, and a fit with compression.

- `job`: the stages in their order; `building` makes what they need, `rehearsal` tries them before the first step.
- `folder`, `state`: where a job stands, and what it has finished.
- `launched`: processes that torchrun or srun has started agree on a folder.
- `continuation`, `random_states`, `logs`: a fit that is stopped and taken up again ends as if it had not been.
- `progress`: how long it will take.
"""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from lightning_compress.commands.results import Result
from lightning_compress.commands.jobs.folder import (
    resume_command,
    run_folder,
    shown,
    where_it_began,
)
from lightning_compress.commands.train.job import TrainingJob
from lightning_compress.commands.jobs.processes import is_first
from lightning_compress.stopping import Stopped, Stops

__all__ = ["TrainingJob", "run"]


def run(config: DictConfig) -> list[Result]:
    """Run the job that a composed configuration describes, in Hydra's run directory, or go on with an earlier one.

    Returns:
        One result a package; empty on every process but the first.

    Raises:
        CompressionError: Before training wherever that is possible.
        SystemExit: With 130 after Ctrl-C and 143 after SIGTERM, when what is needed to go on is on the disk.
    """
    job: TrainingJob | None = None
    try:
        with Stops() as stops, run_folder(config) as folder, where_it_began(folder):
            job = TrainingJob(folder.config, folder.path, stops, is_resumed=folder.is_resumed)
            return job.run()
    except Stopped as stop:
        if not is_first():
            # The first process would take another status for a failure and be killed by Lightning.
            raise SystemExit(0) from None
        _explain(job, stop)
        raise SystemExit(stop.exit_status) from None


def _explain(job: TrainingJob | None, stop: Stopped) -> None:
    if job is None:
        print(f"\nstopped by {stop.number.name} before anything was begun", file=sys.stderr)
        return
    lines = [f"stopped by {stop.number.name} {job.standing()}"]
    kept = job.kept()
    if kept:
        lines += [f"kept: {kept}", "go on with:", f"  {resume_command(job.folder)}"]
    else:
        lines += [f"nothing was trained yet, and nothing is kept in {shown(job.folder)}"]
    print("\n" + "\n".join(lines), file=sys.stderr)
