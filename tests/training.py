"""Networks trained toward outputs of zero: enough of a fit to see what a compression makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

BATCH = 4
"""Samples an optimizer step."""

Inputs = Callable[[int], "Tensor | tuple[Tensor, ...]"]
"""Makes so many samples of each input of a network."""


def outputs_of(result: Any) -> list[Tensor]:
    """The tensors that a forward returned, in their order."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, dict):
        result = list(result.values())
    return [tensor for part in result for tensor in outputs_of(part)]


class Training(L.LightningModule):
    """Trains the network that is its attribute `model` toward outputs of zero, one epoch of `steps` batches of noise.

    Args:
        network: The network.
        inputs: Makes its inputs.
        steps: Batches of an epoch.
        learning_rate: Of Adam. A small one keeps random weights in the range of half precision.
    """

    def __init__(
        self, network: nn.Module, inputs: Inputs, *, steps: int, learning_rate: float = 1e-3
    ) -> None:
        super().__init__()
        self.model = network
        self.inputs = inputs
        self.steps = steps
        self.learning_rate = learning_rate
        self.example_input_array = inputs(1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """The mean of the squares of each output, summed up."""
        outputs = outputs_of(self.model(*batch))
        return torch.stack([output.float().square().mean() for output in outputs]).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam on what is not frozen."""
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=self.learning_rate)

    def train_dataloader(self) -> DataLoader[Any]:
        """Noise."""
        samples = self.inputs(self.steps * BATCH)
        samples = samples if isinstance(samples, tuple) else (samples,)
        return DataLoader(TensorDataset(*samples), batch_size=BATCH)
