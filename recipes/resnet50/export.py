"""The form in which a classifier is exported."""

from __future__ import annotations

from torch import Tensor, nn

from ..normalization import Normalize


class ClassifierExport(nn.Module):
    """Puts normalization before a classifier and a softmax after it.

    Args:
        network: takes normalized images, returns class logits.

    Shapes:
        Input: N x 3 x H x W, RGB in [0, 1]. Output: class probabilities, N x classes.
    """

    input_names = ("image",)
    output_names = ("probabilities",)

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Class probabilities."""
        logits: Tensor = self.network(self.normalize(image))
        return logits.softmax(dim=-1)
