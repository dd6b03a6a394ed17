"""The torch model that `lightning-compress verify` compares a package with, and what both are run on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor, nn

from lightning_compress.callback import Compression
from lightning_compress.callback.checkpoints import compression_states, read_checkpoint
from lightning_compress.commands.measuring import measure
from lightning_compress.commands.recipe import recipe_export, recipe_module
from lightning_compress.coreml.image import ImageInput
from lightning_compress.coreml.tolerance import TIMES_ROUNDING, Tolerance
from lightning_compress.coreml.trace import convertible_copy
from lightning_compress.coreml.verification import Samples, random_samples
from lightning_compress.coreml.verification.samples import image_samples
from lightning_compress.errors import ConfigurationError, DataError
from lightning_compress.package.inspection import PackageReport
from lightning_compress.package.interface import Feature

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif"}


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
    inputs = [feature for feature in report.inputs if "optional" not in feature.type]
    image = _image_of(inputs[0])
    if config.inputs is None:
        samples = random_samples(tuple(_random(feature) for feature in inputs), image)
    else:
        samples = _read_samples(Path(config.inputs).expanduser(), inputs, image, config.samples)
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


def _image_of(feature: Feature) -> ImageInput | None:
    if not feature.type.startswith("image"):
        return None
    return ImageInput(
        scale=feature.scale, bias=feature.bias, color_layout=feature.type.removeprefix("image ").upper()
    )


def _random(feature: Feature) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if feature.type.startswith("image"):
        channels = 1 if "gray" in feature.type.lower() else 3
        return torch.zeros(1, channels, *feature.shape)
    if "int" in feature.type:
        return torch.zeros(feature.shape, dtype=torch.int32)
    return torch.randn(feature.shape, generator=generator)


def _read_samples(path: Path, inputs: list[Feature], image: ImageInput | None, count: int) -> Samples:
    if path.suffix == ".npz":
        return _read_arrays(path, inputs, image, count)
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in _IMAGE_SUFFIXES) if path.is_dir() else []
    if not files or image is None:
        reason = "holds no images" if image is not None else "cannot be used: the package takes an array"
        raise DataError(
            f"inputs={str(path)!r} {reason}; valid are a folder of images for a package with an image input, and an "
            f".npz file with the arrays {', '.join(feature.name for feature in inputs)}"
        )
    height, width = inputs[0].shape
    pixels = [_pixels(file, (width, height), "L" if image.channels == 1 else "RGB") for file in files[:count]]
    return image_samples(pixels, image)


def _pixels(file: Path, size: tuple[int, int], mode: str) -> Tensor:
    try:
        with Image.open(file) as image:
            array = np.array(image.convert(mode).resize(size, Image.Resampling.BILINEAR))
    except OSError as error:
        raise DataError(f"the image {str(file)!r} cannot be read: {error}") from error
    return torch.from_numpy(array).view(1, size[1], size[0], -1).permute(0, 3, 1, 2).float()


def _read_arrays(path: Path, inputs: list[Feature], image: ImageInput | None, count: int) -> Samples:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, Any] = {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise DataError(f"inputs={str(path)!r} cannot be read: {error}") from error
    missing = [feature.name for feature in inputs if feature.name not in arrays]
    if missing:
        raise DataError(
            f"inputs={str(path)!r} has no array {', '.join(missing)}; it has {', '.join(arrays) or 'none'}"
        )
    tensors = [torch.split(torch.from_numpy(arrays[feature.name])[:count], 1) for feature in inputs]
    samples = list(zip(*tensors, strict=True))
    if image is None:
        return Samples(samples, samples)
    return image_samples([sample[0] for sample in samples], image, samples[0][1:])
