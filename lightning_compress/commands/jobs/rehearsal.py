"""What a job does before its first step, to find out whether all of its stages can succeed."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L

from lightning_compress.callback.checkpoints import (
    check_configuration,
    check_version,
    read_checkpoint,
    select_state,
)
from lightning_compress.callback.distillation.inner import losses_by_name
from lightning_compress.callback.distillation.requirements import require_same_distillation
from lightning_compress.callback.finishing import rehearse
from lightning_compress.callback.inputs import as_inputs
from lightning_compress.callback.notices import without_notices
from lightning_compress.callback.strategies import check_precision, check_strategy
from lightning_compress.commands.jobs.building import COMPRESSED_FIT, FLOAT_FIT, Building, check_checkpoint
from lightning_compress.commands.measuring import Picture, measure_package
from lightning_compress.coreml.post_training import PostTrainingForm, require_compressible
from lightning_compress.coreml.rewriting import WEIGHT_THRESHOLD
from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.joining import in_order
from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.mechanism.schedule import FitLength


def rehearse_trainers(building: Building, fits: Sequence[str]) -> None:
    """Build the Trainers of fits, and look at what compression asks of theirs."""
    for fit in fits:
        with without_notices():
            trainer = building.trainer(fit)
        if fit == COMPRESSED_FIT:
            check_strategy(trainer)
            check_precision(trainer, building.methods)


def rehearse_float(
    building: Building,
    forms: Sequence[PostTrainingForm],
    *,
    weight_threshold: int = WEIGHT_THRESHOLD,
    exports: bool,
) -> None:
    """Look at the float fit and what it begins with; its package after training, too.

    Args:
        building: Of the job; its data are set up.
        forms: In which the weights of the float16 package will be stored after training.
        weight_threshold: Weights with no more elements will stay dense after training.
        exports: Whether to train on one batch, convert an untrained package, load and measure it, and draw a picture;
            nothing stays.

    Raises:
        CompressionError: What would have ended the job.
    """
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
        if forms:
            require_compressible(package, forms, weight_threshold=weight_threshold)
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
        trainer.fit(building.module(FLOAT_FIT), datamodule=building.data)


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
        building.module(FLOAT_FIT),
        package,
        package.parent,
        limit_batches=1,
        picture=Picture(package.parent / "picture.png", min(1, pictures.count), pictures.threshold),
    )


def rehearse_compressed(building: Building, *, exports: bool) -> None:
    """Look at the fit with compression and its schedule, and whether its package can hold it.

    Args:
        building: Of the job; its data are set up.
        exports: Whether to convert an untrained compressed package, too; nothing stays.

    Raises:
        CompressionError: What would have ended the job.
    """
    stage = building.config.compressed_fit
    module = building.module(COMPRESSED_FIT)
    if stage.ckpt_path is not None:
        _check_compressed_checkpoint(building, str(stage.ckpt_path), building.recipe.network_path(module))
    inputs = as_inputs(building.recipe.example_inputs(module), "example_input_array")
    network = building.recipe.network(module)
    if building.distillation is not None:
        losses_by_name(building.distillation.modules, network, building.distillation.teacher or network)
    prepared = PreparedModule(network, building.methods)
    steps = building.steps(COMPRESSED_FIT)
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
        distillation = building.distillation
        require_same_distillation(
            state.get("distillation"), None if distillation is None else distillation.describe(), path
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"{key}: {error}") from error
    if "optimizer_states" not in checkpoint:
        raise ConfigurationError(f"{key} holds weights alone, and a fit cannot go on from it")
