from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_compress.coreml import CoreMLExport, ImageInput, NonMaximumSuppression, Tolerance
from lightning_compress.coreml.verification import Verification, compare
from lightning_compress.coreml.verification.comparison import Rounding
from lightning_compress.errors import ConfigurationError, VerificationError


def difference(expected: torch.Tensor, found: torch.Tensor, tolerance: Tolerance | None = None, name="x"):
    (output,) = compare([{name: expected}], [{name: found}], tolerance or Tolerance())
    return output


@given(
    values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20),
    errors=st.lists(st.floats(-1, 1, width=32), min_size=20, max_size=20),
)
def test_largest_and_mean_difference_are_those_of_the_values(values, errors):
    expected = torch.tensor(values)
    found = expected + torch.tensor(errors[: len(values)])
    output = difference(expected, found)
    exact = (expected.double() - found.double()).abs()
    assert output.largest == pytest.approx(exact.max().item())
    assert output.mean == pytest.approx(exact.mean().item())
    assert output.largest_value == pytest.approx(expected.abs().max().item())


def test_a_difference_is_judged_relative_to_the_largest_value_of_all_samples():
    expected = [{"x": torch.tensor([1.0, 100.0])}, {"x": torch.tensor([1.0, 1.0])}]
    found = [{"x": torch.tensor([1.0, 100.0])}, {"x": torch.tensor([1.7, 1.0])}]
    (output,) = compare(expected, found, Tolerance(relative=0.01))
    assert output.allowed == pytest.approx(1)
    assert output.passed


def test_an_absolute_tolerance_goes_before_the_relative_one():
    tolerance = Tolerance(absolute={"boxes": 0.1})
    assert not difference(torch.tensor([100.0]), torch.tensor([100.2]), tolerance, "boxes").passed
    assert difference(torch.tensor([100.0]), torch.tensor([100.2]), tolerance, "logits").passed


def test_an_error_in_every_value_is_found_though_each_is_small():
    """Each of 1,000 values is within the tolerance, but no rounding moves all of them to one side."""
    expected = torch.linspace(-1, 1, 1000)
    assert not difference(expected, expected + 0.04).passed
    one = expected.clone()
    one[3] += 0.04
    assert difference(expected, one).passed


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_differs_from_every_other(broken):
    output = difference(torch.tensor([1.0, 2.0]), torch.tensor([1.0, broken]))
    assert output.largest == math.inf
    assert not output.passed
    assert difference(torch.tensor([1.0, broken]), torch.tensor([1.0, broken])).passed


def test_an_output_of_zeros_has_nothing_to_be_relative_to():
    assert difference(torch.zeros(4), torch.full((4,), 1e-6)).passed
    assert not difference(torch.zeros(4), torch.full((4,), 0.1)).passed


def test_boxes_that_nobody_sees_do_not_count():
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(1000, 2, generator=generator)
    boxes = torch.rand(1000, 4, generator=generator)
    order = confidence.amax(1).argsort(descending=True)
    for rank, counts in ((0, True), (199, True), (200, False), (999, False)):
        moved = boxes.clone()
        moved[order[rank]] += 0.5
        outputs = compare(
            [{"confidence": confidence, "coordinates": boxes}],
            [{"confidence": confidence, "coordinates": moved}],
            Tolerance(),
        )
        assert outputs[0].passed
        assert outputs[1].passed is not counts


def test_outputs_that_only_have_the_names_of_a_detectors_are_compared_whole():
    expected = {"confidence": torch.zeros(300), "coordinates": torch.zeros(300, 2)}
    found = {**expected, "coordinates": torch.cat([torch.zeros(299, 2), torch.full((1, 2), 0.5)])}
    assert not compare([expected], [found], Tolerance())[1].passed


def test_another_shape_of_as_many_values_is_the_same_output():
    assert difference(torch.ones(1, 10), torch.ones(10)).passed


def test_a_missing_output_and_one_of_another_size_are_named():
    with pytest.raises(VerificationError, match="has no output 'x'"):
        compare([{"x": torch.ones(1)}], [{"y": torch.ones(1)}], Tolerance())
    with pytest.raises(VerificationError, match=r"'x' of the package has the shape \[3\], and \[2\]"):
        difference(torch.ones(2), torch.ones(3))


def test_a_failure_names_each_output_with_its_differences():
    outputs = compare(
        [{"good": torch.ones(2), "bad": torch.ones(2)}],
        [{"good": torch.ones(2), "bad": torch.tensor([1.0, 1.5])}],
        Tolerance(),
    )
    verification = Verification("net.mlpackage", "torch, as typed", 1, outputs)
    assert not verification.passed
    with pytest.raises(VerificationError, match=r"net\.mlpackage .*'bad' differs by 0\.5 at most") as failure:
        verification.require_passed()
    assert "'good'" not in str(failure.value)


class TestADifferenceOfTheModuleFromItself:
    expected = torch.linspace(-1, 1, 101)
    tolerance = Tolerance(relative=0.01, times_rounding=3.0)

    def compared(self, found, moved):
        outputs = compare(
            [{"x": self.expected}],
            [{"x": found}],
            self.tolerance,
            rounding=Rounding([{"x": self.expected}], [{"x": self.expected + moved}]),
        )
        return outputs[0]

    def test_is_allowed_three_times_besides(self):
        output = self.compared(self.expected + 0.3, torch.full((101,), 0.1))
        assert (output.rounding, output.rounding_mean) == (pytest.approx(0.1), pytest.approx(0.1))
        assert output.allowed == pytest.approx(0.01 + 0.3)
        assert output.allowed_mean == pytest.approx(0.01 * 0.2 + 0.3)
        assert output.passed

    def test_does_not_excuse_more(self):
        assert not self.compared(self.expected + 0.32, torch.full((101,), 0.1)).passed

    def test_in_one_value_excuses_one_value_and_not_all(self):
        once = torch.zeros(101)
        once[7] = 0.1
        assert self.compared(self.expected + 3 * once, once).passed
        assert not self.compared(self.expected + 0.02, once).passed

    @pytest.mark.parametrize("broken", [math.nan, math.inf])
    def test_that_is_not_finite_excuses_nothing(self, broken):
        moved = torch.zeros(101)
        moved[3] = broken
        assert not self.compared(self.expected + 0.3, moved).passed

    def test_is_of_one_module_and_not_of_two(self):
        """What the trained module differs from the converted one by is no rounding."""
        other = self.expected + 0.3
        rounding = Rounding([{"x": other}], [{"x": other}])
        (output,) = compare([{"x": self.expected}], [{"x": other}], self.tolerance, rounding=rounding)
        assert output.rounding == 0
        assert not output.passed

    def test_does_not_count_without_being_asked_for(self):
        assert not difference(self.expected, self.expected + 0.3).passed
        assert difference(self.expected, self.expected).rounding is None


class TestTolerance:
    def test_the_default_follows_the_precision(self):
        assert CoreMLExport("net.mlpackage").tolerance_for().relative == 5e-2
        assert CoreMLExport("net.mlpackage", compute_precision="float32").tolerance_for().relative == 1e-3

    def test_half_precision_and_quantized_activations_are_judged_by_the_module_itself(self):
        export = CoreMLExport("net.mlpackage")
        assert export.tolerance_for().times_rounding == 3
        exact = dataclasses.replace(export, compute_precision="float32")
        assert exact.tolerance_for().times_rounding == 0
        assert exact.tolerance_for(quantized_activations=True).times_rounding == 3
        assert export.tolerance_for(quantized_activations=True).times_rounding == 3

    def test_a_detectors_boxes_may_be_apart_by_a_pixel(self):
        export = CoreMLExport(
            "net.mlpackage", image=ImageInput(), class_labels=["a"], nms=NonMaximumSuppression()
        )
        assert export.tolerance_for((200, 300)).absolute == {"coordinates": 1 / 300}

    def test_what_the_export_asks_for_goes_first(self):
        own = Tolerance(relative=0.5)
        assert CoreMLExport("net.mlpackage", tolerance=own).tolerance_for(quantized_activations=True) is own

    @pytest.mark.parametrize(
        ("keywords", "message"),
        [
            ({"relative": 0}, "relative=0 of a tolerance"),
            ({"mean": -1}, "mean=-1"),
            ({"times_rounding": -0.5}, "times_rounding=-0.5"),
            ({"absolute": {"boxes": 0.0}}, r"absolute\['boxes'\]=0\.0"),
        ],
    )
    def test_values_that_are_not_positive_are_refused(self, keywords, message):
        with pytest.raises(ConfigurationError, match=message):
            Tolerance(**keywords)
