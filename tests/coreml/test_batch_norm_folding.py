"""Batch norms behind compressed layers become part of them, and the package computes the same."""

from __future__ import annotations

import itertools

import coremltools as ct
import pytest
import torch
from torch import Tensor, nn

from lightning_compress.coreml.convert import convert
from lightning_compress.methods.mechanism.stored import (
    StoredIntegers,
    StoredPalette,
    StoredTensor,
    register_version,
)
from lightning_compress.package.inspection import inspect
from lightning_compress.package.save import save_package
from lightning_compress.runtime import load

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

LAYERS = {
    "conv1d": (lambda: nn.Conv1d(4, 8, 3), nn.BatchNorm1d, (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d, (1, 4, 6, 7)),
    "conv2d in groups": (lambda: nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d, (1, 4, 6, 7)),
    "conv3d": (lambda: nn.Conv3d(4, 8, 2), nn.BatchNorm3d, (1, 4, 3, 4, 5)),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(4, 8, 3), nn.BatchNorm1d, (1, 4, 5)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(4, 8, 3, stride=2), nn.BatchNorm2d, (1, 4, 5, 4)),
    "conv_transpose2d in groups": (
        lambda: nn.ConvTranspose2d(4, 8, 3, groups=2, bias=False),
        nn.BatchNorm2d,
        (1, 4, 5, 4),
    ),
    "linear": (lambda: nn.Linear(4, 8), nn.BatchNorm1d, (3, 4)),
}


def output_axis(layer: nn.Module) -> int:
    return 1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0


def integers(
    layer: nn.Module,
    *,
    n_bits: int = 8,
    blocks: str = "channel",
    affine: bool = False,
    sparse: bool = False,
    lowest: bool = False,
) -> None:
    """Make the weight one of integers, with the buffers that say so."""
    random = torch.Generator().manual_seed(5)
    shape = layer.weight.shape
    counts = [1] * len(shape)
    axis = output_axis(layer)
    if blocks != "tensor":
        counts[axis] = shape[axis]
    if blocks == "blocks":
        counts[1 - axis] = 2
    low, high = (0, 2**n_bits) if affine else (-(2 ** (n_bits - 1)) + (0 if lowest else 1), 2 ** (n_bits - 1))
    levels = torch.randint(low, high, shape, generator=random).float()
    if lowest:
        levels[0] = low
    scale = torch.rand(counts, generator=random) * 0.5 / 2**n_bits + 1e-3
    zero = torch.randint(low, high, counts, generator=random).float() if affine else None

    def each(part: Tensor) -> Tensor:
        for dim, (extent, count) in enumerate(zip(shape, counts, strict=True)):
            part = part.repeat_interleave(extent // count, dim)
        return part

    values = (levels if zero is None else levels - each(zero)) * each(scale)
    if sparse:
        values = values * (torch.rand(shape, generator=random) > 0.4)
    layer.weight.data = values
    StoredTensor(sparse, None, StoredIntegers(n_bits, scale, zero)).register(layer, "weight")


def palettes(layer: nn.Module, *, scaled: bool, sparse: bool = False) -> None:
    """Palettize the weight at 2 bits, with the buffers that say so."""
    random = torch.Generator().manual_seed(6)
    shape = layer.weight.shape
    lut = torch.tensor([-0.5, -0.125, 0.25, 0.75]).reshape(*[1] * len(shape), 4, 1)
    values = lut.flatten()[torch.randint(0, 4, shape, generator=random)]
    scale = None
    if scaled:
        counts = [1] * len(shape)
        counts[output_axis(layer)] = shape[output_axis(layer)]
        scale = torch.rand(counts, generator=random) + 0.5
        values = values * scale
    if sparse:
        values = values * (torch.rand(shape, generator=random) > 0.4)
    layer.weight.data = values
    StoredTensor(sparse, StoredPalette(lut, scale)).register(layer, "weight")


def network(layer: nn.Module, norm: type[nn.Module], *, affine: bool = True) -> nn.Sequential:
    """The layer and a batch norm with gammas of both signs, one of them zero."""
    random = torch.Generator().manual_seed(7)
    batch_norm = norm(8, affine=affine)
    batch_norm.running_mean = torch.randn(8, generator=random)
    batch_norm.running_var = torch.rand(8, generator=random) + 0.5
    if affine:
        batch_norm.weight.data = torch.tensor([1.0, -0.5, 0.0, 2.0, -1.5, 0.25, 1.0, -1.0])
        batch_norm.bias.data = torch.randn(8, generator=random)
    module = nn.Sequential(layer, batch_norm).eval()
    register_version(module)
    return module


def converted(module: nn.Module, shape, tmp_path, target=ct.target.iOS18):
    """The report of a package that computes what the module does."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(8))
    model = convert(module, x, target=target, compute_precision="float32")
    path = save_package(model, tmp_path / "net.mlpackage")
    (output,) = load(path)(x).values()
    with torch.no_grad():
        torch.testing.assert_close(output, module(x), atol=1e-4, rtol=1e-4)
    return inspect(path)


FORMS = {
    "int8": {},
    "int8 down to -128": {"lowest": True},
    "int8 per tensor": {"blocks": "tensor"},
    "int8 in blocks": {"blocks": "blocks"},
    "uint8 with zero points": {"affine": True},
    "int4": {"n_bits": 4},
    "int4 down to -8": {"n_bits": 4, "lowest": True},
    "sparse int8": {"sparse": True},
    "sparse uint8": {"sparse": True, "affine": True},
    "sparse int8 down to -128": {"sparse": True, "lowest": True},
}


SOME_LAYERS = [
    pytest.param(name, marks=() if name in ("conv2d", "conv_transpose2d in groups") else pytest.mark.slow)
    for name in LAYERS
]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        # Each layer and each form a few times; all pairs are slow.
        pytest.param(name, form, marks=() if (place + other) % 3 == 0 else pytest.mark.slow)
        for (place, name), (other, form) in itertools.product(enumerate(LAYERS), enumerate(FORMS))
    ],
)
def test_integers_take_a_batch_norm_in(name, form, tmp_path):
    build, norm, shape = LAYERS[name]
    layer = build()
    if form == "int8 in blocks" and name == "conv_transpose2d in groups":
        pytest.skip("blocks of a transposed layer's input channels do not follow its groups")
    integers(layer, **FORMS[form])
    report = converted(network(layer, norm), shape, tmp_path)
    assert "batch_norm" not in report.operations
    (weight,) = [one for one in report.layers if one.parameters == layer.weight.numel()]
    assert weight.name.endswith("0_weight")
    assert weight.bits == FORMS[form].get("n_bits", 8)
    assert "quantized" in weight.technique


@pytest.mark.parametrize("target", [ct.target.iOS16, pytest.param(ct.target.iOS17, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "form",
    [
        "int8",
        *(
            pytest.param(form, marks=pytest.mark.slow)
            for form in ("int8 down to -128", "int8 per tensor", "uint8 with zero points")
        ),
    ],
)
@pytest.mark.parametrize("name", SOME_LAYERS)
def test_on_earlier_systems_too(name, form, target, tmp_path):
    build, norm, shape = LAYERS[name]
    layer = build()
    integers(layer, **FORMS[form])
    report = converted(network(layer, norm), shape, tmp_path, target)
    # Output channels of a transposed layer in groups are two axes of its weight, which these systems cannot scale.
    assert ("batch_norm" in report.operations) == (name == "conv_transpose2d in groups")


@pytest.mark.parametrize("name", SOME_LAYERS)
def test_without_a_gamma(name, tmp_path):
    build, norm, shape = LAYERS[name]
    layer = build()
    integers(layer)
    assert "batch_norm" not in converted(network(layer, norm, affine=False), shape, tmp_path).operations


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    "name",
    ["conv2d", *(pytest.param(n, marks=pytest.mark.slow) for n in ("conv1d", "conv_transpose2d", "linear"))],
)
def test_palettes_with_a_scale_for_each_channel_take_it_in(name, sparse, tmp_path):
    build, norm, shape = LAYERS[name]
    layer = build()
    palettes(layer, scaled=True, sparse=sparse)
    assert "batch_norm" not in converted(network(layer, norm), shape, tmp_path).operations


def test_palettes_without_a_scale_leave_it(tmp_path):
    build, norm, shape = LAYERS["conv2d"]
    layer = build()
    palettes(layer, scaled=False)
    report = converted(network(layer, norm), shape, tmp_path)
    assert report.operations["batch_norm"] == 1


class UsedTwice(nn.Module):
    """The layer's output goes to a batch norm and elsewhere."""

    def __init__(self, parts: nn.Sequential) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        y = self.parts[0](x)
        return self.parts[1](y) + torch.tanh(y)


def test_an_output_that_is_used_twice_leaves_it(tmp_path):
    build, norm, shape = LAYERS["conv2d"]
    layer = build()
    integers(layer)
    report = converted(UsedTwice(network(layer, norm)).eval(), shape, tmp_path)
    assert report.operations["batch_norm"] == 1
