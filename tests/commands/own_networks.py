"""Networks of transformers, timm and segmentation_models_pytorch in modules as their users write them."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

SIDE = 32
"""Of images: digits, enlarged."""


class OfImages(L.LightningDataModule):
    """Digits, enlarged to RGB images in [0, 1], with their classes, or with masks of their ink."""

    def __init__(self, masks: bool = False) -> None:
        super().__init__()
        self.masks = masks

    def loader(self, part: slice) -> DataLoader[Any]:
        digits = load_digits()
        images = torch.tensor(digits.images[part] / 16).float().unsqueeze(1)
        images = nn.functional.interpolate(images, SIDE, mode="bilinear").repeat(1, 3, 1, 1)
        targets = (images[:, 0] > 0.5).long() if self.masks else torch.tensor(digits.target[part])
        return DataLoader(TensorDataset(images, targets), batch_size=4)

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loader(slice(16))

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader(slice(16, 32))


class OfTexts(L.LightningDataModule):
    """Rows of digits read as words, and their classes."""

    def loader(self, part: slice) -> DataLoader[Any]:
        digits = load_digits()
        words = torch.tensor(digits.data[part]).int()
        mask = torch.ones_like(words)
        mask[::2, 48:] = 0
        return DataLoader(TensorDataset(words, mask, torch.tensor(digits.target[part])), batch_size=4)

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loader(slice(16))

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader(slice(16, 32))


class Tagger(L.LightningModule):
    """A network of timm."""

    def __init__(self, name: str = "resnet10t") -> None:
        super().__init__()
        import timm

        self.network = timm.create_model(name, num_classes=10)
        self.example_input_array = torch.rand(1, 3, SIDE, SIDE)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-4)


class Segmenter(Tagger):
    """A network of segmentation_models_pytorch."""

    def __init__(self) -> None:
        L.LightningModule.__init__(self)
        import segmentation_models_pytorch as smp

        self.network = smp.Unet("resnet18", encoder_weights=None, classes=2)
        self.example_input_array = torch.rand(1, 3, SIDE, SIDE)


class TextClassifier(L.LightningModule):
    """A classifier of transformers, called by name, that returns a dataclass of its own."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        config = BertConfig(
            vocab_size=17,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            num_labels=10,
        )
        self.bert = BertForSequenceClassification(config)
        ids = torch.arange(64, dtype=torch.int32).view(1, 64) % 17
        self.example_input_array = {"words": ids, "mask": torch.ones_like(ids)}

    def forward(self, words: Tensor, mask: Tensor) -> Any:
        return self.bert(input_ids=words, attention_mask=mask)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        words, mask, classes = batch
        return nn.functional.cross_entropy(self(words, mask).logits, classes)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        words, mask, classes = batch
        assert self.bert.config.num_labels == 10
        self.log("val/loss", nn.functional.cross_entropy(self(words, mask)["logits"], classes))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-4)
