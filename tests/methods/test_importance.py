"""Squared gradients of single examples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from lightning_compress.errors import CompressionError, WeightError
from lightning_compress.methods.importance import squared_gradients
from lightning_compress.methods.mechanism.tensors import find_tensors


def _squared_error(network: nn.Module) -> object:
    def loss(example: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = example
        return (network(inputs) - targets).square().sum()

    return loss


def _examples(count: int, inputs: int, outputs: int) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    return [(torch.randn(1, inputs), torch.randn(1, outputs)) for _ in range(count)]


def test_importance_is_the_mean_of_squared_gradients_and_not_the_square_of_their_mean() -> None:
    network = nn.Linear(3, 2)
    examples = _examples(5, 3, 2)
    importance = squared_gradients(find_tensors(network), _squared_error(network), examples)
    expected = torch.zeros(2, 3)
    for inputs, targets in examples:
        error = (network(inputs) - targets).detach()
        expected += (2 * error.T @ inputs).square() / len(examples)
    torch.testing.assert_close(importance["weight"], expected)


def test_frozen_weights_have_importance_and_stay_frozen() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    network[0].requires_grad_(False)
    importance = squared_gradients(find_tensors(network), _squared_error(network), _examples(2, 3, 2))
    assert importance["0.weight"].abs().sum() > 0
    assert not network[0].weight.requires_grad
    assert network[0].weight.grad is None


def test_a_weight_that_a_parametrization_computes_has_the_importance_of_what_the_layer_sees() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(3, 2)
    computed = nn.Linear(3, 2)
    computed.load_state_dict(plain.state_dict())
    weight_norm(computed)
    examples = _examples(3, 3, 2)
    expected = squared_gradients(find_tensors(plain), _squared_error(plain), examples)
    found = squared_gradients(find_tensors(computed), _squared_error(computed), examples)
    torch.testing.assert_close(found["weight"], expected["weight"])


def test_a_weight_that_the_loss_does_not_depend_on_matters_nothing() -> None:
    network = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2)})
    importance = squared_gradients(find_tensors(network), _squared_error(network["used"]), _examples(2, 3, 2))
    assert not importance["unused.weight"].any()
    assert importance["used.weight"].any()


def test_no_examples_and_gradients_that_are_no_numbers_are_told() -> None:
    network = nn.Linear(3, 2)
    with pytest.raises(CompressionError, match="no examples"):
        squared_gradients(find_tensors(network), _squared_error(network), [])
    with pytest.raises(CompressionError, match="depends on none of the weights"):
        squared_gradients(find_tensors(network), lambda _: torch.zeros(()), [None])
    with pytest.raises(WeightError, match="'weight' are NaN or infinite"):
        squared_gradients(
            find_tensors(network),
            _squared_error(network),
            [(torch.full((1, 3), torch.inf), torch.zeros(1, 2))],
        )
