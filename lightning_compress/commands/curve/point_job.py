"""One point of a curve in training: its fit, its package and its measurement, in a folder of its own."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import lightning as L
from omegaconf import DictConfig

from lightning_compress.commands.curve.points import Point, config_of_point
from lightning_compress.commands.jobs.building import COMPRESSED_FIT, Building
from lightning_compress.commands.jobs.folder import lock_folder, shown
from lightning_compress.commands.jobs.job import Job, Stage
from lightning_compress.commands.jobs.processes import is_first
from lightning_compress.commands.jobs.progress import JobProgress
from lightning_compress.commands.jobs.rehearsal import rehearse_compressed
from lightning_compress.commands.jobs.weights import FitWeights
from lightning_compress.commands.measuring import Picture
from lightning_compress.commands.results import Result
from lightning_compress.errors import ConfigurationError
from lightning_compress.stopping import Stops

IN_TRAINING = "in_training"


class PointJob(Job):
    """A job of one stage, part of a curve; what it has finished stands in its own folder.

    So a point can be run by the process of the curve or by another one, on this machine or elsewhere, and what a killed
    process loses is its point alone.

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
        own, folder = config_of_point(config, point), curve / IN_TRAINING / point.name
        super().__init__(own, folder, stops, is_resumed=True, building=Building(own, folder, data))
        self.point = point
        self.weights = FitWeights(self.building, curve)

    def stages(self) -> list[Stage]:
        """The only one, of the same name and seed as the fit that `train` would run."""
        return [
            Stage(
                COMPRESSED_FIT,
                f"{self.point.name} in training",
                self._train,
                steps=lambda: self.building.steps(COMPRESSED_FIT),
                packages=1,
            )
        ]

    def rehearse(self, *, exports: bool) -> float:
        """Try the fit and its package; the curve does so for all of its points, before its first step."""
        rehearse_compressed(self.building, exports=exports)
        return 0.0

    def has_begun(self) -> bool:
        """The curve has rehearsed it."""
        return True

    def run(self) -> list[Result]:
        """Run the point, held against other processes."""
        with self._held():
            return super().run()

    def go_on(self, progress: JobProgress) -> list[Result]:
        """Run the point as a stage of the curve, unless it is finished.

        Args:
            progress: Of the curve; the stage has begun there.
        """
        with self._held():
            if COMPRESSED_FIT in self.state.stages:
                self.state.check_files()
            else:
                self.progress = progress
                self.run_stage(*self.stages())
        return self.results

    def picture(self, name: str) -> Picture:
        """A row of the curve's sheet."""
        return in_a_row(super().picture(name))

    def report(self) -> list[Result]:
        """The curve reports."""
        return self.results if is_first() else []

    def write(self) -> None:
        """The curve writes results."""

    def _train(self) -> None:
        self.fit_compressed()

        def work() -> tuple[list[Path], list[Result]]:
            package = self.building.compressed_package()
            return [package], [self.measure(self.point.name, package, COMPRESSED_FIT)]

        self.finish(COMPRESSED_FIT, work)

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        if not is_first():
            yield
            return
        lock = lock_folder(self.folder)
        if lock is None:
            raise ConfigurationError(
                f"{self.point.name} is still being trained by another process in {shown(self.folder)!r}; end that, or "
                "wait for it, and resume the curve then"
            )
        with lock:
            yield


def in_a_row(picture: Picture) -> Picture:
    """A picture with all its images in one row."""
    return dataclasses.replace(picture, columns=max(1, picture.count))
