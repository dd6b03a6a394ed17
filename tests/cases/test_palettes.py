"""Pruning with every form of palette: right, or refused before the first step."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from lightning_compress import LinearQuantization, MagnitudePruning
from tests.cases.fitting import of_shape, palettized

FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scale of each channel": {"enable_per_channel_scale": True},
    "vectors": {"cluster_dim": 4},
    "int8 palette": {"lut_dtype": "i8"},
    "groups of channels": {"granularity": "per_grouped_channel", "group_size": 4},
    "vectors with scales": {"cluster_dim": 4, "enable_per_channel_scale": True},
    "groups with scales": {
        "granularity": "per_grouped_channel",
        "group_size": 4,
        "enable_per_channel_scale": True,
    },
}


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3))


@pytest.mark.parametrize("pruned", [False, True], ids=["alone", "pruned"])
@pytest.mark.parametrize("form", FORMS)
def test_a_form_of_palette_is_right_or_refused_before_training(fit, form, pruned):
    methods = [MagnitudePruning(target_sparsity=0.5)] * pruned + [palettized(**FORMS[form])]
    outcome = fit.outcome_or_refusal(network(), of_shape(4, 10, 10), *methods)
    if isinstance(outcome, str):
        assert form not in ("plain", "groups of channels"), outcome
        assert any(key in outcome for key in FORMS[form]), f"names none of {list(FORMS[form])}: {outcome}"
        return
    outcome.check_right()
    assert all("palettized" in layer.technique for layer in outcome.layers)
    if pruned:
        assert all(layer.sparsity >= 0.47 for layer in outcome.layers)


@pytest.mark.parametrize("form", FORMS)
def test_a_form_of_palette_goes_with_int8_activations_or_is_refused(fit, form):
    methods = [palettized(**FORMS[form]), LinearQuantization(weight_dtype="float32")]
    outcome = fit.outcome_or_refusal(network(), of_shape(4, 10, 10), *methods)
    if isinstance(outcome, str):
        assert form != "plain", outcome
        return
    outcome.check_right(finalized=2e-2, package=5e-2)
    assert all("palettized" in layer.technique for layer in outcome.layers)
    assert outcome.operations["quantize"] > 0
