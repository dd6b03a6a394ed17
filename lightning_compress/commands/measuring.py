"""How well a package does the job, and what it finds, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from torchvision.utils import save_image

from lightning_compress.commands.recipe import Recipe
from lightning_compress.methods.mechanism.agreement import Call
from lightning_compress.tasks import InPlace
from lightning_compress.tasks.calls import CallRecorder
from lightning_compress.tasks.measuring import measure


@dataclass(frozen=True)
class Picture:
    """What a package finds in the first samples of the validation data, drawn where its task has a picture.

    Attributes:
        path: Of the PNG file.
        count: How many samples; 0 for no picture.
        threshold: Least confidence that is drawn.
        columns: Images in a row; None for what suits the task.
    """

    path: Path
    count: int
    threshold: float
    columns: int | None = None


def measure_package(
    recipe: Recipe,
    module: L.LightningModule,
    package: Path,
    folder: Path,
    *,
    precision: str = "float16",
    fast_dev_run: bool | int = False,
    limit_batches: int | float | None = None,
    picture: Picture | None = None,
) -> float:
    """The metric of a package, by the validation of a LightningModule in which it stands for the network.

    Args:
        recipe: Says what the network is, and its task.
        module: Used up by this: the package takes the place of its network.
        package: Path of the package.
        folder: Where a Trainer may write.
        precision: As `runtime.load` takes it.
        fast_dev_run: As Lightning's.
        limit_batches: As Lightning's `limit_val_batches`.
        picture: What to draw beside.

    Raises:
        ConfigurationError: The metric is not logged, or the validation asks for more than the network's outputs.
    """
    placed = recipe.in_place(module, package, precision)
    with CallRecorder(placed, samples=picture.count if picture is not None else 0) as recorder:
        value = measure(
            module, recipe.data, recipe.metric, folder, fast_dev_run=fast_dev_run, limit_batches=limit_batches
        )
    if picture is not None and picture.count and placed.image is not None and recorder.calls:
        _draw(recipe, placed, recorder.calls, picture)
    return value


def _draw(recipe: Recipe, placed: InPlace, calls: Sequence[Call], picture: Picture) -> None:
    inputs = [placed.inputs(*call.arguments, **call.keywords) for call in calls]
    first = [torch.cat(tensors)[: picture.count] for tensors in zip(*inputs, strict=True)]
    drawn = recipe.task.picture(
        first[0],
        placed.outputs(first),
        recipe.classes,
        threshold=picture.threshold,
        columns=picture.columns,
    )
    if drawn is not None:
        picture.path.parent.mkdir(parents=True, exist_ok=True)
        save_image(drawn, picture.path)
