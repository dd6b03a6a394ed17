"""What a package is run on where there is no recipe: images of a folder, arrays of a file, or random numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_compress.coreml.image import ImageInput
from lightning_compress.coreml.verification import Samples, random_samples
from lightning_compress.coreml.verification.samples import image_samples
from lightning_compress.errors import DataError
from lightning_compress.package.inspection import PackageReport
from lightning_compress.package.interface import Feature

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif"}


def package_samples(report: PackageReport, inputs: str | None, count: int) -> Samples:
    """Samples for a package.

    Args:
        report: What `inspect` says of it.
        inputs: A folder of images, an .npz file with an array for each input, or None for random ones.
        count: How many samples at most.

    Raises:
        DataError: If `inputs` cannot be read.
    """
    taken = [feature for feature in report.inputs if "optional" not in feature.type]
    image = _image_of(taken[0])
    if inputs is None:
        return random_samples(tuple(_random(feature) for feature in taken), image)
    return _read_samples(Path(inputs).expanduser(), taken, image, count)


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
