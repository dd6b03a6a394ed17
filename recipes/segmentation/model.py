"""torchvision's segmentation networks on MobileNetV3, unchanged, behind their normalization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from torchvision.models import MobileNet_V3_Large_Weights
from torchvision.models.segmentation import (
    DeepLabV3_MobileNet_V3_Large_Weights,
    LRASPP_MobileNet_V3_Large_Weights,
    deeplabv3_mobilenet_v3_large,
    lraspp_mobilenet_v3_large,
)

from lightning_compress.errors import ConfigurationError, did_you_mean

from ..normalization import Normalize
from ..weights import load_weights, read_weights


class _Architecture(NamedTuple):
    """How torchvision builds a network, its pretrained weights, and its layers that depend on the classes."""

    build: Callable[..., nn.Module]
    weights: Any
    by_class: tuple[str, ...]


_ARCHITECTURES = {
    "deeplabv3": _Architecture(
        lambda **settings: deeplabv3_mobilenet_v3_large(aux_loss=True, **settings),
        DeepLabV3_MobileNet_V3_Large_Weights,
        ("classifier.4.", "aux_classifier.4."),
    ),
    "lraspp": _Architecture(
        lraspp_mobilenet_v3_large,
        LRASPP_MobileNet_V3_Large_Weights,
        ("classifier.low_classifier.", "classifier.high_classifier."),
    ),
}


_MOMENTUM = 0.1
"""Of the running statistics of batch normalization: torch's own default."""


class Segmenter(nn.Module):
    """A segmentation network from images to class logits.

    Args:
        num_classes: classes with the background.
        architecture: `deeplabv3` (Chen et al., arXiv 1706.05587), with an auxiliary head for training, or `lraspp`
            (Howard et al., arXiv 1905.02244), smaller and with finer outlines; both on MobileNetV3-Large.
        weights: pretrained weights of it: a name of torchvision's weights, a file, or None; weights for another
            number of classes keep everything but the last layers.
        backbone_weights: likewise of its backbone alone: a name of torchvision's `MobileNet_V3_Large_Weights`, a
            file with such a classifier, or None.

    Shapes:
        Input: N x 3 x H x W, RGB in [0, 1]. Output: class logits, N x classes x H x W.

    Raises:
        ConfigurationError: an unknown architecture, weights that cannot be used, or weights of both kinds.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        architecture: str = "lraspp",
        weights: str | None = None,
        backbone_weights: str | None = None,
    ) -> None:
        super().__init__()
        if architecture not in _ARCHITECTURES:
            hint = did_you_mean(architecture, _ARCHITECTURES)
            raise ConfigurationError(
                f"architecture={architecture!r} is unknown{hint} Valid: {', '.join(_ARCHITECTURES)}."
            )
        if weights is not None and backbone_weights is not None:
            raise ConfigurationError(
                f"weights={weights!r} has the backbone's weights, too; backbone_weights={backbone_weights!r} must be "
                "null beside it."
            )
        build, names, by_class = _ARCHITECTURES[architecture]
        self.normalize = Normalize()
        self.network = build(weights=None, weights_backbone=None, num_classes=num_classes)
        _initialize_depthwise(self.network)
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                # torchvision's 0.01 is for fits of many thousands of steps: after 200 in which weights were pruned,
                # evaluation would still normalize by statistics of the dense network.
                module.momentum = _MOMENTUM
        if weights is not None:
            load_weights(self.network, read_weights(weights, names), source=weights, replaceable=by_class)
        if backbone_weights is not None:
            state = read_weights(backbone_weights, MobileNet_V3_Large_Weights)
            load_weights(cast(nn.Module, self.network.backbone), state, source=backbone_weights)

    def forward(self, images: Tensor) -> Tensor:
        """Class logits of images in [0, 1]."""
        return cast(Tensor, self.network(self.normalize(images))["out"])

    def training_logits(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Class logits, and those of the auxiliary head, or None where there is no such head."""
        outputs = self.network(self.normalize(images))
        return outputs["out"], outputs.get("aux")


def _initialize_depthwise(network: nn.Module) -> None:
    """Give depthwise convolutions the deviation that their few inputs ask for.

    torchvision 0.29 draws them for `fan_out`, which torch counts over all channels: hundreds of times too little
    variance, of which batch normalization, with its epsilon of 0.001, makes less still. From scratch, hundreds of
    steps are lost.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            nn.init.kaiming_normal_(module.weight, mode="fan_in")
