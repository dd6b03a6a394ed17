"""Columns decided one after the other, against the papers' own recursions and every possible choice."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_compress.errors import WeightError
from lightning_compress.methods.error_feedback import (
    Choice,
    by_activity,
    factorize,
    feed_back,
)

STEP = 0.25


class Steps(Choice):
    """The nearest multiple of a step."""

    def nearest(self, wanted: Tensor, place: int) -> Tensor:
        return (wanted / STEP).round() * STEP


class Given(Choice):
    """Zeros where they are told."""

    def __init__(self, kept: Tensor) -> None:
        self.kept = kept

    def nearest(self, wanted: Tensor, place: int) -> Tensor:
        return wanted * self.kept[:, place]


def moments(columns: int, seed: int, groups: int = 1) -> Tensor:
    torch.manual_seed(seed)
    rows = torch.randn(groups, 3 * columns, columns) @ torch.randn(groups, columns, columns)
    return rows.transpose(1, 2) @ rows / rows.shape[1]


def loss(error: Tensor, second: Tensor) -> float:
    return float(torch.einsum("rd,de,re->", error.double(), second.double(), error.double()))


def papers_recursion(matrix: Tensor, second: Tensor, dampening: float) -> Tensor:
    """GPTQ as its paper has it: by the Cholesky factor of the inverse, errors pushed on to later columns."""
    damped = second.double() + dampening * second.diagonal().mean().double() * torch.eye(len(second))
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    weight, decided = matrix.double().clone(), torch.zeros_like(matrix, dtype=torch.float64)
    for column in range(matrix.shape[1]):
        decided[:, column] = (weight[:, column] / STEP).round() * STEP
        error = (weight[:, column] - decided[:, column]) / upper[column, column]
        weight[:, column:] -= error[:, None] * upper[column, column:]
    return decided


@settings(max_examples=20, deadline=None)
@given(columns=st.integers(1, 300), rows=st.integers(1, 4), seed=st.integers(0, 1000))
def test_feedback_is_the_papers_without_an_inverse(columns: int, rows: int, seed: int) -> None:
    second = moments(columns, seed)
    matrix = torch.randn(rows, columns)
    found = feed_back(matrix, factorize(second, 0.05), Steps())
    expected = papers_recursion(matrix, second[0], 0.05)
    # Where a value lies between two steps rounding decides, and moves all that follow.
    different = (found - expected).abs() > STEP / 2
    if bool(different.any()):
        damped = second[0] + 0.05 * second[0].diagonal().mean() * torch.eye(columns)
        assert loss(matrix - found, damped) == pytest.approx(loss(matrix - expected, damped), rel=0.05)
    else:
        torch.testing.assert_close(found, expected.float())


def test_each_group_of_rows_is_decided_by_its_own_inputs_and_any_order_of_columns_is_undone() -> None:
    second = moments(20, 3, groups=2)
    matrix = torch.randn(6, 20)
    order = torch.randperm(20)
    found = feed_back(matrix, factorize(second, 0.01, order), Steps(), order)
    for group in range(2):
        rows = slice(3 * group, 3 * group + 3)
        own = feed_back(matrix[rows][:, order], factorize(second[group : group + 1], 0.01, order), Steps())
        assert torch.equal(found[rows][:, order], own)


def test_columns_into_which_most_comes_are_first() -> None:
    second = torch.diag_embed(torch.tensor([[1.0, 9.0, 4.0]]))
    assert by_activity(second).tolist() == [1, 2, 0]


def test_feedback_comes_near_the_best_of_all_choices_and_rounding_does_not() -> None:
    rounded = fed = best = 0.0
    for seed in range(8):
        second = moments(6, seed)
        matrix = torch.randn(1, 6)
        factor = factorize(second, 0.0)
        fed += loss(matrix - feed_back(matrix, factor, Steps()), second[0])
        nearest = (matrix / STEP).round() * STEP
        rounded += loss(matrix - nearest, second[0])
        around = [[float(value) + STEP * offset for offset in (-1, 0, 1)] for value in nearest[0]]
        choices = torch.tensor(list(itertools.product(*around)))
        errors = (matrix - choices).double()
        best += float(torch.einsum("rd,de,re->r", errors, second[0].double(), errors).min())
    assert best <= fed < 0.5 * rounded


def test_kept_weights_make_good_for_those_that_are_gone_as_least_squares_do() -> None:
    second = moments(7, 1)
    matrix = torch.randn(2, 7)
    # Those to come can make good for it, so that zeros stand first.
    kept = torch.ones(1, 7, 1)
    kept[:, :3] = 0
    found = feed_back(matrix, factorize(second, 0.0), Given(kept))
    free = second[0][3:, 3:].double()
    expected = (
        matrix[:, 3:] + torch.linalg.solve(free, second[0][3:, :3].double() @ matrix[:, :3].double().T).T
    )
    torch.testing.assert_close(found[:, 3:], expected.float(), rtol=1e-3, atol=1e-3)
    assert not found[:, :3].any()


def test_what_columns_are_wanted_to_be_together_is_what_all_that_follow_would_be_if_free() -> None:
    second = moments(10, 2)
    matrix = torch.randn(3, 10)

    class Looks(Steps):
        span = 5

        def begin(self, first: int, wanted: Tensor, weights: Tensor) -> None:
            seen[first] = wanted, weights

    seen: dict[int, tuple[Tensor, Tensor]] = {}
    factor = factorize(second, 0.0)
    found = feed_back(matrix, factor, Looks())
    torch.testing.assert_close(seen[0][0][:, 0].T, matrix[:, :5])
    errors = (matrix - found)[:, :5].double()
    free, before = second[0][5:, 5:].double(), second[0][5:, :5].double()
    expected = matrix[:, 5:] + torch.linalg.solve(free, before @ errors.T).T
    torch.testing.assert_close(seen[5][0][:, 0].T, expected.float(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(seen[5][1][:, 0], factor[0].diagonal()[5:].square())


def test_inputs_that_are_always_zero_or_always_the_same_can_be_factorized() -> None:
    nothing = factorize(torch.zeros(1, 4, 4), 0.01)
    torch.testing.assert_close(nothing, torch.eye(4)[None] * 0.1)
    same = torch.ones(1, 4, 4)
    factor = factorize(same, 0.0)
    torch.testing.assert_close(factor @ factor.transpose(1, 2), same, rtol=1e-3, atol=1e-3)


class Large(TorchDispatchMode):
    """Sees the storages of results that are at least so large."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements = elements
        self.storages: dict[int, Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor) and tensor.dtype != torch.bool and tensor.numel() >= self.elements:
                self.storages[tensor.untyped_storage().data_ptr()] = tensor
        return result


@pytest.mark.parametrize("order", [None, torch.arange(400).flip(0)])
def test_wide_moments_are_factorized_in_one_matrix_of_their_size(order: Tensor | None) -> None:
    second = moments(400, 5)
    with Large(second.numel()) as seen:
        factor = factorize(second, 0.01, order)
    assert second.untyped_storage().data_ptr() not in seen.storages
    assert list(seen.storages) == [factor.untyped_storage().data_ptr()]


def test_inputs_that_are_no_numbers_are_told() -> None:
    with pytest.raises(WeightError, match="NaN or infinite"):
        factorize(torch.full((1, 2, 2), torch.nan), 0.01)
    with pytest.raises(WeightError, match="raise hessian_dampening"):
        factorize(torch.tensor([[[1.0, 50.0], [50.0, 1.0]]]), 0.01)
