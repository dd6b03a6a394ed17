"""Five small packages of every kind that is read, made as users make them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import lightning as L
import torch
from coremltools.models.utils import MultiFunctionDescriptor, save_multifunction
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_compress import (
    Compression,
    CoreMLExport,
    DKMPalettization,
    LinearQuantization,
    MagnitudePruning,
)
from lightning_compress.coreml import ImageInput, NonMaximumSuppression, palettize_package, softmax_outputs
from lightning_compress.coreml.quiet import quiet_conversion
from lightning_compress.methods import Method
from lightning_compress.package import save_package

SIDE = 8


def network(outputs: int = 4) -> nn.Module:
    """Two convolutions and a linear layer, seeded."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, outputs),
    ).eval()


class Fitted(L.LightningModule):
    """Trains the network on noise for as many steps as it takes to compress it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = network()
        self.example_input_array = torch.zeros(1, 1, SIDE, SIDE)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.model(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Detector(nn.Module):
    """Boxes on a grid of four cells, two classes besides the background."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Conv2d(3, 7, 4, stride=4)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        cells = self.head(image).flatten(2).transpose(1, 2)[0]
        return (cells[:, :3] * 5).softmax(-1)[:, 1:], cells[:, -4:].sigmoid()


def _fitted(folder: Path, name: str, *methods: Method) -> Path:
    path = folder / f"{name}.mlpackage"
    compression = Compression(*methods, module="model", export=CoreMLExport(path, card=False), rehearse=False)
    trainer = L.Trainer(
        max_steps=4,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[compression],
        default_root_dir=str(folder),
    )
    data = TensorDataset(torch.randn(16, 1, SIDE, SIDE))
    trainer.fit(Fitted(), DataLoader(data, batch_size=4))
    return path


def palettized(folder: Path) -> Path:
    """Palettes for groups of channels, and in one layer for the weights that pruning has left."""
    return _fitted(
        folder,
        "palettized",
        DKMPalettization(n_bits=2, weight_threshold=0, granularity="per_grouped_channel", group_size=4),
        MagnitudePruning(target_sparsity=0.5, module_name_configs={"7": None}),
    )


def int8_activations(folder: Path) -> Path:
    """Weights and activations at 8 bits."""
    return _fitted(folder, "int8_activations", LinearQuantization(milestones=[0, 1, 3, 3]))


def classifier(folder: Path) -> Path:
    """Labels, an image, metadata, and palettes in the form of iOS16."""
    path = folder / "classifier.mlpackage"
    export = CoreMLExport(
        path,
        image=ImageInput(scale=1 / 255, color_layout="GRAYSCALE"),
        class_labels=["zero", "one", "two", "three"],
        wrapper=softmax_outputs,
        description="Reads digits.",
        author="us",
        user_metadata={"metrics": '{"accuracy": 0.5}'},
        card=False,
    )
    export.run(network(), torch.rand(1, 1, SIDE, SIDE))
    return save_package(palettize_package(path, [4], weight_threshold=64)[4], path)


def detector(folder: Path) -> Path:
    """A pipeline of a program and non-maximum suppression."""
    export = CoreMLExport(
        folder / "detector.mlpackage",
        image=ImageInput(scale=1 / 255),
        class_labels=["person", "dog"],
        nms=NonMaximumSuppression(confidence_threshold=0.2),
        card=False,
    )
    return export.run(Detector().eval(), torch.rand(1, 3, SIDE, SIDE)).path


def multifunction(folder: Path) -> Path:
    """Two functions, one of them the default."""
    descriptor = MultiFunctionDescriptor()
    for name, outputs in (("first", 4), ("second", 6)):
        path = folder / f"{name}.mlpackage"
        CoreMLExport(path, card=False, minimum_deployment_target="iOS18").run(
            network(outputs), torch.rand(1, 1, SIDE, SIDE)
        )
        descriptor.add_function(str(path), "main", name)
    descriptor.default_function_name = "first"
    path = folder / "multifunction.mlpackage"
    save_multifunction(descriptor, str(path))
    return path


KINDS: dict[str, Callable[[Path], Path]] = {
    "palettized": palettized,
    "int8 activations": int8_activations,
    "classifier": classifier,
    "detector": detector,
    "multifunction": multifunction,
}


def make_packages(folder: Path) -> dict[str, Path]:
    """All of them, by kind."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings(), quiet_conversion():
        warnings.simplefilter("ignore")
        return {kind: make(folder) for kind, make in KINDS.items()}
