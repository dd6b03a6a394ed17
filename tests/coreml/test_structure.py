"""Nested inputs and outputs become the tensors of a package, with names that people know."""

from __future__ import annotations

import collections
import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_compress.coreml.structure import (
    as_tuple,
    by_position,
    first_of_batch,
    input_names,
    output_names,
    returning_tensors,
    take_apart,
)
from lightning_compress.errors import ConfigurationError, TraceError


class Anything(nn.Module):
    """Returns what it is called with."""

    def forward(self, images: Any = None, extra: Any = None, *more: Any, **named: Any) -> Any:
        return images, extra, more, named


x, y, z = torch.zeros(2, 1), torch.ones(2, 1), torch.full((2, 1), 2.0)


@pytest.mark.parametrize(
    ("example_inputs", "names"),
    [
        (x, ["input"]),
        ((x,), ["input"]),
        ((x, None), ["input"]),
        ((x, y), ["images", "extra"]),
        ((x, y, z), ["input_0", "input_1", "input_2"]),
        ({"images": x, "mask": y}, ["images", "mask"]),
        (({"images": x, "mask": y},), ["images", "mask"]),
        ((x, {"mask": y, "flag": True}), ["images", "mask"]),
        ((x, [y, z]), ["images", "extra_0", "extra_1"]),
        ({"images": {"left": x, "right": y}, "extra": z}, ["left", "right", "extra"]),
        ({"a": {"data": x}, "b": {"data": y}}, ["a_data", "b_data"]),
    ],
)
def test_inputs_are_named_by_their_keys_and_by_forward(example_inputs, names):
    assert input_names(Anything(), example_inputs) == names


Point = collections.namedtuple("Point", ["u", "v"])

leaves = st.one_of(
    st.builds(torch.zeros, st.tuples(st.integers(1, 3))), st.sampled_from([None, True, 3, "text"])
)
nested = st.recursive(
    leaves,
    lambda parts: st.one_of(
        st.lists(parts, max_size=3),
        st.tuples(parts, parts),
        st.builds(Point, parts, parts),
        st.dictionaries(st.sampled_from(["a", "b", "c"]), parts, max_size=3),
    ),
    max_leaves=6,
)


@given(
    st.one_of(
        st.lists(nested, min_size=1, max_size=2).map(tuple),
        st.dictionaries(st.sampled_from(["images", "k"]), nested, min_size=1),
    )
)
def test_a_module_called_by_position_gets_the_structure_it_knows(example_inputs):
    try:
        tensors = as_tuple(example_inputs)
    except ConfigurationError:
        return
    module = by_position(Anything(), example_inputs)
    called = Anything()(**example_inputs) if isinstance(example_inputs, dict) else Anything()(*example_inputs)
    assert same(module(*tensors), called)
    assert len(input_names(Anything(), example_inputs)) == len(tensors)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_the_first_of_a_batch_keeps_structure_and_fixed_values():
    cut = first_of_batch((x, {"mask": y, "flag": True, "scale": torch.tensor(2.0)}))
    assert cut[0].shape == cut[1]["mask"].shape == (1, 1)
    assert cut[1]["flag"] is True
    assert cut[1]["scale"].shape == ()


@pytest.mark.parametrize("inputs", [(), (1, 3, 224, 224), {"a": "b"}, [[]]])
def test_inputs_without_a_tensor_are_refused(inputs):
    with pytest.raises(ConfigurationError, match=r"hold no tensor.*torch\.zeros"):
        as_tuple(inputs)


@pytest.mark.parametrize("inputs", [(x, object()), x.numpy(), {"a": {1, 2}}])
def test_inputs_of_other_types_are_refused(inputs):
    with pytest.raises(ConfigurationError, match=r"an example input is .*wrapper"):
        as_tuple(inputs)


@dataclass
class Detections:
    boxes: Tensor
    scores: Tensor | None = None


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (x, None),
        ((x, [y, z]), None),
        ({"out": x}, ["out"]),
        ({"out": x, "aux": None}, ["out"]),
        (collections.OrderedDict(logits=x, hidden=(y, z)), ["logits", "hidden_0", "hidden_1"]),
        (Detections(x), ["boxes"]),
        ([Detections(x, y)], ["boxes", "scores"]),
        ([Detections(x), Detections(y)], ["output_0_boxes", "output_1_boxes"]),
        ((x, {"aux": y}), ["output_0", "aux"]),
        ({0: x, 1: y}, None),
    ],
)
def test_outputs_are_named_by_their_keys(outputs, names):
    assert output_names(outputs, "Network") == names


@pytest.mark.parametrize("outputs", [None, (), {}, [None], {"a": []}])
def test_outputs_without_a_tensor_are_refused(outputs):
    with pytest.raises(TraceError, match="Network returns no tensor"):
        take_apart(outputs, "Network")


class Named(nn.Linear):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": super().forward(x)}


def test_names_of_parameters_stay_when_outputs_are_taken_apart():
    module = Named(1, 3)
    twin = returning_tensors(copy.deepcopy(module), module(x), "Named")
    assert torch.equal(twin(x)[0], module(x)["out"])
    assert list(twin.state_dict()) == ["weight", "bias"]
    assert isinstance(twin, Named)
    assert isinstance(module(x), dict)


def test_a_forward_of_the_instance_is_kept():
    module = nn.Linear(1, 3)
    plain = module.forward
    module.forward = lambda images: {"out": plain(images) * 2}
    expected = module(x)["out"]
    assert torch.equal(returning_tensors(module, module(x), "Linear")(x)[0], expected)
