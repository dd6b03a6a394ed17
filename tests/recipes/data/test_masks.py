from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from lightning_compress.errors import ConfigurationError, DataError
from lightning_compress.recipes.data.masks import MaskFolderDataModule, PascalVOCDataModule
from lightning_compress.recipes.data.masks.dataset import training_transform

PALETTE = [(37 * index) % 256 for index in range(3 * 256)]


def a_mask(*, classes: int = 3, height: int = 48, width: int = 64) -> np.ndarray:
    """Stripes of each class from left to right, and an ignored line at the bottom."""
    mask = np.repeat((np.arange(width) * classes // width)[None], height, axis=0).astype(np.uint8)
    mask[-1] = 255
    return mask


def as_palette_png(mask: np.ndarray) -> Image.Image:
    image = Image.frombytes("P", mask.shape[::-1], mask.tobytes())
    image.putpalette(PALETTE)
    return image


def write_folders(root: Path, save: Callable[[np.ndarray], Image.Image] = Image.fromarray) -> Path:
    for split, count in (("train", 4), ("val", 2)):
        for folder in ("images", "masks"):
            (root / split / folder).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (64, 48), (60 * number, 90, 30)).save(root / split / "images" / f"{number}.jpg")
            save(a_mask()).save(root / split / "masks" / f"{number}.png")
    return root


def folders(root: Path, **settings: Any) -> MaskFolderDataModule:
    return MaskFolderDataModule(
        str(root), **{"num_classes": 3, "image_size": 32, "batch_size": 2, **settings}
    )


def write_voc(root: Path, *, names: str = "one two") -> Path:
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for name in names.split():
        Image.new("RGB", (64, 48), (90, 90, 30)).save(root / "JPEGImages" / f"{name}.jpg")
        as_palette_png(a_mask()).save(root / "SegmentationClass" / f"{name}.png")
    for split in ("train", "val"):
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(names.replace(" ", "\n") + "\n")
    return root


def voc(root: Path, **settings: Any) -> PascalVOCDataModule:
    return PascalVOCDataModule(str(root), **{"image_size": 32, "batch_size": 2, **settings})


@pytest.mark.parametrize("save", [Image.fromarray, as_palette_png], ids=["one channel", "palette"])
def test_masks_are_read_by_index(save, tmp_path) -> None:
    data = folders(write_folders(tmp_path, save))
    images, masks = next(iter(data.val_dataloader()))
    assert images.shape == (2, 3, 32, 32)
    assert masks.shape == (2, 32, 32)
    assert masks.dtype == torch.int64
    assert masks.unique().tolist() in ([0, 1, 2], [0, 1, 2, 255])
    assert data.class_names == ["background", "class 1", "class 2"]


def test_a_mask_of_two_values_is_read_as_one_and_zero(tmp_path) -> None:
    write_folders(tmp_path, lambda mask: Image.fromarray(mask == 1))
    _, masks = next(iter(folders(tmp_path, num_classes=2).val_dataloader()))
    assert masks.unique().tolist() == [0, 1]


def test_a_mask_is_augmented_as_its_image_is() -> None:
    """An image that shows its own mask still does, wherever a crop and a mirror move it."""
    classes = np.zeros((40, 60), dtype=np.uint8)
    classes[10:30, 5:25] = 1
    transform = training_transform(64, flip=True, smallest_crop=0.3, brightness=0)
    torch.manual_seed(0)
    for _ in range(10):
        image, mask = transform(
            tv_tensors.Image(torch.from_numpy(classes * 255).expand(3, -1, -1)),
            tv_tensors.Mask(torch.from_numpy(classes)),
        )
        assert image.shape == (3, 64, 64)
        assert set(mask.unique().tolist()) <= {0, 1}
        assert ((image[0] > 0.5) == (mask == 1)).float().mean() > 0.97


def test_names_can_be_given_and_are_counted(tmp_path) -> None:
    write_folders(tmp_path)
    assert folders(tmp_path, class_names=["no", "cat", "dog"]).class_names == []
    data = folders(tmp_path, class_names=["no", "cat", "dog"])
    data.setup()
    assert data.class_names == ["no", "cat", "dog"]
    with pytest.raises(DataError, match=r"num_classes=3, but the data has 2: no, cat"):
        folders(tmp_path, class_names=["no", "cat"]).setup()


@pytest.mark.parametrize("count", [1, 256])
def test_classes_that_a_mask_cannot_tell_are_refused(count: int, tmp_path) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"data\.num_classes={count} is out of range.*from 2 to 255"
    ):
        folders(tmp_path, num_classes=count)


def test_files_may_lie_in_folders_inside(tmp_path) -> None:
    write_folders(tmp_path)
    for folder, ending in (("images", "jpg"), ("masks", "png")):
        (tmp_path / "train" / folder / "town").mkdir()
        (tmp_path / "train" / folder / f"0.{ending}").rename(
            tmp_path / "train" / folder / "town" / f"0.{ending}"
        )
    data = folders(tmp_path)
    data.setup()
    assert len(data.train_dataloader().dataset) == 4


def _mask(root: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask).save(root / "train" / "masks" / "2.png")


def _none_of(root: Path, folder: str, ending: str) -> None:
    for path in (root / "train" / folder).glob(f"*.{ending}"):
        path.unlink()


def _all_masks(root: Path, value: int) -> None:
    for path in (root / "train" / "masks").glob("*.png"):
        Image.new("L", (64, 48), value).save(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: _mask(root, a_mask(width=60)),
            r"Mask .*2\.png' is 60 x 48 pixels, and its image .*2\.jpg' 64 x 48",
        ),
        (
            lambda root: _mask(root, a_mask(classes=5)),
            r"Mask .*2\.png' has class 3, 4, and data\.num_classes=3: valid are 0, .*to 2, and 255",
        ),
        (
            lambda root: Image.new("I;16", (64, 48), 7000).save(root / "train" / "masks" / "2.png"),
            r"2\.png' has class 7000, and data\.num_classes=3",
        ),
        (
            lambda root: _mask(root, np.zeros((48, 64, 3), dtype=np.uint8)),
            r"Mask .*2\.png' has colors \(its mode is RGB\).*palette",
        ),
        (lambda root: _all_masks(root, 0), r"nothing to learn: no pixel of 4 masks.*is of a class from 1"),
        (lambda root: _all_masks(root, 255), r"nothing to learn.*or ignored, 255.*black and white need 1"),
        (
            lambda root: (root / "train" / "masks" / "2.png").write_bytes(b"\x89PNG nothing"),
            r"Mask .*2\.png' cannot be read",
        ),
        (
            lambda root: (root / "val" / "images" / "1.jpg").write_bytes(b"nothing"),
            r"Image .*1\.jpg' cannot be read",
        ),
        (
            lambda root: (root / "train" / "masks" / "2.png").unlink(),
            r"1 image of .*images' without mask of the same name in .*masks': 2\.jpg",
        ),
        (
            lambda root: (root / "train" / "images" / "2.jpg").unlink(),
            r"1 mask of .*masks' without image of the same name in .*images': 2\.png",
        ),
        (lambda root: _none_of(root, "images", "jpg"), r"images' holds no file that ends in \.jpg"),
        (lambda root: _none_of(root, "masks", "png"), r"masks' holds no file that ends in \.png"),
        (
            lambda root: (root / "val" / "masks").rename(root / "elsewhere"),
            r"val/masks' does not exist; data\.val_masks",
        ),
        (
            lambda root: Image.new("RGB", (64, 48)).save(root / "train" / "images" / "2.png"),
            r"2\.jpg' and .*2\.png' have one name",
        ),
    ],
)
def test_folders_that_cannot_be_used_are_refused_before_the_first_step(spoil, message, tmp_path) -> None:
    write_folders(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        folders(tmp_path).setup()


@pytest.mark.parametrize("inside", ["", "VOCdevkit/VOC2012"])
def test_pascals_layout_is_read(inside: str, tmp_path) -> None:
    write_voc(tmp_path / inside)
    data = voc(tmp_path)
    images, masks = next(iter(data.train_dataloader()))
    assert images.shape == (2, 3, 32, 32)
    assert set(masks.unique().tolist()) <= {0, 1, 2, 255}
    assert len(data.class_names) == 21
    assert data.class_names[:2] == ["background", "aeroplane"]


@pytest.mark.parametrize(
    ("spoil", "settings", "message"),
    [
        (
            lambda root: None,
            {"train_set": "trainaug"},
            r"no list .*trainaug\.txt'; beside it are: train, val",
        ),
        (
            lambda root: (root / "ImageSets/Segmentation/val.txt").write_text("\n"),
            {},
            r"val\.txt' names no images",
        ),
        (
            lambda root: (root / "SegmentationClass/two.png").unlink(),
            {},
            r"1 file of the list .*train\.txt' not found: SegmentationClass/two\.png",
        ),
        (lambda root: None, {"num_classes": 2, "class_names": ["no", "cat"]}, r"has class 2"),
        (
            lambda root: (root / "ImageSets").rename(root / "Sets"),
            {},
            r"no folder ImageSets/Segmentation.*JPEGImages",
        ),
    ],
)
def test_a_layout_with_gaps_is_refused(spoil, settings: dict, message: str, tmp_path) -> None:
    write_voc(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        voc(tmp_path, **settings).setup()
