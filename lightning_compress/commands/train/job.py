"""The stages of `lightning-compress train`, each run once however often the job is stopped."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import DictConfig
from rich.text import Text

from lightning_compress.callback.reporting import package_line
from lightning_compress.commands.measuring import Picture, measure_package
from lightning_compress.commands.results import Result, results_table, write_results
from lightning_compress.commands.jobs.building import FITS, Building
from lightning_compress.commands.jobs.continuation import STOPPED, Continuation, newest_checkpoint
from lightning_compress.commands.jobs.folder import shown
from lightning_compress.commands.jobs.logs import carry_on_log, logged_rows
from lightning_compress.commands.jobs.processes import end_processes, is_alone, is_first
from lightning_compress.commands.jobs.progress import JobProgress, StepClock
from lightning_compress.commands.jobs.rehearsal import rehearse_job, widths
from lightning_compress.commands.jobs.state import JobState
from lightning_compress.commands.jobs.weights import FitWeights
from lightning_compress.console import output_console, print_whole
from lightning_compress.coreml.card import METRICS
from lightning_compress.coreml.metadata import add_metadata
from lightning_compress.coreml.post_training import palettize_package
from lightning_compress.package.save import save_package
from lightning_compress.processes import on_rank_zero
from lightning_compress.stopping import Stopped, Stops

_console = output_console()

FLOAT_FIT, FLOAT16, POST_TRAINING = "float_fit", "float16", "post_training"
COMPRESSED_FIT, COMPRESSED = "compressed_fit", "compressed"


class TrainingJob:
    """A float fit, packages palettized after it, and a fit with compression.

    Args:
        config: The composed configuration `train.yaml`.
        folder: Where checkpoints, packages and results go.
        stops: Tells of signals.
        is_resumed: Whether to go on where a job in that folder stood.

    Raises:
        CompressionError: A value that cannot be used, or a state that cannot be gone on from.
    """

    def __init__(
        self, config: DictConfig, folder: Path, stops: Stops | None = None, *, is_resumed: bool = False
    ) -> None:
        self.config = config
        self.folder = folder
        self.stops = stops or Stops()
        self.state = JobState.read(folder) if is_resumed else JobState(folder)
        self.building = Building(config, folder)
        self.progress: JobProgress | None = None
        self._is_resumed = is_resumed
        self.weights = FitWeights(self.building)
        self._continuation: Continuation | None = None
        self._launcher: Any = None

    @property
    def results(self) -> list[Result]:
        """What was measured until now; on every process but the first it may lack what this run has added."""
        return self.state.results

    def run(self) -> list[Result]:
        """Run the stages that are not finished, in order.

        Returns:
            One result a package; empty on every process but the first.
        """
        stages = self._stages()
        if all(stage in self.state.stages for stage in stages):
            _say(f"the job in {shown(self.folder)} is finished; there is nothing to go on with")
            return self._report()
        self.state.check_files()
        self._seed("rehearsal")
        # Bad data should not wait for the first epoch.
        self.building.data.prepare_data()
        self.building.data.setup("fit")
        if not self._has_begun():
            # And what cannot be fitted, exported or measured, not for the end of a fit.
            self._rehearse()
        self.progress = self._progress()
        try:
            for stage, run in stages.items():
                if stage not in self.state.stages:
                    self._seed(stage)
                    _announce(self.progress.begin(self._title(stage)))
                    run()
        except Stopped:
            end_processes(self._launcher)
            raise
        return self._report()

    def standing(self) -> str:
        """Where the job stands, for whoever has stopped it."""
        if self.progress is None:
            return "before the first stage"
        steps = 0 if self._continuation is None else self._continuation.steps
        return f"in {self.progress.place()}" + (f", after {steps} steps" if steps else "")

    def kept(self) -> str:
        """What is on the disk to go on from."""
        newest = [newest_checkpoint(self.folder / fit / "checkpoints") for fit in FITS]
        checkpoints = [f"{shown(found[0])} (step {found[1]})" for found in newest if found is not None]
        stages = [self._title(stage) for stage in self.state.stages]
        return ", ".join(stages + checkpoints)

    def _stages(self) -> dict[str, Callable[[], None]]:
        stages: dict[str, Callable[[], None]] = {FLOAT_FIT: self._float_fit, FLOAT16: self._float_package}
        if widths(self.building):
            stages[POST_TRAINING] = self._post_training
        if self.building.methods:
            stages |= {COMPRESSED_FIT: self._compressed_fit, COMPRESSED: self._compressed_package}
        return stages

    def _title(self, stage: str) -> str:
        name = self.config.compression.name
        return {
            FLOAT_FIT: "float fit" if self.config.float_fit.enabled else "float weights",
            FLOAT16: "float16 package",
            POST_TRAINING: "palettization after training",
            COMPRESSED_FIT: f"fit with {name}",
            COMPRESSED: f"{name} package",
        }[stage]

    def _progress(self) -> JobProgress:
        stages = self._stages()
        steps = {self._title(fit): self.building.steps(fit) for fit in (FLOAT_FIT, COMPRESSED_FIT)}
        if not self.config.float_fit.enabled:
            steps[self._title(FLOAT_FIT)] = 0
        packages = {FLOAT16: 1, POST_TRAINING: len(widths(self.building)), COMPRESSED: 1}
        return JobProgress(
            [self._title(stage) for stage in stages],
            {title: count for title, count in steps.items() if count is not None},
            {self._title(stage): count for stage, count in packages.items() if stage in stages},
        )

    def _has_begun(self) -> bool:
        return self._is_resumed and bool(
            self.state.stages or newest_checkpoint(self.folder / FLOAT_FIT / "checkpoints")
        )

    def _seed(self, stage: str) -> None:
        """Each stage is seeded by itself: it does not depend on which stages this process has run before."""
        L.seed_everything(self._seed_of(stage), workers=True, verbose=False)

    def _seed_of(self, stage: str) -> int:
        if stage != COMPRESSED_FIT:
            return int(self.config.seed)
        return int(np.random.SeedSequence([self.config.seed, 1]).generate_state(1)[0])

    def _rehearse(self) -> None:
        if not is_first():
            return
        exports = bool(self.config.rehearse) and not self.building.is_rehearsal
        seconds = rehearse_job(self.building, exports=exports)
        if exports:
            _say(f"all stages were rehearsed in {seconds:.1f} s; rehearse=false leaves out the export")

    def _float_fit(self) -> None:
        """Train without compression, or take the weights given."""
        module = self.building.float_module()
        if self.config.float_fit.enabled:
            self._fit(FLOAT_FIT, module)
        self.weights.keep(FLOAT_FIT, module)
        self._finish(FLOAT_FIT, lambda: ([self.weights.write(FLOAT_FIT)], []))

    def _float_package(self) -> None:
        def work() -> tuple[list[Path], list[Result]]:
            module = self.weights.module(FLOAT_FIT, FLOAT_FIT)
            export = self.building.export(FLOAT16, module)
            # As the callback does: after the one step of a rehearsal a network may overflow in half precision.
            export = dataclasses.replace(export, verify=export.verify and not self.building.is_rehearsal)
            recipe = self.building.recipe
            package = export.run(recipe.network_copy(module), recipe.example_inputs(module))
            _console.print(package_line(package))
            return [package.path], [self._measure(FLOAT16, package.path, FLOAT_FIT)]

        self._finish(FLOAT16, work)

    def _post_training(self) -> None:
        def work() -> tuple[list[Path], list[Result]]:
            results, files = [], []
            models = palettize_package(self.building.package(FLOAT16), widths(self.building))
            for width, model in models.items():
                name = f"post_training_{width}bit"
                files.append(save_package(model, self.building.package(name)))
                results.append(self._measure(name, files[-1], FLOAT_FIT))
                write_results([*self.results, *results], self.folder)
            return files, results

        self._finish(POST_TRAINING, work)

    def _compressed_fit(self) -> None:
        module = self.weights.module(FLOAT_FIT, COMPRESSED_FIT)
        self._fit(COMPRESSED_FIT, module, self.building.compression(module))
        # Of the network the package tells, which is no file of this stage: it is changed once it is measured.
        self.weights.keep(COMPRESSED_FIT, module, without=self.building.recipe.network_path(module))
        self._finish(COMPRESSED_FIT, lambda: ([self.weights.write(COMPRESSED_FIT)], []))

    def _compressed_package(self) -> None:
        name = self.config.compression.name

        def work() -> tuple[list[Path], list[Result]]:
            package = self.building.compressed_package()
            return [package], [self._measure(name, package, COMPRESSED_FIT)]

        self._finish(COMPRESSED, work)

    def _fit(self, stage: str, module: L.LightningModule, *first: L.Callback) -> None:
        folder = self.folder / stage
        newest = newest_checkpoint(folder / "checkpoints") if self._is_resumed else None
        begin_at = self.config[stage].ckpt_path if newest is None else str(newest[0])
        if newest is not None:
            _say(f"going on from step {newest[1]}, {shown(newest[0])}")
        assert self.progress is not None
        self._continuation = Continuation(self._seed_of(stage), folder, self.stops)
        last = [] if self.building.is_rehearsal else [StepClock(self.progress), self._continuation]
        rows = logged_rows(folder, newest[1]) if newest is not None else []
        trainer = self.building.trainer(stage, first, last)
        carry_on_log(trainer, rows)
        if self._launcher is None:
            self._launcher = trainer.strategy.launcher
        with warnings.catch_warnings():
            # Lightning 2.6 means the batches that `Continuation` passes over.
            warnings.filterwarnings(
                "ignore", "You're resuming from a checkpoint that ended before the epoch ended"
            )
            trainer.fit(module, datamodule=self.building.data, ckpt_path=begin_at)
        self._continuation = None
        if is_first():
            (folder / "checkpoints" / STOPPED).unlink(missing_ok=True)

    def _finish(self, stage: str, work: Callable[[], tuple[list[Path], list[Result]]]) -> None:
        """Do a stage's work on the first process, and write down that it is finished."""
        if is_alone() and not is_first():
            # Processes that a cluster has started, before their first fit.
            return

        def finish() -> None:
            assert self.progress is not None
            files, results = work()
            self.state.finish(stage, self.progress.end(), files, results)
            if results:
                write_results(self.results, self.folder)

        on_rank_zero(finish)

    def _measure(self, name: str, package: Path, fit: str) -> Result:
        """Run the package, as it is typed, in the module of a fit on this machine, and draw what it finds."""
        config = self.config
        value = measure_package(
            self.building.recipe,
            self.weights.module(fit, fit),
            package,
            self.folder,
            fast_dev_run=config.trainer.fast_dev_run,
            picture=Picture(self.folder / f"{name}.png", config.pictures.count, config.pictures.threshold),
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

    def _report(self) -> list[Result]:
        if not is_first():
            return []
        if self.results:
            print_whole(results_table(self.results))
            _say(f"results, packages and pictures: {self.folder}")
        return self.results


@rank_zero_only
def _say(text: str) -> None:
    _console.print(text, highlight=False, markup=False)


@rank_zero_only
def _announce(text: str) -> None:
    _console.rule(Text(text, "bold"), align="left")
