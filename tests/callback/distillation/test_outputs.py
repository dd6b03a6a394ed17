"""Outputs of two modules are paired by their place."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch

from lightning_compress.callback.distillation.outputs import kept, named_tensors, paired
from lightning_compress.errors import ConfigurationError


def test_tensors_are_found_in_tuples_lists_and_dictionaries():
    outputs = OrderedDict(logits=torch.zeros(1), boxes=[torch.zeros(2), (torch.zeros(3), "text", None)])
    assert {name: len(tensor) for name, tensor in named_tensors(outputs).items()} == {
        "logits": 1,
        "boxes.0": 2,
        "boxes.1.0": 3,
    }
    assert list(named_tensors(torch.zeros(1))) == [""]


def test_pairs_do_not_depend_on_the_order_of_keys_nor_on_lists_for_tuples():
    one, two = torch.tensor([1.0]), torch.tensor([2.0])
    pairs, left = paired({"a": one, "b": (two,)}, {"b": [two + 10], "a": one + 10}, "the output")
    assert {name: (float(s), float(t)) for name, (s, t) in pairs.items()} == {"a": (1, 11), "b.0": (2, 12)}
    assert left == []


def test_half_precision_is_compared_in_float32_and_integers_are_left_alone():
    outputs = {"a": torch.ones(1, dtype=torch.bfloat16), "b": torch.ones(1).long(), "c": torch.ones(1).bool()}
    pairs, left = paired(outputs, outputs, "the output")
    assert pairs["a"][0].dtype is torch.float32
    assert left == ["b", "c"]


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (
            (torch.zeros(2),),
            {"a": torch.zeros(2)},
            r"in training is '0': \(2,\), and of its teacher.*'a': \(2,\)",
        ),
        ([torch.zeros(2, 3)], [torch.zeros(2, 4)], r"'0': \(2, 3\), and of its teacher '0': \(2, 4\)"),
        (torch.zeros(2).long(), torch.zeros(2).long(), r"no floating-point tensor: \(2,\)"),
        ("text", "text", "no floating-point tensor: no tensor"),
    ],
)
def test_what_cannot_be_paired_is_refused(student, teacher, message):
    with pytest.raises(ConfigurationError, match=message):
        paired(student, teacher, "the output")


def test_what_is_kept_outlives_changes_in_place_and_stays_differentiable():
    source = torch.ones(2, requires_grad=True)
    output = source * 2
    copy = kept((output, {"text": "a"}))
    output.mul_(5)
    copy[0].sum().backward()
    assert copy[0].tolist() == [2, 2]
    assert source.grad.tolist() == [2, 2]
