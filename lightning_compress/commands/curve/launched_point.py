"""A point of a curve in a process that one of Hydra's launchers has started."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from lightning_compress.commands.curve.point_job import IN_TRAINING, PointJob
from lightning_compress.commands.curve.points import points_in_training
from lightning_compress.commands.jobs.launching import Parts, run_launched
from lightning_compress.commands.jobs.state import FILE
from lightning_compress.stopping import Stops

POINTS = Parts("point", IN_TRAINING, FILE)


def run_point(config: DictConfig) -> str:
    """Run one point of a curve.

    Args:
        config: Composed of what the launcher was told.

    Returns:
        What went wrong; empty if all went well.
    """
    return run_launched(config, PointJob.command, POINTS, _train)


def _train(stored: DictConfig, name: str, whole: Path, stops: Stops) -> None:
    (point,) = (point for point in points_in_training(stored.curve) if point.name == name)
    PointJob(stored, point, whole, stops).run()
