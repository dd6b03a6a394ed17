"""`lightning-compress curve`: quality over compression, after training and in training.

- `points`: what a curve is made of; `point_job` runs one in training, here or elsewhere (`launched_point`).
- `job`: the stages in their order.
- `report`, `figure`, `sheet`: the table, the figure and the pictures.
"""

from __future__ import annotations

from omegaconf import DictConfig

from lightning_compress.commands.curve.job import CurveJob
from lightning_compress.commands.jobs.running import run_job
from lightning_compress.commands.results import Result

__all__ = ["CurveJob", "run"]


def run(config: DictConfig) -> list[Result]:
    """Measure the curve that a composed configuration describes, in Hydra's run directory, or go on with one.

    Returns:
        One result a package; empty on every process but the first.

    Raises:
        CompressionError: Before training wherever that is possible.
        SystemExit: With 130 after Ctrl-C and 143 after SIGTERM, when what is needed to go on is on the disk.
    """
    return run_job(CurveJob, config)
