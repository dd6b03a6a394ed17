"""The network of the detection recipe: an SSD on a ResNet18 backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, resnet18
from torchvision.models.detection.ssd import SSDHead
from torchvision.ops.misc import Conv2dNormActivation

from lightning_compress.state_dicts import without_prefix

from ..weights import load_weights, read_weights
from .default_boxes import ASPECT_RATIOS, boxes_per_cell

#: Channels of the six feature maps: ResNet18's layer2, layer3 and layer4, then the three extra blocks.
CHANNELS = (128, 256, 512, 256, 128, 128)


class ResNet18Features(nn.Module):
    """torchvision's ResNet18 without its pooling and classifier, under the same parameter names.

    Shapes:
        Input: N x 3 x H x W, normalized. Outputs: maps of 128, 256 and 512 channels at strides 8, 16 and 32.
    """

    def __init__(self) -> None:
        super().__init__()
        source = resnet18()
        self.conv1 = source.conv1
        self.bn1 = source.bn1
        self.relu = source.relu
        self.maxpool = source.maxpool
        self.layer1 = source.layer1
        self.layer2 = source.layer2
        self.layer3 = source.layer3
        self.layer4 = source.layer4

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The outputs of layer2, layer3 and layer4."""
        stem = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        stride_8 = self.layer2(self.layer1(stem))
        stride_16 = self.layer3(stride_8)
        return stride_8, stride_16, self.layer4(stride_16)


def extra_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Halves a feature map: a 1x1 convolution to half of `out_channels`, then a 3x3 one of stride 2."""
    block = nn.Sequential(
        Conv2dNormActivation(in_channels, out_channels // 2, kernel_size=1),
        Conv2dNormActivation(out_channels // 2, out_channels, kernel_size=3, stride=2),
    )
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
    return block


class SSDResNet18(nn.Module):
    """SSD (Liu et al., arXiv 1512.02325) on ResNet18 with torchvision's heads.

    12.1 M parameters with one class. A plain network: one tensor in, two out, no lists and no decisions on
    data, so that `torch.fx` and `torch.jit.trace` follow it. Default boxes, loss and decoding are beside it.

    Args:
        num_classes: object classes; the background is one more.
        aspect_ratios: of the default boxes, for each of the six feature maps; each adds two boxes a cell.

    Shapes:
        Input: N x 3 x H x W, normalized. Outputs: class logits N x A x (1 + num_classes), background first;
        box regression N x A x 4; A as many as `default_boxes` has for the image size.
    """

    def __init__(self, num_classes: int, aspect_ratios: Sequence[Sequence[float]] = ASPECT_RATIOS) -> None:
        super().__init__()
        self.backbone = ResNet18Features()
        self.extra1 = extra_block(CHANNELS[2], CHANNELS[3])
        self.extra2 = extra_block(CHANNELS[3], CHANNELS[4])
        self.extra3 = extra_block(CHANNELS[4], CHANNELS[5])
        self.head = SSDHead(list(CHANNELS), boxes_per_cell(aspect_ratios), num_classes + 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits and box regression."""
        stride_8, stride_16, stride_32 = self.backbone(images)
        stride_64 = self.extra1(stride_32)
        stride_128 = self.extra2(stride_64)
        stride_256 = self.extra3(stride_128)
        outputs = self.head([stride_8, stride_16, stride_32, stride_64, stride_128, stride_256])
        return outputs["cls_logits"], outputs["bbox_regression"]


def load_pretrained(network: SSDResNet18, weights: str) -> None:
    """Loads pretrained weights: of the backbone, or of the whole network.

    Args:
        network: takes the weights.
        weights: a name of torchvision's `ResNet18_Weights`, or a file with a state dict of a ResNet18 or of
            an `SSDResNet18` (a Lightning checkpoint of the recipe included).

    Raises:
        ConfigurationError: weights that are unknown, cannot be downloaded, or do not fit.
    """
    state = read_weights(weights, ResNet18_Weights)
    if any("backbone" in name.split(".") for name in state):
        load_weights(network, state, source=weights, replaceable=("head.classification_head.",))
    else:
        load_weights(
            network.backbone,
            _without_classifier(without_prefix(state, network.backbone.state_dict())),
            source=weights,
        )


def _without_classifier(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


def build_network(
    num_classes: int, aspect_ratios: Sequence[Sequence[float]], weights: str | None
) -> SSDResNet18:
    """An `SSDResNet18`, with pretrained weights where they are given."""
    network = SSDResNet18(num_classes, aspect_ratios)
    if weights is not None:
        load_pretrained(network, weights)
    return network
