"""Quantization within attention: the input of the output projection, and the operands of both products."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.inputs import input_techniques
from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.quantization import LinearQuantization


class Attention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.options = options

    def forward(self, x):
        return self.attention(x, x, x, **self.options)[0]


class OwnAttention(nn.Module):
    def __init__(self, causal=False):
        super().__init__()
        self.projection = nn.Linear(8, 24)
        self.causal = causal

    def forward(self, x):
        query, key, value = self.projection(x).chunk(3, -1)
        return functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)


class Products(OwnAttention):
    def forward(self, x):
        query, key, value = self.projection(x).chunk(3, -1)
        return (query @ key.transpose(-2, -1) / 3).softmax(-1) @ value


NETS = {
    "weights wanted": lambda: Attention(need_weights=True),
    "no weights": lambda: Attention(need_weights=False),
    "mask": lambda: Attention(attn_mask=torch.zeros(5, 5), need_weights=True),
    "encoder": lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
    "decoder": lambda: Decoder(),
}

OWN = {"own": OwnAttention, "causal": lambda: OwnAttention(causal=True), "products": Products}


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, x):
        return self.layer(x, x * 0.5)


def signals():
    return torch.randn(3, 5, 8)


MILESTONES = {"milestones": [0, 0, 2, -1]}


def trained(make, **keys):
    torch.manual_seed(0)
    net = make()
    prepared = PreparedModule(net, [LinearQuantization(**keys)])
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    prepared.start_training()
    for _ in range(4):
        optimizer.zero_grad()
        net(signals()).square().mean().backward()
        optimizer.step()
        prepared.step()
    return prepared, net


def check_agreement(prepared, net):
    """Training, evaluation, a copy, what is finalized and what is traced agree."""
    example = signals()
    finalized = prepared.finalize()
    with torch.no_grad():
        in_training = net(example)
        duplicate = copy.deepcopy(net).eval()
        torch.testing.assert_close(duplicate(example), in_training, rtol=0, atol=1e-6)
        torch.testing.assert_close(net.eval()(example), in_training, rtol=0, atol=1e-6)
        torch.testing.assert_close(finalized(example), in_training, rtol=0, atol=1e-6)
        traced = torch.jit.trace(finalized, example, check_trace=False)
        torch.testing.assert_close(traced(example), in_training, rtol=0, atol=1e-6)
    return [node for node in traced.inlined_graph.nodes() if "fake_quantize" in node.kind()]


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("name", NETS)
@pytest.mark.filterwarnings("ignore")
def test_attention_is_rounded_within(name, products):
    prepared, net = trained(NETS[name], attention_products=products, **MILESTONES)
    attentions = [part for part in net.modules() if isinstance(part, nn.MultiheadAttention)]
    for attention in attentions:
        assert not any(technique.is_blind for _, _, technique in input_techniques(attention.out_proj))
    rounded = check_agreement(prepared, net)
    # The inputs of attention and of its output projection; of two linear layers in an encoder or decoder.
    expected = {"encoder": 4, "decoder": 7}.get(name, 2)
    assert len(rounded) == expected + (4 * len(attentions) if products else 0)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.filterwarnings("ignore")
def test_attention_of_the_user_is_rounded_where_asked(name):
    own = f"{OwnAttention.__module__}.{OwnAttention.__qualname__}"
    prepared, net = trained(
        lambda: nn.Sequential(OWN[name]()),
        global_config=MILESTONES,
        module_type_configs={own: {"attention_products": True}},
    )
    assert len(check_agreement(prepared, net)) == 5
    before = net.state_dict()
    assert sum("attention_products" in key for key in before) == 4 * 5


@pytest.mark.filterwarnings("ignore")
def test_rounding_changes_attention_only_a_little():
    torch.manual_seed(0)
    plain = OwnAttention(causal=True)
    net = nn.Sequential(copy.deepcopy(plain))
    PreparedModule(
        net,
        [
            LinearQuantization(
                global_config={}, module_type_configs={OwnAttention: {"attention_products": True}}
            )
        ],
    )
    example = signals()
    torch.testing.assert_close(net(example), plain(example), rtol=0, atol=0.05)
    assert not torch.equal(net(example), plain(example))


def test_products_of_float_inputs_are_refused():
    with pytest.raises(ConfigurationError, match="attention_products"):
        LinearQuantization(attention_products=True, activation_dtype="float32")


def test_an_error_within_attention_leaves_nothing_behind():
    net = Attention()
    PreparedModule(net, [LinearQuantization(attention_products=True)])
    with pytest.raises((RuntimeError, AssertionError)):
        net(torch.randn(3, 5, 7))
    assert torch.overrides._len_torch_function_stack() == 0


@pytest.mark.parametrize("products", [False, True])
def test_every_learned_scale_has_a_gradient_in_self_attention(products):
    net = Attention()
    PreparedModule(net, [LinearQuantization(algorithm="learnable", attention_products=products)])
    net(signals()).square().mean().backward()
    assert all(parameter.grad is not None for parameter in net.parameters() if parameter.requires_grad)
