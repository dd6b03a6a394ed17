"""The stages of `lightning-compress train`."""

from __future__ import annotations

from pathlib import Path

from lightning_compress.commands.jobs.building import COMPRESSED_FIT, FLOAT_FIT
from lightning_compress.commands.jobs.job import FLOAT16, Job, Stage
from lightning_compress.commands.results import Result, write_results
from lightning_compress.commands.train.rehearsal import rehearse_training, widths
from lightning_compress.coreml.post_training import palettize_package
from lightning_compress.package.save import save_package

POST_TRAINING, COMPRESSED = "post_training", "compressed"


class TrainingJob(Job):
    """A float fit, packages palettized after it, and a fit with compression; the arguments are those of every `Job`."""

    command = "train"

    def stages(self) -> list[Stage]:
        """The float fit, its package, those palettized after training, the fit with compression, and its package."""
        stages = self.float_stages()
        bits = widths(self.building)
        if bits:
            stages.append(
                Stage(POST_TRAINING, "palettization after training", self._post_training, packages=len(bits))
            )
        if self.building.methods:
            name = self.config.compression.name
            title = f"fit with {name}" if self.building.is_trained else f"{name} by data, without a fit"
            stages += [
                Stage(
                    COMPRESSED_FIT,
                    title,
                    self._compressed_fit,
                    steps=lambda: self.building.steps(COMPRESSED_FIT),
                ),
                Stage(COMPRESSED, f"{name} package", self._compressed_package, packages=1),
            ]
        return stages

    def rehearse(self, *, exports: bool) -> float:
        """Try both fits and all packages."""
        return rehearse_training(self.building, exports=exports)

    def _post_training(self) -> None:
        def work() -> tuple[list[Path], list[Result]]:
            results, files = [], []
            models = palettize_package(self.building.package(FLOAT16), widths(self.building))
            for width, model in models.items():
                name = f"post_training_{width}bit"
                files.append(save_package(model, self.building.package(name)))
                results.append(self.measure(name, files[-1], FLOAT_FIT))
                write_results([*self.results, *results], self.folder)
            return files, results

        self.finish(POST_TRAINING, work)

    def _compressed_fit(self) -> None:
        if self.building.is_trained:
            self.fit_compressed()
            self.finish(COMPRESSED_FIT, lambda: ([self.weights.write(COMPRESSED_FIT)], []))
            return

        def work() -> tuple[list[Path], list[Result]]:
            self.calibrate_compressed()
            return [self.weights.write(COMPRESSED_FIT)], []

        self.finish(COMPRESSED_FIT, work)

    def _compressed_package(self) -> None:
        name = self.config.compression.name

        def work() -> tuple[list[Path], list[Result]]:
            package = self.building.compressed_package()
            return [package], [self.measure(name, package, COMPRESSED_FIT)]

        self.finish(COMPRESSED, work)
