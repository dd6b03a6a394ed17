from __future__ import annotations

import math

import pytest
from torch import nn

from lightning_compress.errors import ConfigurationError
from lightning_compress.recipes.optimization import one_cycle

SETTINGS = {
    "optimizer": "adamw",
    "learning_rate": 0.1,
    "weight_decay": 0.01,
    "momentum": 0.9,
    "warmup_fraction": 0.25,
}


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_rate_peaks_after_the_warmup_and_ends_near_zero(optimizer: str, momentum: float) -> None:
    settings = {**SETTINGS, "optimizer": optimizer, "momentum": momentum}
    chosen = one_cycle(network().parameters(), 100, **settings)
    rates = []
    for _ in range(100):
        rates.append(chosen["optimizer"].param_groups[0]["lr"])
        chosen["optimizer"].step()
        chosen["lr_scheduler"]["scheduler"].step()
    assert max(rates) == pytest.approx(0.1)
    assert rates.index(max(rates)) == 24
    assert rates[-1] < 1e-3


def test_only_weights_decay() -> None:
    model = network()
    decayed, not_decayed = one_cycle(model.parameters(), 10, **SETTINGS)["optimizer"].param_groups
    assert decayed["weight_decay"] == 0.01
    assert [p.shape for p in decayed["params"]] == [model[0].weight.shape]
    assert not_decayed["weight_decay"] == 0
    assert len(not_decayed["params"]) == 3


def test_frozen_parameters_are_left_out() -> None:
    model = network()
    model[0].requires_grad_(False)
    groups = one_cycle(model.parameters(), 10, **SETTINGS)["optimizer"].param_groups
    assert sum(len(group["params"]) for group in groups) == 2


def test_a_fit_of_one_step_has_a_schedule() -> None:
    chosen = one_cycle(network().parameters(), 1, **SETTINGS)
    chosen["optimizer"].step()
    chosen["lr_scheduler"]["scheduler"].step()
    assert math.isfinite(chosen["optimizer"].param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"optimizer": "adam"}, r"optimizer='adam'.*did you mean 'adamw'.*adamw, sgd"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"warmup_fraction": 1.0}, r"warmup_fraction=1\.0"),
    ],
)
def test_settings_that_cannot_be_used_are_named(changed: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        one_cycle(network().parameters(), 10, **{**SETTINGS, **changed})


def test_a_fit_without_end_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"trainer\.max_steps"):
        one_cycle(network().parameters(), math.inf, **SETTINGS)
