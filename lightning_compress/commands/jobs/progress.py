"""How far a job is, and about how long it has left, from what its steps and stages took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from lightning_compress.callback.fit import callbacks_of
from lightning_compress.callback.progress_bar import FitProgressBar
from lightning_compress.durations import duration


class JobProgress:
    """Where a job stands.

    Args:
        stages: Names of the stages, in order, as they are shown.
        steps: Optimizer steps of each stage with a fit; None where that is not known beforehand.
        packages: How many packages each stage makes and measures that makes any, after its fit if it has one.
    """

    def __init__(self, stages: Sequence[str], steps: dict[str, int | None], packages: dict[str, int]) -> None:
        self.stages = list(stages)
        self.steps = steps
        self.packages = packages
        self.stage: str | None = None
        self._began = time.monotonic()
        self._packages_began = self._stage_began = self._began
        self._step_seconds: float | None = None
        self._package_seconds: float | None = None
        self._steps_done = 0

    def begin(self, stage: str) -> str:
        """Begin a stage; returns the line that announces it."""
        self.stage, self._steps_done = stage, 0
        self._packages_began = self._stage_began = time.monotonic()
        parts = [self.place()]
        if self._stage_began - self._began >= 1:
            parts.append(f"{duration(self._stage_began - self._began)} so far")
        left = self.seconds_left()
        if left is not None:
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts)

    def place(self) -> str:
        """The present stage and its number."""
        if self.stage is None:
            return "no stage yet"
        return f"stage {self.stages.index(self.stage) + 1} of {len(self.stages)}: {self.stage}"

    def end(self) -> float:
        """End the stage; returns its seconds."""
        assert self.stage is not None
        now = time.monotonic()
        if self.stage in self.packages:
            self._package_seconds = (now - self._packages_began) / max(self.packages[self.stage], 1)
        return now - self._stage_began

    def learn(self, stage: str, seconds: float) -> None:
        """Take what a stage took that was finished before."""
        steps, packages = self.steps.get(stage), self.packages.get(stage)
        if stage in self.steps and not packages and steps:
            self._step_seconds = seconds / steps
        elif packages and stage not in self.steps:
            self._package_seconds = seconds / packages

    def stepped(self, done: int, total: int | None, seconds: float) -> None:
        """A step of the fit that is the present stage has ended.

        Args:
            done: Optimizer steps of the fit so far.
            total: Optimizer steps of the fit, where that is known.
            seconds: What a step of this fit takes.
        """
        assert self.stage is not None
        if total is not None:
            self.steps[self.stage] = total
        self._steps_done, self._step_seconds = done, seconds
        self._packages_began = time.monotonic()

    def seconds_left(self) -> float | None:
        """About how long the job will take from now; None before anything was measured."""
        assert self.stage is not None
        total = 0.0
        for stage in self.stages[self.stages.index(self.stage) :]:
            if stage in self.packages:
                # Until one was measured, packages are taken for quick.
                total += (self._package_seconds or 0.0) * self.packages[stage]
            steps = self.steps.get(stage, 0)
            if steps == 0:
                continue
            if self._step_seconds is None or steps is None:
                return None
            done = self._steps_done if stage == self.stage else 0
            total += max(steps - done, 0) * self._step_seconds
        return total

    def note(self) -> str:
        """What stands beside the bar of a fit."""
        assert self.stage is not None
        left = self.seconds_left()
        place = f"stage {self.stages.index(self.stage) + 1} of {len(self.stages)}"
        return place if left is None else f"{place}, {duration(left)} left"


class StepClock(Callback):
    """Measures the steps of a fit for a `JobProgress`, and keeps the note of the progress bars up to date."""

    def __init__(self, progress: JobProgress) -> None:
        self.progress = progress
        self._began: tuple[float, int] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to measure."""
        self._began = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure, from the second step on: the first one loads and compiles what later ones have."""
        now, step = time.monotonic(), trainer.global_step
        if self._began is None:
            if step > 0:
                self._began = now, step
        elif step > self._began[1]:
            since, first = self._began
            total = trainer.estimated_stepping_batches
            self.progress.stepped(
                step, int(total) if 0 < total < float("inf") else None, (now - since) / (step - first)
            )
        for callback in callbacks_of(trainer):
            if isinstance(callback, FitProgressBar):
                callback.note = self.progress.note()
