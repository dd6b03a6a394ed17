"""What the recipes' data modules share: settings, loaders, and checks before training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sized
from typing import Any, ClassVar, cast

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_compress.errors import ConfigurationError, DataError


class RecipeDataModule(L.LightningDataModule):
    """A training and a validation set of RGB images in [0, 1], all of one size.

    A subclass says where the samples come from in `read`. Bad data raises `DataError` in `setup`, before
    training starts. Testing uses the validation set.

    Args:
        num_classes: how many object classes the data has; `setup` compares it with what is found, so that the
            network, which is built from the same number, fits.
        image_size: height and width of the images, in pixels.
        batch_size: images a step and process.
        num_workers: processes that load; 0 loads in the training process.

    Attributes:
        class_names: one name a class, in the order of the network's outputs; known after `setup`.
    """

    #: What the labels are for: `classification`, `detection` or `segmentation`.
    task: ClassVar[str]
    #: Joins samples into a batch; None is torch's own way.
    collate: Callable[[list[Any]], Any] | None = None

    def __init__(self, *, num_classes: int, image_size: int, batch_size: int, num_workers: int = 0) -> None:
        super().__init__()
        for name, value, smallest in (
            ("num_classes", num_classes, 1),
            ("image_size", image_size, 32),
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise ConfigurationError(
                    f"data.{name}={value!r} must be a whole number of at least {smallest}."
                )
        self.num_classes = num_classes
        self.image_size = image_size
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.class_names: list[str] = []
        self._sets: tuple[Dataset[Any], Dataset[Any]] | None = None

    @abstractmethod
    def read(self) -> tuple[Dataset[Any], Dataset[Any], list[str]]:
        """The training set, the validation set, and the names of the classes.

        Raises:
            DataError: data that is missing, empty or malformed.
        """

    def setup(self, stage: str | None = None) -> None:
        """Reads and checks the data, once."""
        if self._sets is not None:
            return
        train, val, names = self.read()
        if len(names) != self.num_classes:
            listed = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise DataError(
                f"data.num_classes={self.num_classes}, but the data has {len(names)}: {listed}. "
                f"Set data.num_classes={len(names)}."
            )
        for split, samples in (("train", train), ("val", val)):
            if len(cast(Sized, samples)) == 0:
                raise DataError(f"The {split} split of {type(self).__name__} holds no images.")
        self._sets = (train, val)
        self.class_names = names

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches; a last batch that would be smaller is left out, as batch normalization needs."""
        return self._loader(self._ready()[0], shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the whole validation set, in order."""
        return self._loader(self._ready()[1], shuffle=False)

    def test_dataloader(self) -> DataLoader[Any]:
        """The validation set: none of the data sets has labels for another."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Any]:
        """The validation set."""
        return self.val_dataloader()

    def sample_images(self, count: int) -> Tensor:
        """The first validation images, N x 3 x H x W in [0, 1]; fewer where the set is smaller."""
        samples = self._ready()[1]
        return torch.stack([samples[index][0] for index in range(min(count, len(cast(Sized, samples))))])

    def _ready(self) -> tuple[Dataset[Any], Dataset[Any]]:
        self.setup()
        assert self._sets is not None
        return self._sets

    def _loader(self, samples: Dataset[Any], *, shuffle: bool) -> DataLoader[Any]:
        return DataLoader(
            samples,
            batch_size=self.batch_size,
            shuffle=shuffle,
            drop_last=shuffle and len(cast(Sized, samples)) >= self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=self.collate,
        )


def check_task(module: L.LightningModule, task: str) -> None:
    """Refuses a recipe's data module whose labels are for another task than a recipe's module.

    Args:
        module: attached to a trainer.
        task: what the module learns.

    Raises:
        ConfigurationError: such as boxes for a classifier.
    """
    # Lightning sets the attribute only once a data module is attached.
    data = getattr(module.trainer, "datamodule", None)
    if isinstance(data, RecipeDataModule) and data.task != task:
        raise ConfigurationError(
            f"{type(module).__name__} is for {task}, and {type(data).__name__} has labels for {data.task}: choose "
            "recipe and data for one task."
        )
