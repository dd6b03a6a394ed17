"""The torch model that `lightning-compress verify` compares a package with, and what both are run on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from lightning_compress.callback import Compression
from lightning_compress.callback.checkpoints import compression_states, read_checkpoint
from lightning_compress.commands.measuring import measure
from lightning_compress.commands.recipe import recipe_export, recipe_module
from lightning_compress.commands.samples import package_samples
from lightning_compress.coreml.tolerance import TIMES_ROUNDING, Tolerance
from lightning_compress.coreml.trace import convertible_copy
from lightning_compress.coreml.verification import Samples
from lightning_compress.coreml.verification.samples import image_samples
from lightning_compress.errors import ConfigurationError
from lightning_compress.package.inspection import PackageReport


@dataclass(frozen=True)
class Reference:
    """What a package is compared with.

    Attributes:
        module: In the exported form, on the CPU: as it was trained, in evaluation, where it was compressed.
        finalized: What was exported.
        samples: What both are run on.
        tolerance: How far they may be apart.
        pixel: One pixel in the unit of a detector's coordinates, or None.
        measure: From something that computes the outputs, what a white pixel is in its input, and a folder to
            write in, to the task's metric; None where there is no task.
    """

    module: nn.Module
    finalized: nn.Module
    samples: Samples
    tolerance: Tolerance
    pixel: float | None = None
    measure: Callable[[nn.Module, float, Path], float] | None = None


def reference_of_recipe(config: DictConfig, report: PackageReport) -> Reference:
    """A recipe's network with the weights of a checkpoint, finalized if it was compressed, and validation data.

    Raises:
        ConfigurationError: If there is no checkpoint, or it does not fit the recipe.
        DataError: If the data is missing or malformed.
    """
    data: L.LightningDataModule = instantiate(config.data)
    data.prepare_data()
    data.setup("fit")
    export = recipe_export(config, data, Path(config.package))
    module = recipe_module(config)
    trained, finalized = _networks(config, module)
    size = (config.data.image_size, config.data.image_size)
    images = (_validation_images(data, config.samples) * 255).round()
    tolerance = export.tolerance_for(size, quantized_activations="quantize" in report.operations)

    def measure_with(exported: nn.Module, white: float, folder: Path) -> float:
        evaluation: L.LightningModule = instantiate(config.recipe.evaluator, white=white)(exported)
        return measure(evaluation, data, config.recipe.metric, folder, limit_batches=config.limit_batches)

    return Reference(
        module=convertible_copy(export.wrapped(trained)),
        finalized=convertible_copy(export.wrapped(finalized)),
        samples=image_samples(list(torch.split(images, 1)), export.image),
        tolerance=tolerance,
        pixel=1 / max(size) if config.recipe.task == "detection" else None,
        measure=measure_with,
    )


def reference_of_saved_module(config: DictConfig, report: PackageReport) -> Reference:
    """A module that was saved whole, as TorchScript or by `torch.export`.

    Raises:
        ConfigurationError: If there is none, or it cannot be read.
        DataError: If the inputs cannot be read.
    """
    module = _saved_module(config.checkpoint, report)
    samples = package_samples(report, config.inputs, config.samples)
    times = TIMES_ROUNDING if "quantize" in report.operations else 0.0
    return Reference(module, module, samples, Tolerance(times_rounding=times))


def _validation_images(data: L.LightningDataModule, count: int) -> Tensor:
    images: list[Tensor] = []
    for batch in data.val_dataloader():
        images += torch.split(batch[0], 1)
        if len(images) >= count:
            break
    return torch.cat(images[:count])


def _networks(config: DictConfig, module: L.LightningModule) -> tuple[nn.Module, nn.Module]:
    """The network as it was trained, and finalized; one and the same where nothing was compressed."""
    if config.checkpoint is None:
        if config.recipe.module.get("weights") is None:
            raise ConfigurationError(
                "checkpoint is empty, so there is no torch model to compare the package with; give a checkpoint of "
                "the recipe's fit, or pretrained weights by recipe.module.weights"
            )
        network = module.get_submodule(config.recipe.network)
        return network, network
    checkpoint = read_checkpoint(config.checkpoint)
    if compression_states(checkpoint):
        compression = Compression.load_from_checkpoint(config.checkpoint, module)
        return compression.trained(), compression.finalize()
    try:
        module.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise ConfigurationError(
            f"checkpoint={str(config.checkpoint)!r} does not fit recipe={config.recipe.name}: {error}"
        ) from error
    network = module.get_submodule(config.recipe.network)
    return network, network


def _saved_module(path: str | None, report: PackageReport) -> nn.Module:
    if path is None:
        made_by = report.user_metadata.get("recipe")
        hint = f" (its metadata says recipe={made_by})" if made_by else ""
        raise ConfigurationError(
            f"there is nothing to compare the package with{hint}; give recipe=... with checkpoint=..., or "
            "checkpoint=... alone with a saved TorchScript module or .pt2 program"
        )
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigurationError(f"checkpoint={path!r} is no file")
    try:
        if file.suffix == ".pt2":
            return torch.export.load(file).module()
        module: nn.Module = torch.jit.load(str(file), map_location="cpu")  # type: ignore[no-untyped-call]
        return module.eval()
    except Exception as error:
        raise ConfigurationError(
            f"checkpoint={path!r} is neither a TorchScript archive nor a .pt2 program: {error}. A checkpoint of "
            "Lightning needs its recipe=..."
        ) from error
