"""Weights that a conversion moves about are stored as they were selected, or the conversion says which it cannot."""

from __future__ import annotations

import itertools

import coremltools as ct
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_compress.coreml.convert import convert
from lightning_compress.coreml.metadata_buffers import selected_tensors
from lightning_compress.errors import CompressionError
from lightning_compress.metadata_names import BY_VALUE, CONVERTED, METADATA_VERSION
from lightning_compress.methods import DKMPalettization, LinearQuantization, MagnitudePruning
from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.package.inspection import inspect
from lightning_compress.package.save import save_package
from lightning_compress.runtime import load

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

METHODS = {
    "a palette": (lambda: [DKMPalettization(n_bits=4, weight_threshold=0)], "palettized"),
    "palettes of groups": (
        lambda: [
            DKMPalettization(n_bits=2, weight_threshold=0, granularity="per_grouped_channel", group_size=8)
        ],
        "palettized",
    ),
    "zeros": (lambda: [MagnitudePruning(target_sparsity=0.5)], "pruned"),
    "integers": (lambda: [LinearQuantization(activation_dtype="float32")], "quantized"),
}


class First(nn.Module):
    """The first output of a layer that returns several."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class Tied(nn.Module):
    """An embedding whose transpose is the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens) @ self.embedding.weight.t()


class Viewed(nn.Module):
    """A linear layer whose weight is used in parts and as a convolution's."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 32)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        weight = self.layer.weight
        if self.way == "rows":
            return functional.linear(x, weight[:16]) + functional.linear(x, weight[16:])
        if self.way == "columns":
            return functional.linear(x[..., :8], weight[:, :8]) * functional.linear(x[..., 8:], weight[:, 8:])
        if self.way == "convolution":
            return functional.conv1d(x.transpose(1, 2), weight.view(32, 16, 1))
        if self.way == "heads":
            return torch.einsum("bti,hio->bhto", x, weight.reshape(4, 8, 16).permute(0, 2, 1))
        return x @ weight.t()


class SelfAttention(nn.Module):
    """Attention of one input."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


SEQUENCE = (2, 5, 16)

RECURRENT = {
    "LSTM": lambda: First(nn.LSTM(16, 16, batch_first=True)),
    "LSTM of two layers": lambda: First(nn.LSTM(16, 16, num_layers=2)),
    "LSTM in both directions": lambda: First(nn.LSTM(16, 16, bidirectional=True, batch_first=True)),
    "GRU": lambda: First(nn.GRU(16, 16, batch_first=True)),
    "RNN": lambda: First(nn.RNN(16, 16)),
}
OTHERS = {
    "attention": SelfAttention,
    "a transformer's layer": lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True),
    "rows": lambda: Viewed("rows"),
    "columns": lambda: Viewed("columns"),
    "a transpose": lambda: Viewed("transpose"),
    "a convolution": lambda: Viewed("convolution"),
    "heads": lambda: Viewed("heads"),
}


def compressed(module: nn.Module, methods, x: Tensor) -> tuple[nn.Module, dict[str, Tensor]]:
    """The finalized module, and its tensors that are stored compressed."""
    prepared = PreparedModule(module, methods)
    prepared.start_training()
    finalized = prepared.finalize([(x,)], rehearses=True)
    return finalized, {name: finalized.get_parameter(name) for name in selected_tensors(finalized)}


def check(module: nn.Module, method: str, x: Tensor, tmp_path) -> None:
    """Everything that was selected is stored compressed, and the package computes what the module does."""
    methods, technique = METHODS[method]
    torch.manual_seed(2)
    finalized, selected = compressed(module.eval(), methods(), x)
    assert selected
    model = convert(finalized, x, target=ct.target.iOS18, compute_precision="float32")
    path = save_package(model, tmp_path / "net.mlpackage")
    (output,) = load(path)(x).values()
    with torch.no_grad():
        torch.testing.assert_close(output, finalized(x), atol=1e-4, rtol=1e-3)
    layers = [layer for layer in inspect(path).layers if technique in layer.technique]
    stored = sum(layer.parameters for layer in layers)
    assert stored >= sum(parameter.numel() for parameter in selected.values())
    known = [name.replace(".", "_") for name in selected]
    assert all(any(name in layer.name for name in known) for layer in layers), [
        layer.name for layer in layers
    ]


@pytest.mark.parametrize(
    ("name", "method"),
    [
        # Each network and each method a few times; all pairs are slow.
        pytest.param(name, method, marks=() if (place + other) % 4 == 0 else pytest.mark.slow)
        for (place, name), (other, method) in itertools.product(
            enumerate([*RECURRENT, *OTHERS]), enumerate(METHODS)
        )
    ],
)
def test_nothing_that_was_selected_is_stored_dense(name, method, tmp_path):
    torch.manual_seed(1)
    check({**RECURRENT, **OTHERS}[name](), method, torch.randn(SEQUENCE), tmp_path)


@pytest.mark.parametrize("method", ["a palette", "integers"])
def test_a_tied_embedding_is_stored_once(method, tmp_path):
    torch.manual_seed(1)
    check(Tied(), method, torch.randint(0, 32, (2, 5)), tmp_path)


# coremltools' converter leaves its folder to the garbage collector when it fails.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("target", [ct.target.iOS16, ct.target.iOS17])
def test_recurrent_layers_of_earlier_systems_are_refused_by_name(target):
    x = torch.randn(SEQUENCE)
    finalized, _ = compressed(RECURRENT["LSTM"]().eval(), METHODS["a palette"][0](), x)
    with pytest.raises(CompressionError, match=r"layer\.weight_ih_l0.*minimum_deployment_target=\"iOS18\""):
        convert(finalized, x, target=target)


def named_by_value(module: nn.Module) -> None:
    """Have the metadata looked for by values alone, as that of recurrent layers is."""
    for owner in module.modules():
        for name in [n for n in owner._buffers if n.startswith(f"{CONVERTED}/") and n != METADATA_VERSION]:
            owner._buffers[name.replace(CONVERTED, BY_VALUE, 1)] = owner._buffers.pop(name)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("method", METHODS)
def test_a_weight_that_a_conversion_cuts_along_its_columns_is_told_and_not_stored_dense(method):
    torch.manual_seed(1)
    x = torch.randn(SEQUENCE)
    finalized, _ = compressed(Viewed("columns").eval(), METHODS[method][0](), x)
    named_by_value(finalized)
    with pytest.raises(CompressionError, match=r"'layer\.weight' would be stored dense"):
        convert(finalized, x, target=ct.target.iOS18)
