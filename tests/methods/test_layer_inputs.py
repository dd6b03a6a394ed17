"""A layer computes the product of its weight's matrix and what is gathered of its inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_compress.methods.mechanism.layer_inputs import gather_of, matrix_form
from lightning_compress.methods.mechanism.tensors import TensorReference, find_tensors

_MANY = 1 << 20


def product(reference: TensorReference, call: tuple[tuple[Any, ...], dict[str, Any]]) -> Tensor:
    """Outputs of the matrix by rows of inputs, (rows, places)."""
    form = matrix_form(reference)
    assert form is not None
    gathered = gather_of(reference.owners[0])
    assert gathered is not None
    layer, gather = gathered
    rows = gather(layer, call, _MANY)
    assert rows is not None
    matrix = form.matrix(reference.value().detach()).reshape(len(rows), -1, form.columns)
    assert torch.equal(form.weight(form.matrix(reference.value())), reference.value())
    return torch.einsum("grd,gpd->grp", matrix, rows).flatten(0, 1)


_convolutions = st.fixed_dictionaries(
    {
        "rank": st.integers(1, 3),
        "groups": st.sampled_from([1, 2, 4]),
        "kernel_size": st.integers(1, 3),
        "stride": st.integers(1, 2),
        "dilation": st.integers(1, 2),
        "padding": st.integers(0, 2),
    }
)


@settings(max_examples=40, deadline=None)
@given(keys=_convolutions, turned=st.booleans(), mode=st.sampled_from(["zeros", "circular", "reflect"]))
def test_convolutions_multiply_patches_of_any_form(keys: dict[str, int], turned: bool, mode: str) -> None:
    rank = keys.pop("rank")
    if turned:
        layer = getattr(nn, f"ConvTranspose{rank}d")(
            4, 8, **keys, output_padding=keys["stride"] - 1 if keys["stride"] > 1 else 0, bias=False
        )
    else:
        layer = getattr(nn, f"Conv{rank}d")(4, 8, **keys, padding_mode=mode, bias=False)
    inputs = torch.randn(2, 4, *[7, 6, 5][:rank])
    expected = layer(inputs).detach().transpose(0, 1).flatten(1)
    found = product(find_tensors(layer)[0], ((inputs,), {}))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_convolutions_whose_padding_has_a_name_and_single_samples(padding: str) -> None:
    layer = nn.Conv2d(3, 4, (1, 3), padding=padding, bias=False)
    inputs = torch.randn(3, 6, 5)
    expected = layer(inputs).detach().flatten(1)
    torch.testing.assert_close(product(find_tensors(layer)[0], ((), {"input": inputs})), expected)


def test_linear_layers_multiply_rows_wherever_they_stand() -> None:
    layer = nn.Linear(5, 3, bias=False)
    inputs = torch.randn(2, 4, 5)
    expected = layer(inputs).detach().reshape(-1, 3).T
    torch.testing.assert_close(product(find_tensors(layer)[0], ((inputs,), {})), expected)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kdim", [None, 6])
def test_the_projections_of_attention_multiply_what_comes_into_them(
    batch_first: bool, kdim: int | None
) -> None:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, batch_first=batch_first, kdim=kdim, vdim=kdim).eval()
    nn.init.normal_(layer.in_proj_bias)
    query = torch.randn(3, 5, 8)
    key = torch.randn(3, 5, kdim or 8)
    value = torch.randn(3, 5, kdim or 8)
    call = ((query, key), {"value": value})
    references = {reference.name: reference for reference in find_tensors(layer)}
    if kdim is None:
        parts = [query, key, value]
        weights = layer.in_proj_weight.detach().chunk(3)
        expected = torch.cat([w @ part.reshape(-1, 8).T for w, part in zip(weights, parts, strict=True)])
        torch.testing.assert_close(product(references["in_proj_weight"], call), expected)
    else:
        expected = layer.k_proj_weight.detach() @ key.reshape(-1, kdim).T
        torch.testing.assert_close(product(references["k_proj_weight"], call), expected)
    output = layer(query, key, value)[0].detach()
    found = product(references["out_proj.weight"], call) + layer.out_proj.bias.detach()[:, None]
    torch.testing.assert_close(found, output.reshape(-1, 8).T, rtol=1e-4, atol=1e-5)


def test_some_of_many_places_are_drawn_the_same_way_each_time() -> None:
    layer = nn.Conv2d(1, 1, 3)
    inputs = torch.randn(4, 1, 16, 16)
    _, gather = gather_of(find_tensors(layer)[0].owners[0]) or (None, None)
    assert gather is not None
    few = gather(layer, ((inputs,), {}), 50)
    assert few is not None
    assert few.shape == (1, 50, 9)
    assert torch.equal(few, gather(layer, ((inputs,), {}), 50))  # type: ignore[arg-type]
    everything = gather(layer, ((inputs,), {}), _MANY)
    assert everything is not None
    assert {tuple(row) for row in few[0].tolist()} <= {tuple(row) for row in everything[0].tolist()}


def test_embeddings_and_recurrent_layers_are_no_products_that_can_be_seen() -> None:
    for layer in (nn.Embedding(5, 4), nn.LSTM(4, 4), nn.GRUCell(4, 4)):
        assert all(matrix_form(reference) is None for reference in find_tensors(layer))
