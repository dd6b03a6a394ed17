"""The named losses, against their definitions written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_compress.callback.distillation.terms import SoftLabels, cosine, named_term, squared_error
from lightning_compress.errors import ConfigurationError

SHAPES = st.sampled_from([(5, 3), (2, 7, 4), (2, 3, 4, 5), (1, 2, 3, 2, 2)])


def pair(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


@settings(max_examples=30, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 1000), temperature=st.floats(0.5, 8))
def test_soft_labels_are_the_divergence_of_probabilities_times_the_squared_temperature(
    shape, seed, temperature
):
    student, teacher = pair(shape, seed)
    # Classes are on the second axis of maps, and on the last one of all else.
    axis = 1 if len(shape) >= 4 else len(shape) - 1
    p = (teacher.double() / temperature).softmax(axis)
    q = (student.double() / temperature).softmax(axis)
    expected = (p * (p / q).log()).sum(axis).mean() * temperature**2
    actual = SoftLabels(temperature)(student, teacher)
    assert float(actual) == pytest.approx(float(expected), rel=1e-3, abs=1e-6)


def test_soft_labels_take_the_axis_that_is_said():
    student, teacher = pair((2, 3, 4, 5), 0)
    last = SoftLabels(2.0, -1)(student, teacher)
    torch.testing.assert_close(last, SoftLabels(2.0)(student.movedim(-1, 1), teacher.movedim(-1, 1)))


@settings(max_examples=30, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3), shift=st.floats(-1, 1))
def test_squared_error_means_the_same_at_every_scale(shape, seed, scale, shift):
    student, teacher = pair(shape, seed)
    expected = float(((student - teacher) ** 2).mean() / teacher.var(correction=0))
    actual = squared_error((student + shift) * scale, (teacher + shift) * scale)
    assert float(actual) == pytest.approx(expected, rel=1e-2)


def test_squared_error_of_the_teachers_mean_is_one():
    _, teacher = pair((50, 4), 1)
    torch.testing.assert_close(squared_error(teacher.mean().expand_as(teacher), teacher), torch.tensor(1.0))


def test_squared_error_of_a_teacher_of_equal_values_is_finite():
    assert float(squared_error(torch.zeros(3, 2), torch.ones(3, 2))) == 1.0


@settings(max_examples=30, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 1000))
def test_cosine_is_that_of_each_sample(shape, seed):
    student, teacher = pair(shape, seed)
    angles = [
        float((a.flatten() @ b.flatten()) / (a.norm() * b.norm()))
        for a, b in zip(student, teacher, strict=True)
    ]
    assert float(cosine(student, teacher)) == pytest.approx(1 - sum(angles) / len(angles), abs=1e-5)


@pytest.mark.parametrize("name", ["soft_labels", "squared_error", "cosine"])
def test_a_student_that_equals_its_teacher_has_no_distance_and_no_gradient(name):
    student = torch.randn(6, 5, requires_grad=True)
    teacher = student.detach().clone()
    distance = named_term(name, 2.0, None)(student, teacher)
    distance.backward()
    assert abs(distance.item()) < 1e-6
    assert float(student.grad.abs().max()) < 1e-6


@pytest.mark.parametrize("name", ["soft_labels", "squared_error", "cosine"])
def test_gradients_are_those_of_finite_differences(name):
    student = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: named_term(name, 2.0, None)(s, teacher), (student,))


@pytest.mark.parametrize(
    ("shape", "axis", "message"),
    [
        ((4, 1), None, r"two classes and more.*\(4, 1\) has 1 along axis -1"),
        ((4,), None, "need an axis of classes"),
        ((4, 3), 2, "class_axis=2 is none of an output of shape"),
    ],
)
def test_soft_labels_without_classes_are_refused(shape, axis, message):
    with pytest.raises(ConfigurationError, match=message):
        SoftLabels(2.0, axis)(torch.zeros(shape), torch.zeros(shape))
