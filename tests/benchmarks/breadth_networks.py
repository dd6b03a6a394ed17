"""Networks that people bring, with random weights and small inputs: timm, torchvision, segmentation_models_pytorch.

Each entry of `NETWORKS` builds a network and says what its inputs are; the libraries are imported when asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks.breadth_plain import PLAIN
from tests.benchmarks.breadth_transformers import TRANSFORMERS, Picked

Inputs = Callable[[int], tuple[Tensor, ...]]
Builder = Callable[[], tuple[nn.Module, Inputs]]


def images(size: int, channels: int = 3) -> Inputs:
    """Square images of noise.

    Args:
        size: Pixels of a side.
        channels: Channels of an image.
    """
    return lambda count: (torch.randn(count, channels, size, size),)


@dataclass(frozen=True)
class Timm:
    """A network of timm.

    Attributes:
        name: Its name there.
        size: Pixels of a side of its input.
        fixed: Whether the network is made for one size, and takes `img_size`.
        classes: Classes of its head.
        options: What else `create_model` is told.
    """

    name: str
    size: int = 64
    fixed: bool = False
    classes: int = 10
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self) -> tuple[nn.Module, Inputs]:
        import timm

        options: dict[str, Any] = {"num_classes": self.classes, **dict(self.options)}
        if self.fixed:
            options["img_size"] = self.size
        return timm.create_model(self.name, pretrained=False, **options), images(self.size)


def _torchvision(path: str, size: int = 64, pick: str | None = None, **options: Any) -> Builder:
    """A network that a function of `torchvision.models` builds."""

    def build() -> tuple[nn.Module, Inputs]:
        from torchvision import models

        builder: Any = models
        for part in path.split("."):
            builder = getattr(builder, part)
        network = builder(weights=None, **options)
        return (network if pick is None else Picked(network, pick)), images(size)

    return build


def _video() -> tuple[nn.Module, Inputs]:
    from torchvision.models.video import r3d_18

    return r3d_18(weights=None, num_classes=10), lambda count: (torch.randn(count, 3, 4, 32, 32),)


class LastFlow(nn.Module):
    """The last of the flows that RAFT refines."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Run RAFT with two refinements."""
        flows: list[Tensor] = self.network(first, second, num_flow_updates=2)
        return flows[-1]


def _raft() -> tuple[nn.Module, Inputs]:
    from torchvision.models.optical_flow import raft_small

    inputs = lambda count: (torch.randn(count, 3, 128, 128), torch.randn(count, 3, 128, 128))  # noqa: E731
    return LastFlow(raft_small(weights=None)), inputs


class RawDetector(nn.Module):
    """Boxes and scores of a detector, as its head gives them."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.head

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return regressions and logits of all anchors."""
        outputs = self.head(list(self.backbone(image).values()))
        return outputs["bbox_regression"], outputs["cls_logits"]


def _ssdlite() -> tuple[nn.Module, Inputs]:
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    detector = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
    return RawDetector(detector), images(160)


def _vision_transformer() -> tuple[nn.Module, Inputs]:
    from torchvision.models import VisionTransformer

    network = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=64, mlp_dim=128, num_classes=10
    )
    return network, images(32)


def _swin() -> tuple[nn.Module, Inputs]:
    from torchvision.models import SwinTransformer

    network = SwinTransformer(
        patch_size=[4, 4], embed_dim=32, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4],
        stochastic_depth_prob=0.2, num_classes=10,
    )  # fmt: skip
    return network, images(64)


def _convnext() -> tuple[nn.Module, Inputs]:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    blocks = [CNBlockConfig(32, 64, 1), CNBlockConfig(64, 128, 1), CNBlockConfig(128, None, 1)]
    return ConvNeXt(blocks, stochastic_depth_prob=0.1, num_classes=10), images(64)


def _segmentation(architecture: str, encoder: str, size: int = 64) -> Builder:
    """A network of segmentation_models_pytorch."""

    def build() -> tuple[nn.Module, Inputs]:
        import segmentation_models_pytorch as smp

        network = getattr(smp, architecture)(encoder_name=encoder, encoder_weights=None, classes=4)
        return network, images(size)

    return build


_TIMM: tuple[tuple[str, Timm], ...] = (
    ("mobilenetv4_conv_small", Timm("mobilenetv4_conv_small")),
    ("mobilenetv4_conv_small_1000", Timm("mobilenetv4_conv_small", classes=1000)),
    ("mobilenetv3_small_100", Timm("mobilenetv3_small_100")),
    ("efficientnet_lite0", Timm("efficientnet_lite0")),
    ("tf_efficientnet_lite0", Timm("tf_efficientnet_lite0")),
    ("convnext_atto", Timm("convnext_atto")),
    ("convnext_atto_drop_path", Timm("convnext_atto", options=(("drop_path_rate", 0.1),))),
    ("mobileone_s0", Timm("mobileone_s0")),
    ("repvit_m0_9", Timm("repvit_m0_9")),
    ("mobilevit_xxs", Timm("mobilevit_xxs")),
    ("edgenext_xx_small", Timm("edgenext_xx_small")),
    ("resnet18d", Timm("resnet18d")),
    ("regnety_002", Timm("regnety_002")),
    ("nf_regnet_b0", Timm("nf_regnet_b0")),
    ("ghostnet_050", Timm("ghostnet_050")),
    ("fastvit_t8", Timm("fastvit_t8")),
    ("efficientformerv2_s0", Timm("efficientformerv2_s0", size=224)),
    ("efficientvit_b0", Timm("efficientvit_b0")),
    ("vit_tiny_patch16", Timm("vit_tiny_patch16_224", fixed=True)),
    ("deit3_small_patch16", Timm("deit3_small_patch16_224", fixed=True)),
    (
        "swin_tiny",
        Timm("swin_tiny_patch4_window7_224", fixed=True, options=(("window_size", 4),)),
    ),
    ("levit_128s", Timm("levit_128s", size=224)),
    ("tiny_vit_5m", Timm("tiny_vit_5m_224", size=224)),
    ("mixer_s32", Timm("mixer_s32_224", fixed=True)),
)

NETWORKS: dict[str, Builder] = {
    **{f"timm/{name}": network for name, network in _TIMM},
    "torchvision/deeplabv3_mobilenet_v3_large": _torchvision(
        "segmentation.deeplabv3_mobilenet_v3_large", pick="out", weights_backbone=None, num_classes=4
    ),
    "torchvision/lraspp_mobilenet_v3_large": _torchvision(
        "segmentation.lraspp_mobilenet_v3_large", pick="out", weights_backbone=None, num_classes=4
    ),
    "torchvision/fcn_resnet50": _torchvision(
        "segmentation.fcn_resnet50", pick="out", weights_backbone=None, num_classes=4
    ),
    "torchvision/ssdlite320_mobilenet_v3_large": _ssdlite,
    "torchvision/r3d_18": _video,
    "torchvision/mobilenet_v3_small": _torchvision("mobilenet_v3_small", num_classes=10),
    "torchvision/raft_small": _raft,
    "torchvision/vision_transformer": _vision_transformer,
    "torchvision/swin": _swin,
    "torchvision/efficientnet_b0": _torchvision("efficientnet_b0", num_classes=10),
    "torchvision/convnext": _convnext,
    "torchvision/shufflenet_v2_x0_5": _torchvision("shufflenet_v2_x0_5", num_classes=10),
    "smp/unet_resnet18": _segmentation("Unet", "resnet18"),
    "smp/fpn_mobilenet_v2": _segmentation("FPN", "mobilenet_v2"),
    "smp/deeplabv3plus_resnet18": _segmentation("DeepLabV3Plus", "resnet18"),
    "smp/segformer_mit_b0": _segmentation("Segformer", "mit_b0"),
    "smp/linknet_resnet18": _segmentation("Linknet", "resnet18"),
    **{f"transformers/{name}": builder for name, builder in TRANSFORMERS.items()},
    **{f"torch/{name}": builder for name, builder in PLAIN.items()},
}
