"""A job of several stages, each run once however often the job is stopped."""

from __future__ import annotations

import abc
import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import DictConfig
from rich.text import Text

from lightning_compress.callback.finishing import export_in_rehearsal
from lightning_compress.callback.reporting import package_line
from lightning_compress.commands.jobs.building import COMPRESSED_FIT, FLOAT_FIT, Building
from lightning_compress.commands.jobs.continuation import STOPPED, Continuation, newest_checkpoint
from lightning_compress.commands.jobs.folder import shown
from lightning_compress.commands.jobs.logs import carry_on_log, logged_rows
from lightning_compress.commands.jobs.processes import end_processes, is_alone, is_first
from lightning_compress.commands.jobs.progress import JobProgress, StepClock
from lightning_compress.commands.jobs.state import JobState
from lightning_compress.commands.jobs.weights import FitWeights
from lightning_compress.commands.measuring import Picture, measure_package
from lightning_compress.commands.results import Result, results_table, write_results
from lightning_compress.console import output_console, print_whole
from lightning_compress.coreml.card import METRICS
from lightning_compress.coreml.metadata import add_metadata
from lightning_compress.processes import on_rank_zero
from lightning_compress.stopping import Stopped, Stops

_console = output_console()

FLOAT16 = "float16"
"""The package of the float fit, and the stage that makes it."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a job.

    Attributes:
        name: In the job's state.
        title: As it is shown.
        run: Does it, and writes down that it is finished.
        steps: Tells the optimizer steps of its fit once the data are set up, None where nobody knows; None for a stage
            without a fit.
        packages: How many packages it makes and measures.
    """

    name: str
    title: str
    run: Callable[[], None]
    steps: Callable[[], int | None] | None = None
    packages: int = 0


class Job(abc.ABC):
    """Runs stages in order, and what they have in common: seeds, fits, measurements, and what is written down of them.

    Args:
        config: A composed configuration with a recipe, `float_fit`, `compressed_fit` and `compression`.
        folder: Where checkpoints, packages and results go.
        stops: Tells of signals.
        is_resumed: Whether to go on where a job in that folder stood.
        building: Makes what the stages need; by default of the configuration, in the folder.

    Attributes:
        command: The subcommand that runs such a job, and resumes it.
        launcher: Lightning's, which has started the other processes of the job; None before the first fit.

    Raises:
        CompressionError: A value that cannot be used, or a state that cannot be gone on from.
    """

    command: ClassVar[str]

    def __init__(
        self,
        config: DictConfig,
        folder: Path,
        stops: Stops | None = None,
        *,
        is_resumed: bool = False,
        building: Building | None = None,
    ) -> None:
        self.config = config
        self.folder = folder
        self.stops = stops or Stops()
        self.state = JobState.read(folder) if is_resumed else JobState(folder)
        self.building = building or Building(config, folder)
        self.weights = FitWeights(self.building, folder)
        self.progress: JobProgress | None = None
        self._is_resumed = is_resumed
        self._continuation: Continuation | None = None
        self.launcher: Any = None

    @abc.abstractmethod
    def stages(self) -> list[Stage]:
        """The stages in their order."""

    @abc.abstractmethod
    def rehearse(self, *, exports: bool) -> float:
        """Find out before the first step what would end the job after hours.

        Args:
            exports: Whether to convert untrained packages, too.

        Returns:
            Seconds that it took.
        """

    @property
    def results(self) -> list[Result]:
        """What was measured until now; on every process but the first it may lack what this run has added."""
        return self.state.results

    def run(self) -> list[Result]:
        """Run the stages that are not finished, in order.

        Returns:
            One result a package; empty on every process but the first.
        """
        stages = self.stages()
        if all(stage.name in self.state.stages for stage in stages):
            say(f"the job in {shown(self.folder)} is finished; there is nothing to go on with")
            return self.report()
        self.state.check_files()
        self._seed("rehearsal")
        # Bad data should not wait for the first epoch.
        self.building.data.prepare_data()
        self.building.data.setup("fit")
        if not self.has_begun():
            # And what cannot be fitted, exported or measured, not for the end of a fit.
            self._rehearse()
        self.progress = _progress(stages, self.state)
        try:
            for stage in stages:
                if stage.name not in self.state.stages:
                    _announce(self.progress.begin(stage.title))
                    self.run_stage(stage)
        except Stopped:
            end_processes(self.launcher)
            raise
        return self.report()

    def run_stage(self, stage: Stage) -> None:
        """Run one stage; its progress has begun."""
        self._seed(stage.name)
        stage.run()

    def standing(self) -> str:
        """Where the job stands, for whoever has stopped it."""
        if self.progress is None:
            return "before the first stage"
        steps = self.steps_of_fit()
        return f"in {self.progress.place()}" + (f", after {steps} steps" if steps else "")

    def steps_of_fit(self) -> int:
        """Optimizer steps of the fit that is running; 0 outside of one."""
        return 0 if self._continuation is None else self._continuation.steps

    def kept(self) -> str:
        """What is on the disk to go on from."""
        newest = [newest_checkpoint(folder) for folder in sorted(self.folder.rglob("checkpoints"))]
        checkpoints = [f"{shown(found[0])} (step {found[1]})" for found in newest if found is not None]
        finished = [stage.title for stage in self.stages() if stage.name in self.state.stages]
        return ", ".join(finished + checkpoints)

    def report(self) -> list[Result]:
        """Show what was measured, on the first process; returns it there."""
        if not is_first():
            return []
        if self.results:
            print_whole(results_table(self.results))
            say(f"results, packages and pictures: {self.folder}")
        return self.results

    def write(self) -> None:
        """Write what was measured until now into the folder."""
        write_results(self.results, self.folder)

    def has_begun(self) -> bool:
        """Whether there is something to go on from, so that what a rehearsal tells has been told."""
        return self._is_resumed and bool(
            self.state.stages or newest_checkpoint(self.folder / FLOAT_FIT / "checkpoints")
        )

    def _seed(self, stage: str) -> None:
        """Each stage is seeded by itself: it does not depend on which stages this process has run before."""
        L.seed_everything(self.seed_of(stage), workers=True, verbose=False)

    def seed_of(self, stage: str) -> int:
        """The seed of a stage: fits with compression have another than the float fit."""
        if stage != COMPRESSED_FIT:
            return int(self.config.seed)
        return int(np.random.SeedSequence([self.config.seed, 1]).generate_state(1)[0])

    def _rehearse(self) -> None:
        if not is_first():
            return
        exports = bool(self.config.rehearse) and not self.building.is_rehearsal
        seconds = self.rehearse(exports=exports)
        if exports:
            say(f"all stages were rehearsed in {seconds:.1f} s; rehearse=false leaves out the export")

    def float_stages(self) -> list[Stage]:
        """The float fit and its package."""
        is_fitted = bool(self.config.float_fit.enabled)
        return [
            Stage(
                FLOAT_FIT,
                "float fit" if is_fitted else "float weights",
                self._float_fit,
                steps=lambda: self.building.steps(FLOAT_FIT) if is_fitted else 0,
            ),
            Stage(FLOAT16, "float16 package", self._float_package, packages=1),
        ]

    def _float_fit(self) -> None:
        """Train without compression, or take the weights given."""
        module = self.building.float_module()
        if self.config.float_fit.enabled:
            self._fit(FLOAT_FIT, module)
        self.weights.keep(FLOAT_FIT, module)
        self.finish(FLOAT_FIT, lambda: ([self.weights.write(FLOAT_FIT)], []))

    def _float_package(self) -> None:
        def work() -> tuple[list[Path], list[Result]]:
            module = self.weights.module(FLOAT_FIT, FLOAT_FIT)
            export = self.building.export(FLOAT16, module)
            # As the callback does: after the one step of a rehearsal a network may overflow in half precision.
            export = dataclasses.replace(export, verify=export.verify and not self.building.is_rehearsal)
            recipe = self.building.recipe
            package = export.run(recipe.network_copy(module), recipe.example_inputs(module))
            _console.print(package_line(package))
            return [package.path], [self.measure(FLOAT16, package.path, FLOAT_FIT)]

        self.finish(FLOAT16, work)

    def fit_compressed(self) -> None:
        """The fit with compression, from the float weights; the package is written at its end."""
        module = self.weights.module(FLOAT_FIT, COMPRESSED_FIT)
        self._fit(COMPRESSED_FIT, module, self.building.compression(module))
        # Of the network the package tells, which is no file of this stage: it is changed once it is measured.
        self.weights.keep(COMPRESSED_FIT, module, without=self.building.recipe.network_path(module))

    def calibrate_compressed(self) -> None:
        """Compression by data, from the float weights, and its package; in place of a fit with compression."""
        module = self.weights.module(FLOAT_FIT, COMPRESSED_FIT)
        compression = self.building.compression(module)
        if self.building.is_rehearsal:
            compression.calibration_samples = 1
            compression.export = export_in_rehearsal(
                self.building.export(self.config.compression.name, module)
            )
        compression.calibrate(module, self.building.data)
        compression.finalize()
        self.weights.keep(COMPRESSED_FIT, module, without=self.building.recipe.network_path(module))

    def _fit(self, fit: str, module: L.LightningModule, *first: L.Callback) -> None:
        folder = self.folder / fit
        newest = newest_checkpoint(folder / "checkpoints") if self._is_resumed else None
        begin_at = self.config[fit].ckpt_path if newest is None else str(newest[0])
        if newest is not None:
            say(f"going on from step {newest[1]}, {shown(newest[0])}")
        assert self.progress is not None
        self._continuation = Continuation(self.seed_of(fit), folder, self.stops)
        last = [] if self.building.is_rehearsal else [StepClock(self.progress), self._continuation]
        rows = logged_rows(folder, newest[1]) if newest is not None else []
        trainer = self.building.trainer(fit, first, last)
        carry_on_log(trainer, rows)
        if self.launcher is None:
            self.launcher = trainer.strategy.launcher
        with warnings.catch_warnings():
            # Lightning 2.6 means the batches that `Continuation` passes over.
            warnings.filterwarnings(
                "ignore", "You're resuming from a checkpoint that ended before the epoch ended"
            )
            trainer.fit(module, datamodule=self.building.data, ckpt_path=begin_at)
        self._continuation = None
        if is_first():
            (folder / "checkpoints" / STOPPED).unlink(missing_ok=True)

    def finish(self, stage: str, work: Callable[[], tuple[list[Path], list[Result]]]) -> None:
        """Do a stage's work on the first process, and write down that it is finished.

        Args:
            stage: Its name.
            work: Returns the files that later stages need, and what it has measured.
        """
        if is_alone() and not is_first():
            # Processes that a cluster has started, before their first fit.
            return

        def finish() -> None:
            assert self.progress is not None
            files, results = work()
            self.state.finish(stage, self.progress.end(), files, results)
            if results:
                self.write()

        on_rank_zero(finish)

    def measure(self, name: str, package: Path, fit: str) -> Result:
        """Run the package, as it is typed, in the module of a fit on this machine, and draw what it finds."""
        config = self.config
        value = measure_package(
            self.building.recipe,
            self.weights.module(fit, fit),
            package,
            self.folder,
            fast_dev_run=config.trainer.fast_dev_run,
            picture=self.picture(name),
        )
        metric = config.recipe.metric.rpartition("/")[2]
        report = add_metadata(
            package,
            {"compression": name, METRICS: json.dumps({metric: value})},
            card=bool(config.export.card),
        )
        return Result(
            name, report.package_bytes, report.weight_bytes, metric=metric, value=value, package=str(package)
        )

    def picture(self, name: str) -> Picture:
        """How the picture of what a package finds is drawn."""
        pictures = self.config.pictures
        return Picture(self.folder / f"{name}.png", pictures.count, pictures.threshold)


def _progress(stages: list[Stage], state: JobState) -> JobProgress:
    progress = JobProgress(
        [stage.title for stage in stages],
        {stage.title: stage.steps() for stage in stages if stage.steps is not None},
        {stage.title: stage.packages for stage in stages if stage.packages},
    )
    for stage in stages:
        if stage.name in state.stages:
            progress.learn(stage.title, state.stages[stage.name].seconds)
    return progress


@rank_zero_only
def say(text: str) -> None:
    """Print a line on the first process."""
    _console.print(text, highlight=False, markup=False)


@rank_zero_only
def _announce(text: str) -> None:
    _console.rule(Text(text, "bold"), align="left")
