"""What a job does before its first step, to find out whether all of its stages can succeed."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import ListConfig

from lightning_compress.callback.checkpoints import (
    check_configuration,
    check_version,
    read_checkpoint,
    select_state,
)
from lightning_compress.callback.finishing import rehearse
from lightning_compress.callback.inputs import as_inputs
from lightning_compress.callback.placement import Placement
from lightning_compress.callback.strategies import check_precision, check_strategy
from lightning_compress.commands.measuring import Picture, measure_package, without_notices
from lightning_compress.commands.jobs.building import FITS, Building, check_checkpoint
from lightning_compress.coreml.post_training import PostTrainingForm, require_compressible
from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.joining import in_order
from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.mechanism.schedule import FitLength


def rehearse_job(building: Building, *, exports: bool) -> float:
    """Find out in the first seconds what would end a job after hours.

    Trainers, modules and what they go on from are looked at. With `exports`, an untrained float16 package and an
    untrained compressed one are converted and loaded, one batch is trained on, one is measured and one picture drawn;
    nothing stays.

    Args:
        building: Of the job; its data are set up.
        exports: Whether to convert, too.

    Returns:
        Seconds that it took.

    Raises:
        CompressionError: What would have ended the job.
    """
    started = time.perf_counter()
    with without_notices():
        for stage in FITS if building.methods else FITS[:1]:
            trainer = building.trainer(stage)
    if building.methods:
        check_strategy(trainer)
        check_precision(trainer, building.methods)
    bits = widths(building)
    _rehearse_float(building, bits, exports)
    if building.methods:
        _rehearse_compressed(building, exports)
    return time.perf_counter() - started


def widths(building: Building) -> list[int]:
    """The widths at which the float16 package is palettized.

    Raises:
        ConfigurationError: They are no list, or one is no width that Core ML has.
    """
    given = building.config.post_training_bits
    if given is None:
        return []
    if not isinstance(given, ListConfig | list):
        raise ConfigurationError(
            f"post_training_bits={given!r} is no list; give widths such as post_training_bits=[{given}], or [] for none"
        )
    bits: list[int] = list(given)
    try:
        _forms(bits)
    except ConfigurationError as error:
        raise ConfigurationError(f"post_training_bits={bits}: {error}") from error
    return bits


def _forms(bits: Sequence[int]) -> list[PostTrainingForm]:
    return [PostTrainingForm(palettize=width) for width in bits]


def _rehearse_float(building: Building, bits: Sequence[int], exports: bool) -> None:
    stage = building.config.float_fit
    module = building.float_module()
    if stage.enabled and stage.ckpt_path is not None:
        check_checkpoint(stage.ckpt_path, "float_fit.ckpt_path", module)
    export = building.export("float16", module)
    export.validate()
    if not exports:
        return
    if stage.enabled:
        _try_step(building)

    def try_package(package: Path) -> None:
        if bits:
            require_compressible(package, _forms(bits))
        _try_measuring(building, package)

    recipe = building.recipe
    export.rehearse(recipe.network_copy(module), recipe.example_inputs(module), further=try_package)


def _try_step(building: Building) -> None:
    """Train a module that is thrown away on one batch."""
    stage = building.config.float_fit
    with tempfile.TemporaryDirectory() as folder, without_notices(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(
            accelerator=building.config.trainer.get("accelerator", "auto"),
            devices=1,
            gradient_clip_val=stage.trainer.get("gradient_clip_val"),
            fast_dev_run=True,
            limit_val_batches=0,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[_RequireLoss()],
        )
        trainer.fit(building.module("float_fit"), datamodule=building.data)


class _RequireLoss(L.Callback):
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.automatic_optimization and not outputs:
            raise ConfigurationError(
                f"training_step of {type(pl_module).__name__} returns nothing, so that nothing would be trained; "
                "let it return the loss"
            )


def _try_measuring(building: Building, package: Path) -> None:
    pictures = building.config.pictures
    measure_package(
        building.recipe,
        building.module("float_fit"),
        package,
        package.parent,
        limit_batches=1,
        picture=Picture(package.parent / "picture.png", min(1, pictures.count), pictures.threshold),
    )


def _rehearse_compressed(building: Building, exports: bool) -> None:
    stage = building.config.compressed_fit
    module = building.module("compressed_fit")
    network = building.recipe.network_path(module)
    if stage.ckpt_path is not None:
        _check_compressed_checkpoint(building, str(stage.ckpt_path), network)
    inputs = as_inputs(building.recipe.example_inputs(module), "example_input_array")
    prepared = PreparedModule(Placement.find(module, network).module, building.methods)
    steps = building.steps("compressed_fit")
    if steps is not None and steps > 0:
        prepared.resolve_schedule(FitLength(steps, rehearsal=building.is_rehearsal))
    export = building.export(building.config.compression.name, module)
    export.validate(prepared.capabilities)
    if exports:
        rehearse(prepared, export, inputs)


def _check_compressed_checkpoint(building: Building, path: str, network: str) -> None:
    key = f"compressed_fit.ckpt_path={path!r}"
    try:
        checkpoint = read_checkpoint(path)
        state = select_state(checkpoint, network, path)
        check_version(state)
        check_configuration(
            state["configuration"], [method.describe() for method in in_order(building.methods)]
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"{key}: {error}") from error
    if "optimizer_states" not in checkpoint:
        raise ConfigurationError(f"{key} holds weights alone, and a fit cannot go on from it")
