"""Tiny real data sets on the disk, made from scikit-learn's digits and photographs."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image


@pytest.fixture(scope="session")
def configure() -> Callable[..., DictConfig]:
    """Composes a shipped configuration as the command does."""

    def run(*overrides: str, command: str = "train") -> DictConfig:
        with initialize_config_module("lightning_compress.conf", version_base="1.3"):
            return compose(command, overrides=list(overrides))

    return run


@pytest.fixture
def coco_folder(tmp_path: Path) -> Path:
    """Two crops of a photograph a split, with a box each."""
    root = tmp_path / "coco"
    photograph = load_sample_image("china.jpg")
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        images, annotations = [], []
        for index in range(2):
            name = f"{index}.jpg"
            Image.fromarray(photograph[:200, index * 200 : index * 200 + 200]).save(root / split / name)
            images.append({"id": index, "file_name": name, "width": 200, "height": 200})
            annotations.append(
                {
                    "id": index,
                    "image_id": index,
                    "category_id": 1,
                    "bbox": [20, 30, 80, 90],
                    "area": 7200,
                    "iscrowd": 0,
                }
            )
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
        (root / f"annotations_{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two classes of digits in the layout of ImageNet."""
    root = tmp_path / "images"
    digits = load_digits()
    for split, start in (("train", 0), ("val", 500)):
        for label in (0, 1):
            folder = root / split / f"digit_{label}"
            folder.mkdir(parents=True)
            chosen = np.flatnonzero(digits.target[start:] == label)[:2] + start
            for index in chosen:
                Image.fromarray((digits.images[index] * 15.9).astype(np.uint8)).save(folder / f"{index}.png")
    return root


@pytest.fixture
def fashion_mnist_folder(tmp_path: Path) -> Path:
    """Digits in Fashion-MNIST's raw files."""
    root = tmp_path / "fashion-mnist"
    root.mkdir()
    digits = load_digits()
    for name, count in (("train", 20), ("t10k", 20)):
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 10:18, 10:18] = digits.images[:count] * 15
        header = struct.pack(">IIII", 2051, count, 28, 28)
        (root / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
        labels = struct.pack(">II", 2049, count) + digits.target[:count].astype(np.uint8).tobytes()
        (root / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return root
