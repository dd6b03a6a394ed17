"""Attention, whose projections are read and not called."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_compress import DKMPalettization, LinearQuantization, MagnitudePruning
from tests.cases.fitting import METHODS, of_shape, palettized


class Encoder(nn.Module):
    """A transformer layer between two linear ones."""

    def __init__(self, **form: bool) -> None:
        super().__init__()
        self.first = nn.Linear(16, 64)
        self.layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, **form)
        self.last = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.first(x)))


class NormedFirst(Encoder):
    def __init__(self) -> None:
        super().__init__(norm_first=True)


class TwoLayers(Encoder):
    """`nn.TransformerEncoder`, which has a fast path in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoder(self.layer, 2, enable_nested_tensor=False)


class Decoder(nn.Module):
    """Attends to itself and to a memory."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 64)
        self.layer = nn.TransformerDecoderLayer(64, 4, 128, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.layer(x, x.flip(1))


class Attention(nn.Module):
    """One `nn.MultiheadAttention`, whose weights are not asked for."""

    def __init__(self, **form: object) -> None:
        super().__init__()
        self.first = nn.Linear(16, 64)
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True, **form)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.attention(x, x, x, need_weights=False)[0]


class MapOfAttention(Attention):
    """Returns the weights of attention too."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first(x)
        return self.attention(x, x, x)


class OtherSizes(Attention):
    """Keys and values of another size, each with a projection of its own."""

    def __init__(self) -> None:
        super().__init__(kdim=16, vdim=16)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(self.first(x), x, x, need_weights=False)[0]


class Functional(Attention):
    """The functional form, called with the module's weights."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).transpose(0, 1)
        module = self.attention
        attended, _ = F.multi_head_attention_forward(
            x, x, x, 64, 4, module.in_proj_weight, module.in_proj_bias, None, None, False, 0.0,
            module.out_proj.weight, module.out_proj.bias, training=self.training, need_weights=False,
        )  # fmt: skip
        return attended.transpose(0, 1)


class JointProjection(nn.Module):
    """One linear layer makes queries, keys and values, as in timm."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 192)
        self.out = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).reshape(*x.shape[:2], 3, 4, 16).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.out(attended.transpose(1, 2).reshape(*x.shape[:2], 64))


class SlicedProjection(JointProjection):
    """Each part reads its rows of the joint weight."""

    def forward(self, x: Tensor) -> Tensor:
        parts = zip(self.qkv.weight.chunk(3), self.qkv.bias.chunk(3), strict=True)
        query, key, value = (F.linear(x, weight, bias) for weight, bias in parts)
        return self.out(F.scaled_dot_product_attention(query, key, value))


NETWORKS = [
    Encoder,
    NormedFirst,
    TwoLayers,
    Decoder,
    Attention,
    MapOfAttention,
    OtherSizes,
    Functional,
    JointProjection,
    SlicedProjection,
]


@pytest.mark.parametrize("network", NETWORKS)
def test_every_projection_is_compressed(fit, network, technique):
    outcome = fit(network(), of_shape(6, 16), METHODS[technique]())
    outcome.check_right()
    outcome.check_stored(technique)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_projection_that_is_called_takes_int8_inputs(fit, network, caplog):
    outcome = fit(network(), of_shape(6, 16), LinearQuantization())
    outcome.check_right(finalized=3e-2, package=8e-2)
    outcome.check_stored("quantized", bits=8)
    read_alone = {Functional: "attention", SlicedProjection: "qkv"}.get(network)
    assert outcome.operations["quantize"] >= (2 if read_alone is None else 1)
    told = [message for message in caplog.messages if "nothing called" in message]
    assert bool(told) == (read_alone is not None)
    assert all(str(read_alone) in message for message in told)


@pytest.mark.parametrize("network", [pytest.param(Encoder, marks=pytest.mark.slow), Attention])
def test_projections_take_several_methods(fit, network):
    methods = (MagnitudePruning(target_sparsity=0.5), palettized(n_bits=4))
    outcome = fit(network(), of_shape(6, 16), *methods)
    outcome.check_right()
    outcome.check_stored("palettized", bits=4)
    assert all(layer.sparsity > 0.4 for layer in outcome.layers)


@pytest.mark.slow
def test_palettes_go_with_int8_activations(fit):
    methods = (DKMPalettization(n_bits=4, weight_threshold=0), LinearQuantization(weight_dtype="float32"))
    outcome = fit(Encoder(), of_shape(6, 16), *methods)
    outcome.check_right(finalized=3e-2, package=8e-2)
    outcome.check_stored("palettized", bits=4)
    assert outcome.operations["quantize"] >= 2


class Masked(Encoder):
    """A causal mask, as a buffer of infinities."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.first(x), src_mask=self.mask))


def test_a_causal_mask_may_stand_beside(fit, technique):
    outcome = fit(Masked(), of_shape(6, 16), METHODS[technique]())
    outcome.check_right()
    compressed = [layer for layer in outcome.layers if layer.technique != "dense"]
    assert sum(layer.parameters for layer in compressed) > 30_000
    assert torch.isinf(outcome.compression.finalized.mask).any()
