"""torchvision's ResNet50, unchanged."""

from __future__ import annotations

from typing import cast

from torch import nn
from torchvision.models import ResNet50_Weights
from torchvision.models import resnet50 as torchvision_resnet50

from ..weights import load_weights, read_weights


def resnet50(num_classes: int, weights: str | None = None) -> nn.Module:
    """ResNet50 (He et al., arXiv 1512.03385; stride in the 3x3 convolution, "v1.5").

    Args:
        num_classes: outputs of the last layer; weights for another number keep everything but that layer.
        weights: a name of torchvision's `ResNet50_Weights`, a file, or None; see
            `recipes.weights.read_weights`.

    Raises:
        ConfigurationError: weights that are unknown, cannot be downloaded, or do not fit.
    """
    network = cast(nn.Module, torchvision_resnet50(num_classes=num_classes))
    if weights is not None:
        load_weights(network, read_weights(weights, ResNet50_Weights), source=weights, replaceable=("fc.",))
    return network
