"""How much each weight, and each input of a layer, matters to what a network returns."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lightning_compress.errors import ConfigurationError
from lightning_compress.explore.error_scores import error_scores
from lightning_compress.explore.input_scores import input_scores
from lightning_compress.explore.projection import OutputProjection
from lightning_compress.methods.importance import squared_gradients
from lightning_compress.methods.mechanism.agreement import Call
from lightning_compress.methods.mechanism.tensors import find_tensors


def _calls(count: int, size: int = 6) -> list[Call]:
    torch.manual_seed(0)
    return [Call((torch.randn(8, size),), {}) for _ in range(count)]


def test_importance_is_the_mean_square_of_derivatives_over_the_variance_of_the_outputs() -> None:
    torch.manual_seed(1)
    network = nn.Linear(6, 3, bias=False)
    calls = _calls(200)
    projection = OutputProjection(network, calls)
    found = squared_gradients(find_tensors(network), projection, calls)["weight"]
    inputs = torch.cat([call.arguments[0] for call in calls])
    # Each of three outputs depends on its own row alone.
    variance = network(inputs).var().detach()
    expected = (inputs.square().mean(0) / 3 / variance).expand(3, -1)
    torch.testing.assert_close(found, expected, rtol=0.25, atol=0)


def test_the_score_of_small_independent_changes_is_the_distance_that_outputs_move() -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 4))
    calls = _calls(100)
    projection = OutputProjection(network, calls)
    importance = squared_gradients(find_tensors(network), projection, calls)
    for name in ("0.weight", "2.weight"):
        scores, distances = [], []
        for _ in range(30):
            changed = copy.deepcopy(network)
            weight = changed.get_parameter(name)
            with torch.no_grad():
                change = torch.randn_like(weight) * 1e-3
                weight.add_(change)
            scores.append(float((importance[name] * change.square()).sum()))
            distances.append(projection.distance(changed))
        assert sum(scores) == pytest.approx(sum(distances), rel=0.3)


def test_the_score_of_errors_that_add_up_is_the_distance_too_where_importance_alone_is_far_off() -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4))
    single = [Call((torch.randn(1, 6),), {}) for _ in range(400)]
    projection = OutputProjection(network, single)
    references = find_tensors(network)
    importance = squared_gradients(references, projection, single)["2.weight"]
    # What comes out of a ReLU has one sign, so that what is added to every weight adds up.
    errors = [torch.full((4, 32), 1e-3), 1e-3 * torch.randn(4, 32)]
    scores = error_scores(references, projection, {"2.weight": errors}, single)["2.weight"]
    for score, error in zip(scores, errors, strict=True):
        changed = copy.deepcopy(network)
        with torch.no_grad():
            changed.get_parameter("2.weight").add_(error)
        assert score == pytest.approx(projection.distance(changed), rel=0.25)
    assert float((importance * errors[0].square()).sum()) < scores[0] / 4


def test_projections_that_begin_alike_draw_the_same_signs() -> None:
    network = nn.Linear(6, 3)
    projection = OutputProjection(network, _calls(2))
    projection.begin(5)
    first = [float(projection(call).detach()) for call in projection.calls]
    projection.begin(5)
    assert [float(projection(call).detach()) for call in projection.calls] == first
    assert [float(projection(call).detach()) for call in projection.calls] != first


def test_the_same_network_is_at_no_distance() -> None:
    network = nn.Linear(6, 3)
    assert OutputProjection(network, _calls(2)).distance(network) == 0


def test_outputs_that_never_vary_tell_nothing() -> None:
    network = nn.Linear(6, 3, bias=False)
    nn.init.zeros_(network.weight)
    with pytest.raises(ConfigurationError, match="no output of Linear varies on 2 inputs"):
        OutputProjection(network, _calls(2))


def test_tensors_of_inference_can_be_used() -> None:
    with torch.inference_mode():
        calls = [Call((torch.randn(8, 6),), {})]
    network = nn.Linear(6, 3)
    projection = OutputProjection(network, calls)
    assert squared_gradients(find_tensors(network), projection, projection.calls)["weight"].any()


def test_inputs_of_a_wider_range_cost_more_to_round_and_embeddings_have_none() -> None:
    torch.manual_seed(1)

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(4, 6)
            self.narrow = nn.Linear(6, 3)
            self.wide = nn.Linear(6, 3)

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            spread = torch.cat([values[:, :5], values[:, 5:] * 100], dim=1)
            return self.narrow(values) + self.wide(spread) + self.embedding(torch.zeros(1).long())[:, :3]

    network = Branches()
    nn.init.constant_(network.wide.weight, 0.1)
    nn.init.constant_(network.narrow.weight, 0.1)
    projection = OutputProjection(network, _calls(4))
    scores = input_scores(network, find_tensors(network), projection, projection.calls)
    assert set(scores) == {"narrow.weight", "wide.weight"}
    assert scores["wide.weight"] > 100 * scores["narrow.weight"] > 0
