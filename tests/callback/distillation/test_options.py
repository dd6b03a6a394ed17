"""What a distillation is made of, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_compress import Compression, Distillation, DKMPalettization
from lightning_compress.errors import ConfigurationError


def of_user(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return (student - teacher).abs().mean()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -0.1}, r"weight of Distillation=-0.1; valid is a number from 0"),
        ({"weight": float("nan")}, "weight of Distillation=nan; valid is a finite number"),
        ({"weight": True}, "weight of Distillation=True"),
        ({"temperature": 0}, r"temperature of Distillation=0; valid is a number above 0"),
        ({"temperature": -2.0}, r"temperature of Distillation=-2.0"),
        (
            {"loss": "soft_label"},
            "loss of Distillation='soft_label' is unknown; valid are soft_labels, squared_error",
        ),
        ({"loss": 3}, "loss of Distillation=3; valid is a name"),
        ({"loss": {}}, "loss of Distillation={}; valid is"),
        ({"loss": {"0": "kl"}}, r"loss\['0'\] of Distillation='kl' is unknown"),
        ({"loss": None}, "nothing to compare; name inner modules"),
        ({"warm_up": -1}, "warm_up of Distillation is -1; valid are optimizer steps"),
        ({"warm_up": 1.5}, "warm_up of Distillation is 1.5"),
        ({"modules": "features"}, "modules of Distillation='features' is a string; give a list of names"),
        ({"modules": ["("]}, r"'\(' is no regular expression"),
        ({"loss": {"(": "cosine"}}, r"loss of Distillation: '\(' is no regular expression"),
        ({"modules": {"a": "mse"}}, r"modules\['a'\] of Distillation='mse' is unknown"),
        ({"class_axis": "1"}, "class_axis of Distillation='1'"),
        ({"teacher": "float.ckpt"}, "teacher of Distillation='float.ckpt'; valid is a torch.nn.Module"),
    ],
)
def test_bad_values_are_refused_where_they_are_given(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        Distillation(**arguments)


def test_a_compression_takes_a_distillation_or_its_arguments():
    given = Distillation("cosine", weight=0.7)
    assert Compression(distillation=given).distillation is given
    made = Compression(distillation={"loss": "cosine", "weight": 0.7, "modules": ["a"]}).distillation
    assert made.describe() == {**given.describe(), "modules": {"a": "squared_error"}}
    assert Compression(DKMPalettization()).distillation is None


def test_no_weight_is_no_distillation():
    assert Compression(distillation={"weight": 0}).distillation is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"wieght": 1}, "no argument 'wieght'; did you mean 'weight'.*Valid are loss, weight, temperature"),
        (0.3, r"distillation=0.3; valid is Distillation\(...\), a mapping"),
        (nn.Linear(1, 1), "distillation=Linear"),
    ],
)
def test_other_distillations_are_refused(value, message):
    with pytest.raises(ConfigurationError, match=message):
        Compression(distillation=value)


def test_a_description_is_of_plain_types():
    made = Distillation({"0": of_user, 1: "cosine"}, modules={"a": of_user}, warm_up=0.25, class_axis=1)
    assert made.describe() == {
        "loss": {"0": f"{__name__}.of_user", "1": "cosine"},
        "weight": made.weight,
        "temperature": made.temperature,
        "warm_up": 0.25,
        "modules": {"a": f"{__name__}.of_user"},
        "class_axis": 1,
    }
