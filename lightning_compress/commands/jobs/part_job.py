"""One fit with compression that is part of a larger job, in a folder of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import lightning as L
from omegaconf import DictConfig

from lightning_compress.commands.jobs.building import COMPRESSED_FIT, Building
from lightning_compress.commands.jobs.folder import lock_folder, shown
from lightning_compress.commands.jobs.job import Job, Stage
from lightning_compress.commands.jobs.processes import is_first
from lightning_compress.commands.jobs.progress import JobProgress
from lightning_compress.commands.jobs.rehearsal import rehearse_compressed
from lightning_compress.commands.jobs.weights import FitWeights
from lightning_compress.commands.results import Result
from lightning_compress.errors import ConfigurationError
from lightning_compress.stopping import Stops


class PartJob(Job):
    """A job of one stage; what it has finished stands in its own folder.

    So it can be run by the process of the larger job or by another one, on this machine or elsewhere, and what a killed
    process loses is this part alone.

    Args:
        config: Of the part: `train` would do the same with it.
        name: Of the part, and of its package.
        folder: Of the part.
        whole: The folder of the larger job, where the float weights lie.
        stops: Tells of signals.
        data: Those of the larger job, to share them; None to make them.
    """

    def __init__(
        self,
        config: DictConfig,
        name: str,
        folder: Path,
        whole: Path,
        stops: Stops | None = None,
        *,
        data: L.LightningDataModule | None = None,
    ) -> None:
        super().__init__(config, folder, stops, is_resumed=True, building=Building(config, folder, data))
        self.name = name
        self.weights = FitWeights(self.building, whole)

    def stages(self) -> list[Stage]:
        """The only one, of the same name and seed as the fit that `train` would run."""
        return [
            Stage(
                COMPRESSED_FIT,
                f"{self.name} in training",
                self._train,
                steps=lambda: self.building.steps(COMPRESSED_FIT),
                packages=1,
            )
        ]

    def rehearse(self, *, exports: bool) -> float:
        """Try the fit and its package; the larger job does so for all of its parts, before its first step."""
        rehearse_compressed(self.building, exports=exports)
        return 0.0

    def has_begun(self) -> bool:
        """The larger job has rehearsed it."""
        return True

    def run(self) -> list[Result]:
        """Run the part, held against other processes."""
        with self._held():
            return super().run()

    def go_on(self, progress: JobProgress) -> list[Result]:
        """Run the part as a stage of the larger job, unless it is finished.

        Args:
            progress: Of the larger job; the stage has begun there.
        """
        with self._held():
            if COMPRESSED_FIT in self.state.stages:
                self.state.check_files()
            else:
                self.progress = progress
                self.run_stage(*self.stages())
        return self.results

    def report(self) -> list[Result]:
        """The larger job reports."""
        return self.results if is_first() else []

    def write(self) -> None:
        """The larger job writes results."""

    def measured(self, package: Path) -> list[Result]:
        """What is measured of the package."""
        return [self.measure(self.name, package, COMPRESSED_FIT)]

    def _train(self) -> None:
        self.fit_compressed()

        def work() -> tuple[list[Path], list[Result]]:
            package = self.building.compressed_package()
            return [package], self.measured(package)

        self.finish(COMPRESSED_FIT, work)

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        if not is_first():
            yield
            return
        lock = lock_folder(self.folder)
        if lock is None:
            raise ConfigurationError(
                f"{self.name} is still being trained by another process in {shown(self.folder)!r}; end that, or "
                "wait for it, and resume then"
            )
        with lock:
            yield
