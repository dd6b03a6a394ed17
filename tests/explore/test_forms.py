"""Forms of tensors: their names, the methods that reach them, and which tensor can have which."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_compress.errors import ConfigurationError
from lightning_compress.explore.forms import Form, default_forms, methods_of, needed_by, parse_forms, sections
from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.mechanism.tensors import find_tensors
from lightning_compress.package.targets import PALETTE_BITS, Capability

_palettes = st.builds(
    Form,
    sparsity=st.integers(0, 99),
    bits=st.sampled_from(PALETTE_BITS),
    group=st.none() | st.integers(1, 64),
    vector=st.integers(1, 16),
    scaled=st.booleans(),
)
_integers = st.builds(
    Form, sparsity=st.integers(0, 99), integers=st.sampled_from([4, 8]), block=st.none() | st.integers(1, 64)
)


@given(_palettes | _integers)
def test_every_form_is_found_again_by_its_name(form: Form) -> None:
    assert Form.parse(form.name) == form


@pytest.mark.parametrize(
    "name", ["", "palettize", "palettize_5bit", "int9", "prune_100", "palettize_4bit_int8", "prune_50x"]
)
def test_what_is_no_form_is_told_with_forms_that_are(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"explore\.forms='.*' is no form.*palettize_4bit"):
        Form.parse(name, "explore.forms")


def test_a_list_of_forms_has_the_dense_one_and_something_else() -> None:
    assert parse_forms(["int8"], "explore.forms") == [Form(), Form(integers=8)]
    with pytest.raises(ConfigurationError, match="names no form to compress to"):
        parse_forms(["dense"], "explore.forms")


def test_default_forms_have_different_names() -> None:
    names = [form.name for form in default_forms()]
    assert len(set(names)) == len(names)


def test_methods_name_tensors_one_by_one_and_leave_others_alone() -> None:
    network = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(64, 32))
    methods = methods_of({"0.weight": Form(bits=2), "2.weight": Form(sparsity=50, integers=8)})
    prepared = PreparedModule(network, methods)
    labels = {row.names[0]: row.treatment for row in prepared.planned_rows()[0]}
    assert labels["0.weight"].startswith("palette of 2 bits")
    assert "zeros" not in labels["0.weight"]
    assert "50% zeros" in labels["2.weight"]
    assert "int8" in labels["2.weight"]
    assert sections({"0.weight": Form()}) == {}


def test_a_name_with_a_dot_means_this_tensor_alone() -> None:
    (pattern,) = sections({"a.b": Form(bits=4)})["DKMPalettization"]
    assert pattern == r"a\.b"


def test_what_a_tensor_cannot_have_is_no_option_and_what_it_needs_is_told() -> None:
    torch.manual_seed(0)
    (reference,) = find_tensors(nn.Linear(30, 10, bias=False))
    assert needed_by(reference, Form(bits=4, group=16)) is None
    assert needed_by(reference, Form(bits=8, vector=4)) is None
    assert needed_by(reference, Form()) == frozenset()
    assert needed_by(reference, Form(bits=3)) == {Capability.LUT_3_BIT}
    joint = needed_by(reference, Form(sparsity=50, bits=4))
    assert joint is not None
    assert {Capability.JOINT, Capability.SPARSE_WEIGHTS} <= joint
