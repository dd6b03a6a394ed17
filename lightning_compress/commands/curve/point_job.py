"""One point of a curve in training: its fit, its package and its measurement, in a folder of its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import lightning as L
from omegaconf import DictConfig

from lightning_compress.commands.curve.points import Point, config_of_point
from lightning_compress.commands.jobs.part_job import PartJob
from lightning_compress.commands.measuring import Picture
from lightning_compress.stopping import Stops

IN_TRAINING = "in_training"


class PointJob(PartJob):
    """The fit of one point.

    Args:
        config: Of the curve.
        point: Which is trained.
        curve: The folder of the curve, where the float weights lie.
        stops: Tells of signals.
        data: Those of the curve, to share them; None to make them.
    """

    command = "curve"

    def __init__(
        self,
        config: DictConfig,
        point: Point,
        curve: Path,
        stops: Stops | None = None,
        *,
        data: L.LightningDataModule | None = None,
    ) -> None:
        folder = curve / IN_TRAINING / point.name
        super().__init__(config_of_point(config, point), point.name, folder, curve, stops, data=data)
        self.point = point

    def picture(self, name: str) -> Picture:
        """A row of the curve's sheet."""
        return in_a_row(super().picture(name))


def in_a_row(picture: Picture) -> Picture:
    """A picture with all its images in one row."""
    return dataclasses.replace(picture, columns=max(1, picture.count))
