"""`lightning-compress train`: a float fit, packages palettized after it, and a fit with compression."""

from __future__ import annotations

from omegaconf import DictConfig

from lightning_compress.commands.jobs.running import run_job
from lightning_compress.commands.results import Result
from lightning_compress.commands.train.job import TrainingJob

__all__ = ["TrainingJob", "run"]


def run(config: DictConfig) -> list[Result]:
    """Run the job that a composed configuration describes, in Hydra's run directory, or go on with an earlier one.

    Returns:
        One result a package; empty on every process but the first.

    Raises:
        CompressionError: Before training wherever that is possible.
        SystemExit: With 130 after Ctrl-C and 143 after SIGTERM, when what is needed to go on is on the disk.
    """
    return run_job(TrainingJob, config)
