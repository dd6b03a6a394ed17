"""A recipe, or a module of one's own, as a search sees it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import lightning as L
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from lightning_compress.commands.explore.fit import fit_job
from lightning_compress.commands.explore.step_timing import seconds_of_step
from lightning_compress.commands.jobs.building import COMPRESSED_FIT, FLOAT_FIT, Building
from lightning_compress.commands.jobs.part_job import PartJob
from lightning_compress.commands.jobs.weights import FitWeights
from lightning_compress.commands.measuring import Picture, measure_package
from lightning_compress.coreml.export import ExportedPackage
from lightning_compress.explore.compressing import Compressed
from lightning_compress.explore.forms import Form
from lightning_compress.explore.making import FIT
from lightning_compress.explore.subject import FitLength
from lightning_compress.methods.mechanism.agreement import Call
from lightning_compress.stopping import Stops
from lightning_compress.tasks import InPlace
from lightning_compress.tasks.calls import CallRecorder
from lightning_compress.tasks.measuring import measure

_COMPRESSED_STEP = 1.3
"""What a step with palettes takes of a plain one, at most, on the networks of the benchmarks."""


class RecipeSubject:
    """What a configuration describes, with the weights that its float fit has ended with.

    Args:
        building: Makes modules, data and exports.
        weights: Of the float fit.
        folder: Of the search.
        stops: Tells of signals.
        run_fit: Runs a fit as part of the stage that is the search.
    """

    def __init__(
        self,
        building: Building,
        weights: FitWeights,
        folder: Path,
        stops: Stops,
        run_fit: Callable[[PartJob], None],
    ) -> None:
        self._building = building
        self._recipe = building.recipe
        self._config = building.config
        self._weights = weights
        self._folder = folder
        self._stops = stops
        self._run_fit = run_fit

    @property
    def metric(self) -> str:
        """Name of the metric, as it is logged."""
        return self._recipe.metric

    @property
    def data(self) -> L.LightningDataModule:
        """The data."""
        return self._building.data

    @functools.cached_property
    def digest(self) -> str:
        """Of the float weights, and of the configuration of module, data and export."""
        total = hashlib.sha256()
        for name, value in sorted(self._module().state_dict().items()):
            total.update(name.encode())
            total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        for key in ("recipe", "data", "export", COMPRESSED_FIT, "seed"):
            content = OmegaConf.to_container(OmegaConf.create({key: self._config[key]}), resolve=False)
            total.update(json.dumps(content, sort_keys=True, default=str).encode())
        return total.hexdigest()

    def network(self) -> nn.Module:
        """A copy of the network with the float weights."""
        return self._recipe.network_copy(self._module()).float()

    def comparable(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """As the task compares outputs."""
        return self._recipe.task.comparable(outputs)

    def calls(self, data: L.LightningDataModule, batches: int) -> Sequence[Call]:
        """What the network is called with in validation."""
        module = self._module()
        with CallRecorder(self._recipe.network(module), samples=1 << 30) as recorder:
            measure(module, data, self.metric, self._folder, limit_batches=batches, shows_progress=False)
        return recorder.calls

    def export(self, compressed: Compressed, path: Path, *, verifies: bool) -> ExportedPackage:
        """Make a package of a finalized copy of the network."""
        module = self._module()
        export = self._recipe.export(path, module)
        export = dataclasses.replace(
            export,
            verify=export.verify and verifies,
            card=export.card and verifies,
            minimum_deployment_target=self._config.explore.target or export.minimum_deployment_target,
        )
        return export.run(compressed.network, self._recipe.example_inputs(module), compressed.capabilities)

    def placed(self, package: Path) -> tuple[L.LightningModule, InPlace]:
        """A new module in which a package stands for the network, and what stands there."""
        module = self._module_of(package)
        return module, self._recipe.in_place(module, package)

    def fit_length(self, share: float) -> FitLength | None:
        """How long a fit of a share of the configured length is."""
        whole = self._building.steps(COMPRESSED_FIT)
        if not whole:
            return None
        steps = max(1, round(share * whole))
        return FitLength(steps, steps * self._step_seconds * _COMPRESSED_STEP)

    def fit(self, name: str, forms: Mapping[str, Form], share: float, folder: Path) -> Path:
        """Train, or go on with that."""
        length = self.fit_length(share)
        assert length is not None
        job = fit_job(
            self._config, name, forms, length.steps, folder, self._folder, self._stops, self._building.data
        )
        self._run_fit(job)
        return job.building.compressed_package()

    def draw(self, package: Path, picture: Path) -> bool:
        """Draw what a package finds in the first samples."""
        pictures = self._config.pictures
        if pictures.count:
            measure_package(
                self._recipe,
                self._module_of(package),
                package,
                self._folder,
                limit_batches=1,
                picture=Picture(picture, pictures.count, pictures.threshold),
            )
        return picture.is_file()

    @functools.cached_property
    def _step_seconds(self) -> float:
        return seconds_of_step(self._building)

    def _module(self) -> L.LightningModule:
        return self._weights.module(FLOAT_FIT, FLOAT_FIT).eval()

    def _module_of(self, package: Path) -> L.LightningModule:
        """What stands around the network was trained with it."""
        fit = package.parent / FIT
        if not (fit / COMPRESSED_FIT).is_dir():
            return self._module()
        return FitWeights(self._building, fit).module(COMPRESSED_FIT, COMPRESSED_FIT).eval()
