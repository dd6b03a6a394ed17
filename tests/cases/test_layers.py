"""Layers of every dimension, their subclasses, and layers that only look like one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_compress import DKMPalettization, LinearQuantization
from tests.cases.fitting import METHODS, TableBeforeTraining, of_shape, palettized

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Conv1d": (lambda: nn.Conv1d(8, 16, 5), (8, 20)),
    "Conv1d, depthwise": (lambda: nn.Conv1d(64, 64, 5, groups=64), (64, 20)),
    "Conv2d, grouped": (lambda: nn.Conv2d(16, 16, 3, groups=4), (16, 8, 8)),
    "Conv3d": (lambda: nn.Conv3d(4, 16, 3), (4, 6, 6, 6)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(8, 16, 5), (8, 20)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(8, 16, 4, stride=2, padding=1), (8, 6, 6)),
    "ConvTranspose2d, grouped": (lambda: nn.ConvTranspose2d(16, 32, 3, groups=2), (16, 6, 6)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(4, 8, 3), (4, 4, 4, 4)),
    "Linear of three dimensions": (lambda: nn.Linear(32, 48), (5, 32)),
    "Linear without bias": (lambda: nn.Linear(32, 48, bias=False), (32,)),
}


class Behind(nn.Module):
    """A layer behind a pointwise beginning, so that its input is a hidden value."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.relu(x * self.scale))


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_of_every_dimension_are_compressed(fit, layer, technique):
    make, shape = LAYERS[layer]
    outcome = fit(Behind(make()), of_shape(*shape), METHODS[technique]())
    outcome.check_right()
    outcome.check_stored(technique, sparsity=0.5 if technique == "pruned" else None)


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_of_every_dimension_take_int8_inputs(fit, layer):
    make, shape = LAYERS[layer]
    outcome = fit(Behind(make()), of_shape(*shape), LinearQuantization())
    outcome.check_right(finalized=2e-2, package=5e-2)
    outcome.check_stored("quantized", bits=8)
    assert outcome.operations["quantize"] > 0


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("dimensions", [1, 2])
def test_padding_is_that_of_the_layer(fit, technique, dimensions, mode):
    kind = nn.Conv1d if dimensions == 1 else nn.Conv2d
    network = nn.Sequential(
        kind(4, 32, 3, padding=1, padding_mode=mode),
        nn.ReLU(),
        kind(32, 8, 3, padding=1, padding_mode=mode),
    )
    outcome = fit.outcome_or_refusal(network, of_shape(*(4, 8, 8)[: dimensions + 1]), METHODS[technique]())
    if isinstance(outcome, str):
        # Core ML's pad has no such mode, with or without compression.
        assert mode == "circular", outcome
        return
    outcome.check_right()
    outcome.check_stored(technique)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_is_that_of_the_layer_with_int8_inputs(fit, mode):
    network = nn.Sequential(
        nn.Conv2d(4, 32, 3, padding=1, padding_mode=mode),
        nn.ReLU(),
        nn.Conv2d(32, 8, 3, padding=1, padding_mode=mode),
    )
    outcome = fit.outcome_or_refusal(network, of_shape(4, 8, 8), LinearQuantization())
    if isinstance(outcome, str):
        assert mode == "circular", outcome
        return
    outcome.check_right(finalized=2e-2, package=5e-2)
    outcome.check_stored("quantized", bits=8)
    assert outcome.operations["quantize"] > 0


class Conv2dSame(nn.Conv2d):
    """Pads by itself, as in the networks that came from TensorFlow."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 1, 1, 1)))


class StandardizedConv2d(nn.Conv2d):
    """Standardizes its weight before use (Qiao et al., arXiv 1903.10520)."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        mean, spread = weight.mean((1, 2, 3), keepdim=True), weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, (weight - mean) / (spread + 1e-5), self.bias, self.stride, 1)


class CastingLinear(nn.Linear):
    """Casts its weight to the type of its input, as timm's and LoRA's do."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class NamedLinear(nn.Linear):
    """A subclass that changes nothing."""


class FlatteningLinear(nn.Linear):
    """Takes an image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


class Conv3dSimple(nn.Conv3d):
    """The convolution of torchvision's r3d_18, with arguments of its own."""

    def __init__(self, inputs: int, outputs: int, middle: int | None = None) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=False)


SUBCLASSES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "all of them": (lambda: nn.Sequential(Conv2dSame(8, 16, 3), nn.ReLU(), Conv2dSame(16, 8, 3)), (8, 6, 6)),
    "beside plain ones": (lambda: nn.Sequential(Conv2dSame(8, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 1)), (8, 6, 6)),
    "casting": (lambda: nn.Sequential(nn.Linear(32, 64), nn.ReLU(), CastingLinear(64, 32)), (32,)),
    "by name only": (lambda: nn.Sequential(nn.Linear(32, 64), nn.ReLU(), NamedLinear(64, 32)), (32,)),
    "flattening": (lambda: nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), FlatteningLinear(256, 16)), (8, 6, 6)),
    "three dimensions": (
        lambda: nn.Sequential(Conv3dSimple(4, 8), nn.ReLU(), Conv3dSimple(8, 8)),
        (4, 4, 4, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SUBCLASSES)
def test_subclasses_of_a_layer_are_compressed_like_it(fit, kind, technique):
    make, shape = SUBCLASSES[kind]
    outcome = fit(make(), of_shape(*shape), METHODS[technique]())
    outcome.check_right()
    outcome.check_stored(technique)


@pytest.mark.parametrize("kind", SUBCLASSES)
def test_subclasses_of_a_layer_take_int8_inputs(fit, kind):
    make, shape = SUBCLASSES[kind]
    outcome = fit(make(), of_shape(*shape), LinearQuantization())
    outcome.check_right(finalized=2e-2, package=5e-2)
    outcome.check_stored("quantized", bits=8)
    assert outcome.operations["quantize"] > 0


def test_a_layer_that_standardizes_its_weight_trains_and_ships_the_compressed_one(fit, technique):
    # What is standardized is stored as constants of its own, which the palette or the zeros may not survive.
    network = nn.Sequential(nn.Conv2d(3, 32, 1), StandardizedConv2d(32, 16, 3), nn.ReLU())
    outcome = fit.outcome_or_refusal(network, of_shape(3, 8, 8), METHODS[technique]())
    if not isinstance(outcome, str):
        outcome.check_right()


class Conv1D(nn.Module):
    """The linear layer of GPT-2, whose weight stands the other way round, as transformers writes it."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.nf = outputs
        self.weight = nn.Parameter(torch.randn(inputs, outputs) * 0.1)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.size()[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(shape)


class MatrixLayer(nn.Module):
    """A layer of one's own, by matrix multiplication."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def test_a_layer_written_like_that_of_gpt2_is_palettized_or_told_to_be_dense_before_training(fit, capsys):
    network = nn.Sequential(nn.Linear(64, 64), Conv1D(512, 64), nn.ReLU(), Conv1D(64, 512))
    table = TableBeforeTraining(capsys)
    outcome = fit(network, of_shape(8, 64), DKMPalettization(n_bits=4), callbacks=(table,))
    outcome.check_right()
    if any(layer.technique == "dense" for layer in outcome.layers):
        assert table.tells_dense("1"), table.printed
        assert table.tells_dense("3"), table.printed


@pytest.mark.parametrize("names", ["[13]", r"[13]\.weight"])
def test_a_layer_written_like_that_of_gpt2_is_palettized_by_its_name(fit, names):
    network = nn.Sequential(nn.Linear(64, 64), Conv1D(512, 64), nn.ReLU(), Conv1D(64, 512))
    method = DKMPalettization(n_bits=4, module_name_configs={names: {"n_bits": 4}})
    outcome = fit(network, of_shape(8, 64), method)
    outcome.check_right()
    outcome.check_stored("palettized", bits=4)


def test_the_linear_layer_of_transformers_itself_is_compressed(fit, technique):
    layers = pytest.importorskip("transformers.pytorch_utils")
    network = nn.Sequential(nn.Linear(32, 64), layers.Conv1D(48, 64), nn.ReLU(), layers.Conv1D(32, 48))
    outcome = fit(network, of_shape(8, 32), METHODS[technique]())
    outcome.check_right()
    outcome.check_stored(technique)


@pytest.mark.parametrize("names", ["[02]", r"[02]\.weight"])
def test_a_layer_of_ones_own_is_compressed_by_its_name(fit, names):
    network = nn.Sequential(MatrixLayer(32, 64), nn.ReLU(), MatrixLayer(64, 32))
    keys = {"n_bits": 4, "weight_threshold": 0}
    outcome = fit(network, of_shape(32), palettized(module_name_configs={names: keys}))
    outcome.check_right()
    outcome.check_stored("palettized", bits=4)


@pytest.mark.slow
@pytest.mark.parametrize("technique", METHODS)
def test_a_network_for_videos_is_compressed_as_a_whole(fit, technique):
    from torchvision.models.video import resnet

    # r3d_18 with one block where it has two.
    blocks = [resnet.Conv3DSimple] * 4
    network = resnet.VideoResNet(resnet.BasicBlock, blocks, [1, 1, 1, 1], resnet.BasicStem, num_classes=10)
    outcome = fit(network, of_shape(3, 4, 32, 32), METHODS[technique]())
    outcome.check_right(package=5e-2)
    dense = sum(layer.float16_bytes for layer in outcome.layers if technique not in layer.technique)
    assert dense < 0.02 * sum(layer.float16_bytes for layer in outcome.layers)
