"""A LightningModule and its data, given as objects, as a search sees them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torchvision.utils import save_image

from lightning_compress.callback import Compression
from lightning_compress.callback.notices import without_notices
from lightning_compress.callback.placement import Placement
from lightning_compress.copying import copy_whole
from lightning_compress.coreml.export import CoreMLExport, ExportedPackage
from lightning_compress.explore.compressing import Compressed
from lightning_compress.explore.forms import Form, methods_of
from lightning_compress.explore.making import FIT
from lightning_compress.explore.subject import FitLength
from lightning_compress.methods.mechanism.agreement import Call
from lightning_compress.runtime import load
from lightning_compress.tasks import InPlace, Task
from lightning_compress.tasks.calls import CallRecorder
from lightning_compress.tasks.measuring import measure
from lightning_compress.tasks.putting import network_inputs, put_in_place

_SAMPLES = 4
"""In a picture."""

_OUTSIDE = "outside_of_network.pt"
"""The file in the folder of a fit with what was trained beside the network."""

MakeTrainer = Callable[[int, Sequence[L.Callback]], L.Trainer]
"""Makes the Trainer of a fit of so many steps, with some callbacks."""


class ModuleSubject:
    """Searched as it is: the module holds the float weights.

    Args:
        module: The LightningModule; it is copied, and stays as it is.
        data: Its data, set up or not.
        metric: Name of the metric, as validation logs it.
        network: Path of the network in the module; None for its only child with parameters.
        task: What the network is for.
        export: How packages are made; its path is replaced.
        steps: Optimizer steps of a fit of full length; None where nothing is trained.
        make_trainer: Makes the Trainer of a fit; by default one on this machine.
        classes: Names of the classes, for the picture.
    """

    def __init__(
        self,
        module: L.LightningModule,
        data: L.LightningDataModule,
        metric: str,
        *,
        network: str | None = None,
        task: Task | None = None,
        export: CoreMLExport | None = None,
        steps: int | None = None,
        make_trainer: MakeTrainer | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        data.prepare_data()
        data.setup("fit")
        self.metric = metric
        self.data = data
        self._held = copy_whole(module).cpu()
        self._path = Placement.find(self._held, network).path
        self._task = task or Task()
        self._export = export or CoreMLExport("network.mlpackage")
        self._steps = steps
        self._make_trainer = make_trainer or _trainer
        self._classes = list(classes)

    @functools.cached_property
    def digest(self) -> str:
        """Of the weights, and of how packages are made."""
        total = hashlib.sha256(repr((self.metric, self._path, self._export, self._steps)).encode())
        for name, value in sorted(self._held.state_dict().items()):
            total.update(name.encode())
            total.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return total.hexdigest()

    def network(self) -> nn.Module:
        """A copy of the network."""
        return copy_whole(self._network(self._held)).float().eval()

    def comparable(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """As the task compares outputs."""
        return self._task.comparable(outputs)

    def calls(self, data: L.LightningDataModule, batches: int) -> Sequence[Call]:
        """What the network is called with in validation."""
        module = self._copy()
        with CallRecorder(self._network(module), samples=1 << 30) as recorder:
            measure(module, data, self.metric, Path.cwd(), limit_batches=batches, shows_progress=False)
        return recorder.calls

    def export(self, compressed: Compressed, path: Path, *, verifies: bool) -> ExportedPackage:
        """Make a package of a finalized copy of the network."""
        export = dataclasses.replace(
            self._task.interface(self._export, self._classes),
            path=path,
            verify=self._export.verify and verifies,
            card=self._export.card and verifies,
        )
        return export.run(compressed.network, self._inputs(), compressed.capabilities)

    def placed(self, package: Path) -> tuple[L.LightningModule, InPlace]:
        """A copy of the module in which a package stands for the network, and what stands there."""
        module = self._copy()
        outside = package.parent / FIT / _OUTSIDE
        if outside.is_file():
            # What stands around the network was trained with it.
            module.load_state_dict(torch.load(outside, weights_only=True), strict=False)
        network = self._network(module)
        loaded = load(package, precision="float16")
        return module, put_in_place(module, self._path, network, loaded, self._task, self._export.image)

    def fit_length(self, share: float) -> FitLength | None:
        """How long a fit of a share of the full length is."""
        if not self._steps:
            return None
        steps = max(1, round(share * self._steps))
        return FitLength(steps, steps * self._step_seconds)

    def fit(self, name: str, forms: Mapping[str, Form], share: float, folder: Path) -> Path:
        """Train a copy; what a fit that was stopped had done is lost."""
        length = self.fit_length(share)
        assert length is not None
        if folder.exists():
            shutil.rmtree(folder)
        path = folder / f"{name}.mlpackage"
        folder.mkdir(parents=True)
        export = dataclasses.replace(self._task.interface(self._export, self._classes), path=path)
        compression = Compression(*methods_of(forms), module=self._path, export=export, rehearse=False)
        module = copy_whole(self._held).train()
        self._make_trainer(length.steps, [compression]).fit(module, datamodule=self.data)
        within = f"{self._path}."
        state = module.state_dict()
        torch.save(
            {name: value for name, value in state.items() if not name.startswith(within)}, folder / _OUTSIDE
        )
        return path

    def draw(self, package: Path, picture: Path) -> bool:
        """Draw what a package finds in the first samples, where the task has a picture."""
        module, placed = self.placed(package)
        if placed.image is None:
            return False
        with CallRecorder(placed, samples=_SAMPLES) as recorder:
            measure(module, self.data, self.metric, picture.parent, limit_batches=1, shows_progress=False)
        inputs = placed.inputs(*recorder.calls[0].arguments, **recorder.calls[0].keywords)
        first = [tensor[:_SAMPLES] for tensor in inputs]
        drawn = self._task.picture(
            first[0], placed.outputs(first), self._classes, threshold=0.3, columns=None
        )
        if drawn is not None:
            save_image(drawn, picture)
        return drawn is not None

    @functools.cached_property
    def _step_seconds(self) -> float:
        module = copy_whole(self._held).train()
        trainer = self._make_trainer(2, [])
        began = time.perf_counter()
        with without_notices():
            trainer.fit(module, datamodule=self.data)
        return (time.perf_counter() - began) / 2

    def _copy(self) -> L.LightningModule:
        copied: L.LightningModule = copy_whole(self._held)
        return copied.eval()

    def _network(self, module: L.LightningModule) -> nn.Module:
        return Placement.find(module, self._path).module

    def _inputs(self) -> Any:
        return network_inputs(self._held, self._path, self._network(self._held))


def _trainer(steps: int, callbacks: Sequence[L.Callback]) -> L.Trainer:
    return L.Trainer(
        max_steps=steps,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
