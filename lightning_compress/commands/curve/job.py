"""The stages of `lightning-compress curve`."""

from __future__ import annotations

import time
from functools import cached_property, partial
from pathlib import Path

from omegaconf import DictConfig

from lightning_compress.commands.curve.launched_point import POINTS, run_point
from lightning_compress.commands.curve.point_job import IN_TRAINING, PointJob, in_a_row
from lightning_compress.commands.curve.points import (
    Point,
    points_after_training,
    points_in_training,
    require_points,
)
from lightning_compress.commands.curve.report import AFTER_TRAINING, Curve, write_curve
from lightning_compress.commands.jobs.building import COMPRESSED_FIT, FLOAT_FIT
from lightning_compress.commands.jobs.folder import shown
from lightning_compress.commands.jobs.job import FLOAT16, Stage, say
from lightning_compress.commands.jobs.launching import Launching, chosen_launcher, require_one_device
from lightning_compress.commands.jobs.processes import is_first
from lightning_compress.commands.jobs.rehearsal import (
    rehearse_compressed,
    rehearse_float,
    rehearse_trainers,
)
from lightning_compress.commands.jobs.whole_job import WITHOUT_COMPRESSION, WholeJob, with_compression
from lightning_compress.commands.measuring import Picture
from lightning_compress.commands.results import Result
from lightning_compress.console import print_whole
from lightning_compress.coreml.post_training import compress_package
from lightning_compress.errors import ConfigurationError
from lightning_compress.nice_to_have import nice_to_have
from lightning_compress.package.save import save_package
from lightning_compress.stopping import Stops


class CurveJob(WholeJob):
    """A float fit, packages compressed after it, and a fit with compression for each point.

    With one of Hydra's launchers, each fit with compression is a job of that launcher, once the float part is done.

    Args:
        config: The composed configuration `curve.yaml`.
        folder: Where all that the job leaves goes.
        stops: Tells of signals.
        is_resumed: Whether to go on where a job in that folder stood.
    """

    command = "curve"

    def __init__(
        self, config: DictConfig, folder: Path, stops: Stops | None = None, *, is_resumed: bool = False
    ) -> None:
        require_points(config.curve)
        self.after = points_after_training(config.curve)
        self.trained = points_in_training(config.curve)
        require_one_device(config.trainer, POINTS.noun)
        self._launching = Launching(folder, POINTS, run_point) if chosen_launcher() is not None else None
        super().__init__(with_compression(config, WITHOUT_COMPRESSION), folder, stops, is_resumed=is_resumed)

    def stages(self) -> list[Stage]:
        """The float fit, its package, and each point of both workflows."""
        return [
            *self.float_stages(),
            *(
                Stage(
                    f"{AFTER_TRAINING}/{point.name}",
                    f"{point.name} after training",
                    partial(self._compress, point),
                    packages=1,
                )
                for point in self.after
            ),
            *(
                Stage(
                    f"{IN_TRAINING}/{name}",
                    f"{name} in training",
                    partial(self._train, name),
                    steps=partial(job.building.steps, COMPRESSED_FIT),
                    packages=1,
                )
                for name, job in self._point_jobs.items()
            ),
        ]

    @cached_property
    def _point_jobs(self) -> dict[str, PointJob]:
        return {
            point.name: PointJob(self.config, point, self.folder, self.stops, data=self.building.data)
            for point in self.trained
        }

    def rehearse(self, *, exports: bool) -> float:
        """Try the float fit, what follows it, and all fits with compression; one package a technique is converted."""
        started = time.perf_counter()
        rehearse_trainers(self.building, [FLOAT_FIT])
        rehearse_float(
            self.building,
            [point.form for point in self.after],
            # Each technique needs a weight above its own threshold.
            weight_threshold=max(map(self._weight_threshold, self.after), default=0),
            exports=exports,
        )
        converted: set[str] = set()
        for job in self._point_jobs.values():
            rehearse_trainers(job.building, [COMPRESSED_FIT])
            rehearse_compressed(job.building, exports=exports and job.point.technique not in converted)
            converted.add(job.point.technique)
        return time.perf_counter() - started

    def curve(self) -> Curve:
        """What was measured until now."""
        return Curve(
            results={name: stage.results[0] for name, stage in self.state.stages.items() if stage.results},
            points={point.name: point for point in [*self.after, *self.trained]},
            metric=str(self.config.recipe.metric),
            tolerance=float(self.config.curve.tolerance),
            higher_is_better=bool(self.config.curve.higher_is_better),
        )

    def write(self) -> None:
        """Write the table of what was measured until now."""
        write_curve(self.curve(), self.folder)

    def report(self) -> list[Result]:
        """Draw the figure and the sheet, and print the table."""
        if not is_first():
            return []
        # matplotlib takes its time.
        from lightning_compress.commands.curve.figure import draw_curve
        from lightning_compress.commands.curve.sheet import draw_sheet

        curve = self.curve()
        with nice_to_have("the figure"):
            draw_curve(curve, self.folder / "curve.png")
        with nice_to_have("the sheet of pictures"):
            draw_sheet(curve, self.folder / "pictures.png")
        print_whole(curve.table())
        say(f"curve.md, curve.json, curve.png and packages: {self.folder}")
        return self.results

    def picture(self, name: str) -> Picture:
        """A row of the sheet."""
        return in_a_row(super().picture(name))

    def _compress(self, point: Point) -> None:
        name = f"{AFTER_TRAINING}/{point.name}"

        def work() -> tuple[list[Path], list[Result]]:
            path = self.building.package(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            (compressed,) = compress_package(
                self.building.package(FLOAT16), [point.form], weight_threshold=self._weight_threshold(point)
            )
            package = save_package(compressed.model, path)
            return [package], [self.measure(name, package, FLOAT_FIT)]

        self.finish(name, work)

    def _weight_threshold(self, point: Point) -> int:
        return int(self.config.curve.weight_threshold[point.technique])

    def _train(self, name: str) -> None:
        if self._launching is not None:
            self._launch(self._launching)
            return
        job = self._point_jobs[name]
        self.run_part(job)
        self._take_over(job)

    def _launch(self, launching: Launching) -> None:
        """Train all points that are left elsewhere, and take over what they have measured."""
        assert self.progress is not None
        left = [name for name in self._point_jobs if f"{IN_TRAINING}/{name}" not in self.state.stages]
        errors = launching.run(left)
        for name in left:
            job = PointJob(self.config, self._point_jobs[name].point, self.folder, data=self.building.data)
            if COMPRESSED_FIT in job.state.stages:
                job.state.check_files()
                self._take_over(job)
        missing = [name for name in left if f"{IN_TRAINING}/{name}" not in self.state.stages]
        if missing:
            told = "\n".join(f"  {name}: {errors.get(name, 'ended without a word')}" for name in missing)
            raise ConfigurationError(
                f"{len(missing)} of {len(left)} points did not end well:\n{told}\nWhat they have said is in log.txt in "
                f"their folders under {shown(self.folder / IN_TRAINING)}; the others are kept"
            )

    def _take_over(self, job: PointJob) -> None:
        package = job.building.compressed_package()
        self.finish(f"{IN_TRAINING}/{job.point.name}", lambda: ([package], job.results))
