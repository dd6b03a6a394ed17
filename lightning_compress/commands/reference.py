"""The torch model that `lightning-compress verify` compares a package with, and what both are run on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from omegaconf import DictConfig
from torch import nn

from lightning_compress.callback import Compression
from lightning_compress.callback.checkpoints import compression_states, read_checkpoint
from lightning_compress.commands.measuring import measure_package
from lightning_compress.commands.recipe import Recipe
from lightning_compress.commands.samples import package_samples
from lightning_compress.commands.weights import load_weights
from lightning_compress.coreml.image import ImageInput
from lightning_compress.coreml.structure import Arguments, by_position
from lightning_compress.coreml.tolerance import TIMES_ROUNDING, Tolerance
from lightning_compress.coreml.trace import convertible_copy
from lightning_compress.coreml.verification import Samples
from lightning_compress.coreml.verification.samples import image_samples
from lightning_compress.errors import ConfigurationError
from lightning_compress.package.explaining import reason
from lightning_compress.package.inspection import PackageReport
from lightning_compress.tasks.calls import CallRecorder
from lightning_compress.tasks.in_place import as_pixels
from lightning_compress.tasks.measuring import measure


@dataclass(frozen=True)
class Reference:
    """What a package is compared with.

    Attributes:
        module: In the exported form, on the CPU: as it was trained, in evaluation, where it was compressed.
        finalized: What was exported.
        samples: What both are run on.
        tolerance: How far they may be apart.
        pixel: One pixel in the unit of a detector's coordinates, or None.
        measure: The task's metric of the trained module and of the package, with a folder to write in; None where there
            is no task.
    """

    module: nn.Module
    finalized: nn.Module
    samples: Samples
    tolerance: Tolerance
    pixel: float | None = None
    measure: Callable[[Path], tuple[float, float]] | None = None


def reference_of_recipe(config: DictConfig, report: PackageReport) -> Reference:
    """A recipe's network with the weights of a checkpoint, finalized if it was compressed, and validation data.

    Raises:
        ConfigurationError: If there is no checkpoint, or it does not fit the recipe.
        DataError: If the data is missing or malformed.
    """
    recipe = Recipe(config)
    recipe.data.prepare_data()
    recipe.data.setup("fit")
    lit = recipe.module()
    export = recipe.export(Path(config.package), lit)
    trained, finalized = _networks(config, recipe, lit)
    example_inputs = recipe.example_inputs(lit)
    samples = _validation_samples(recipe, lit, export.image, config.samples)
    first = samples.module[0][0]
    size = None if export.image is None else (first.shape[-2], first.shape[-1])

    def measured(folder: Path) -> tuple[float, float]:
        limit = config.limit_batches
        # First the module: the package takes the place of its network.
        of_module = measure(lit, recipe.data, recipe.metric, folder, limit_batches=limit)
        package = Path(config.package)
        return of_module, measure_package(
            recipe, lit, package, folder, precision=config.precision, limit_batches=limit
        )

    return Reference(
        module=by_position(convertible_copy(export.wrapped(trained)), example_inputs),
        finalized=by_position(convertible_copy(export.wrapped(finalized)), example_inputs),
        samples=samples,
        tolerance=export.tolerance_for(size, quantized_activations="quantize" in report.operations),
        pixel=recipe.task.pixel(export, size),
        measure=measured,
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


def _validation_samples(
    recipe: Recipe, lit: L.LightningModule, image: ImageInput | None, count: int
) -> Samples:
    """What the network is called with in the first validation steps, one sample each; images as whole pixels."""
    network = recipe.network(lit)
    with CallRecorder(network, samples=count) as recorder, tempfile.TemporaryDirectory() as folder:
        batches = max(1, -(-count // max(1, getattr(recipe.data, "batch_size", 1) or 1)))
        measure(lit, recipe.data, recipe.metric, Path(folder), limit_batches=batches)
    arguments = Arguments(network, recipe.example_inputs(lit))
    calls = [arguments.tensors(call.arguments, call.keywords) for call in recorder.calls]
    joined = [torch.cat(tensors)[:count] for tensors in zip(*calls, strict=True)]
    if not joined:
        raise ConfigurationError(
            f"validation of {type(lit).__name__} does not call its network {recipe.network_path(lit)!r}, so that there "
            "is nothing to compare the package on"
        )
    samples = list(zip(*(torch.split(tensor, 1) for tensor in joined), strict=True))
    if image is None:
        return Samples(samples, samples)
    pixels = [as_pixels(sample[0], image).clamp(0, 255).round() for sample in samples]
    pairs = [
        image_samples([picture], image, sample[1:]) for picture, sample in zip(pixels, samples, strict=True)
    ]
    return Samples(
        [sample for pair in pairs for sample in pair.package],
        [sample for pair in pairs for sample in pair.module],
    )


def _networks(config: DictConfig, recipe: Recipe, lit: L.LightningModule) -> tuple[nn.Module, nn.Module]:
    """The network as it was trained, and finalized; one and the same where nothing was compressed."""
    network = recipe.network(lit)
    if config.checkpoint is None:
        if config.recipe.module.get("weights") is None:
            raise ConfigurationError(
                "checkpoint is empty, so there is no torch model to compare the package with; give a checkpoint of "
                "the recipe's fit, or pretrained weights by recipe.module.weights"
            )
        return network, network
    checkpoint = read_checkpoint(config.checkpoint)
    if compression_states(checkpoint):
        compression = Compression.load_from_checkpoint(
            config.checkpoint, lit, example_inputs=recipe.example_inputs(lit)
        )
        return compression.trained(), compression.finalize()
    load_weights(Path(config.checkpoint), "checkpoint", lit, recipe.network_path(lit))
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
            f"checkpoint={path!r} is neither a TorchScript archive nor a .pt2 program: {reason(error)}. A checkpoint "
            "of Lightning needs its recipe=..."
        ) from error
