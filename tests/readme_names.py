"""What the snippets of the README take for granted: a LightningModule, its data, and the folders of a user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_compress import CoreMLExport
from lightning_compress.coreml import ImageInput, NonMaximumSuppression
from lightning_compress.recipes.ssd_resnet18 import ObjectDetector
from lightning_compress.tasks import Detection


class Network(nn.Module):
    """A trunk, and a head that a snippet leaves alone."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.trunk(pixels))


class Module(L.LightningModule):
    """`lit` of the snippets."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Network()
        self.example_input_array = torch.zeros(1, 64)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixels)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        pixels, digits = batch
        return nn.functional.cross_entropy(self(pixels), digits)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


class Data(L.LightningDataModule):
    """`data` of the snippets: real digits."""

    def train_dataloader(self) -> DataLoader[Any]:
        digits = load_digits()
        pixels = torch.tensor(digits.data[:128] / 16, dtype=torch.float32)
        return DataLoader(TensorDataset(pixels, torch.tensor(digits.target[:128])), batch_size=32)


def detector(path: Path) -> None:
    """Writes the package that a snippet loads: a detector for images of 160 pixels with suppressed boxes."""
    torch.manual_seed(0)
    network = ObjectDetector(num_classes=1, image_size=160).model.eval()
    export = CoreMLExport(
        path,
        image=ImageInput(scale=1 / 255),
        nms=NonMaximumSuppression(),
        class_labels=["digit"],
        verify=False,
    )
    Detection().interface(export, ["digit"]).run(network, torch.rand(1, 3, 160, 160))


def own_boxes(root: Path) -> None:
    """Two photographs a split with a box each, in COCO format."""
    photograph = load_sample_image("china.jpg")
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        for index in range(2):
            crop = photograph[:200, index * 200 : index * 200 + 200]
            Image.fromarray(crop).save(root / split / f"{index}.jpg")
        content = {
            "images": [{"id": n, "file_name": f"{n}.jpg", "width": 200, "height": 200} for n in range(2)],
            "annotations": [
                {"id": n, "image_id": n, "category_id": 1, "bbox": [20, 30, 80, 90]} for n in range(2)
            ],
            "categories": [{"id": 1, "name": "person"}],
        }
        (root / f"annotations_{split}.json").write_text(json.dumps(content))


def own_classes(root: Path) -> None:
    """Two classes of digits in ImageNet's layout."""
    digits = load_digits()
    for split, start in (("train", 0), ("val", 500)):
        for label in (0, 1):
            folder = root / split / f"digit_{label}"
            folder.mkdir(parents=True)
            for index in np.flatnonzero(digits.target[start:] == label)[:2] + start:
                Image.fromarray((digits.images[index] * 15.9).astype(np.uint8)).save(folder / f"{index}.png")
