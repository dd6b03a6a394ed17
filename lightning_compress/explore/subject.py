"""What a search needs of whatever is searched: a network with its weights, data, and ways to make and measure it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import lightning as L
from torch import Tensor, nn

from lightning_compress.coreml.export import ExportedPackage
from lightning_compress.explore.compressing import Compressed
from lightning_compress.explore.forms import Form
from lightning_compress.methods.mechanism.agreement import Call
from lightning_compress.tasks import InPlace


@dataclass(frozen=True)
class FitLength:
    """How long a fit in training is.

    Attributes:
        steps: Optimizer steps.
        seconds: About what they take, with the package and its measurement left out.
    """

    steps: int
    seconds: float


class Subject(Protocol):
    """A LightningModule, the network in it that is compressed, and its data, which are set up."""

    @property
    def metric(self) -> str:
        """Name of the metric, as it is logged."""

    @property
    def data(self) -> L.LightningDataModule:
        """The data."""

    @property
    def digest(self) -> str:
        """Of the float weights and of all else that a measurement depends on."""

    def network(self) -> nn.Module:
        """A copy of the network with the float weights, on the CPU, in full precision and evaluation mode."""

    def comparable(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """What the network returns in a measure in which equal distances matter equally."""

    def calls(self, data: L.LightningDataModule, batches: int) -> Sequence[Call]:
        """What the network is called with in validation, for the first batches of the data."""

    def export(self, compressed: Compressed, path: Path, *, verifies: bool) -> ExportedPackage:
        """Make a package of a finalized copy of the network.

        Args:
            compressed: The copy.
            path: Of the package.
            verifies: Whether the package is compared with the copy.
        """

    def placed(self, package: Path) -> tuple[L.LightningModule, InPlace]:
        """A new module in which a package stands for the network, and what stands there."""

    def fit_length(self, share: float) -> FitLength | None:
        """How long a fit of a share of the full length is; None where nothing can be trained."""

    def fit(self, name: str, forms: Mapping[str, Form], share: float, folder: Path) -> Path:
        """Train the float weights with tensors in forms, or go on with that, and return the package.

        Args:
            name: Of the package.
            forms: By name of the tensor.
            share: Of the full length of a fit.
            folder: Of this fit alone.
        """

    def draw(self, package: Path, picture: Path) -> bool:
        """Draw what a package finds in the first samples; returns whether there was anything to draw."""
