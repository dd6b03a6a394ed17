from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_compress.errors import ConfigurationError, DataError
from lightning_compress.recipes.data.digits import read_digits
from lightning_compress.recipes.data.labels import (
    DigitsDataModule,
    FashionMNISTDataModule,
    ImageFolderDataModule,
)


def test_digits_are_rgb_images_of_the_size_asked_for() -> None:
    data = DigitsDataModule(image_size=48, batch_size=8)
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (8, 3, 48, 48)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert torch.equal(images[:, 0], images[:, 1])
    assert labels.dtype == torch.int64
    assert data.class_names == [str(digit) for digit in range(10)]


def test_the_digits_are_split_once_and_share_nothing() -> None:
    train, _ = read_digits("train")
    val, labels = read_digits("val")
    assert (len(train), len(val)) == (1437, 360)
    assert set(labels) == set(range(10))
    rows = {image.tobytes() for image in train}
    assert not any(image.tobytes() in rows for image in val)


def test_validation_is_the_same_each_time() -> None:
    data = DigitsDataModule(image_size=32)
    first = next(iter(data.val_dataloader()))
    second = next(iter(data.val_dataloader()))
    assert torch.equal(first[0], second[0])
    assert torch.equal(data.sample_images(5), first[0][:5])


def test_a_last_batch_is_left_out_in_training_only() -> None:
    data = DigitsDataModule(image_size=32, batch_size=100)
    assert len(data.train_dataloader()) == 14
    assert len(data.val_dataloader()) == 4


def test_worker_processes_give_the_same_validation_images() -> None:
    own = next(iter(DigitsDataModule(image_size=32).val_dataloader()))
    other = next(iter(DigitsDataModule(image_size=32, num_workers=1).val_dataloader()))
    assert torch.equal(own[0], other[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", 0), ("image_size", 16), ("num_workers", -1), ("num_classes", True), ("batch_size", 2.5)],
)
def test_settings_that_cannot_be_used_are_named(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=rf"data\.{name}={value}"):
        DigitsDataModule(**{name: value})


def test_another_number_of_classes_than_the_data_has_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"data\.num_classes=9, but the data has 10: 0, 1.*Set data\.num_classes=10"
    ):
        DigitsDataModule(num_classes=9).setup()


def write_image(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 10, 10)).save(path)


def image_folder(root: Path) -> Path:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            for number in range(2):
                write_image(root / split / name / f"{number}.jpg")
    return root


def test_an_image_folder_gives_crops_and_class_names(tmp_path) -> None:
    data = ImageFolderDataModule(
        str(image_folder(tmp_path)), num_classes=2, image_size=32, batch_size=2, num_workers=0
    )
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (2, 3, 32, 32)
    images, labels = next(iter(data.val_dataloader()))
    assert images.shape == (2, 3, 32, 32)
    assert labels.tolist() == [0, 0]
    assert data.class_names == ["cat", "dog"]


def test_a_missing_folder_is_named(tmp_path) -> None:
    with pytest.raises(DataError, match=r"nowhere/train.*does not exist.*train/ and val/"):
        ImageFolderDataModule(str(tmp_path / "nowhere"), num_classes=2).setup()


def test_an_empty_folder_is_named(tmp_path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=r"train'.*class folder"):
        ImageFolderDataModule(str(tmp_path), num_classes=2).setup()


def test_an_empty_class_folder_is_named(tmp_path) -> None:
    (image_folder(tmp_path) / "train" / "emu").mkdir()
    with pytest.raises(DataError, match=r"emu.*\.jpg"):
        ImageFolderDataModule(str(tmp_path), num_classes=3).setup()


def test_splits_of_different_classes_are_refused(tmp_path) -> None:
    write_image(image_folder(tmp_path) / "train" / "emu" / "0.jpg")
    with pytest.raises(DataError, match=r"only in training: \['emu'\]"):
        ImageFolderDataModule(str(tmp_path), num_classes=3).setup()


def write_fashion_mnist(folder: Path, *, compressed: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for split, count in (("train", 20), ("t10k", 10)):
        pixels = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        # The IDX format: type 8 (bytes), number of dimensions, sizes, data.
        for name, values in ((f"{split}-images-idx3-ubyte", pixels), (f"{split}-labels-idx1-ubyte", labels)):
            content = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("place", ["", "raw", "FashionMNIST/raw"])
def test_fashion_mnist_is_found_compressed_or_not(compressed: bool, place: str, tmp_path) -> None:
    write_fashion_mnist(tmp_path / place, compressed=compressed)
    data = FashionMNISTDataModule(str(tmp_path), image_size=32, batch_size=10)
    images, labels = next(iter(data.val_dataloader()))
    assert images.shape == (10, 3, 32, 32)
    assert labels.tolist() == list(range(10))
    assert data.class_names[0] == "T-shirt/top"
    assert (
        sorted(path.name for path in tmp_path.iterdir()) == sorted({place.split("/")[0]} - {""}) or not place
    )


def test_missing_fashion_mnist_says_where_to_get_it(tmp_path) -> None:
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte.*dataset-fashion-mnist.*data\.download=true"
    ):
        FashionMNISTDataModule(str(tmp_path)).setup()


@pytest.mark.parametrize("compressed", [True, False])
def test_damaged_fashion_mnist_is_named(compressed: bool, tmp_path) -> None:
    write_fashion_mnist(tmp_path, compressed=compressed)
    name = "train-images-idx3-ubyte" + (".gz" if compressed else "")
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-4000])
    with pytest.raises(DataError, match="damaged"):
        FashionMNISTDataModule(str(tmp_path)).setup()


def test_a_download_without_a_network_is_a_clear_error(tmp_path, monkeypatch) -> None:
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(
        DataError, match=r"could not be downloaded(.|\n)*t10k-labels-idx1-ubyte.*dataset-fashion-mnist"
    ):
        FashionMNISTDataModule(str(tmp_path), download=True).prepare_data()
