"""Data are shown to techniques one tensor after the other, while every batch waits."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_compress.errors import CompressionError, ConfigurationError, WeightError
from lightning_compress.methods import (
    GPTQ,
    DKMPalettization,
    LinearQuantization,
    Method,
    PreparedModule,
    SensitivePalettization,
    calibrate,
    squared_gradients,
)
from lightning_compress.methods.mechanism import calibrated
from lightning_compress.methods.mechanism.calibrated import InputMoments
from lightning_compress.methods.mechanism.suspension import running_pass, suspended_passes
from lightning_compress.methods.mechanism.tensors import find_tensors


def digits(count: int) -> Tensor:
    return torch.tensor(load_digits().images[:count], dtype=torch.float32)[:, None] / 16


class Branched(nn.Module):
    """A convolution of two groups, attention, a shared layer, and a branch that a batch may or may not take."""

    def __init__(self, repeats: int = 2) -> None:
        super().__init__()
        self.repeats = repeats
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, stride=2, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.shared = nn.Linear(8, 8)
        self.branch = nn.Linear(8, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.norm(self.grouped(self.stem(images).relu())).relu().flatten(2).transpose(1, 2)
        hidden = hidden + self.attention(hidden, hidden, hidden, need_weights=False)[0]
        for _ in range(self.repeats):
            hidden = self.shared(hidden).relu()
        if len(images) > 4:
            hidden = self.branch(hidden).relu()
        return self.head(hidden.mean(1))


def branched(repeats: int = 2) -> Branched:
    torch.manual_seed(0)
    return Branched(repeats).eval()


def recorded(monkeypatch: pytest.MonkeyPatch, act: Callable[[str, Any], None]) -> None:
    """Tell of every calibration of a technique: the tensor's name and its evidence."""
    original = calibrated.CalibratedTechnique.calibrate

    def calibrate_and_tell(self: Any, tensor: Tensor, evidence: Any) -> None:
        act(self.tensor_name, evidence)
        original(self, tensor, evidence)

    monkeypatch.setattr(calibrated.CalibratedTechnique, "calibrate", calibrate_and_tell)


def test_tensors_are_compressed_in_the_order_in_which_layers_run_whichever_way_batches_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []
    recorded(monkeypatch, lambda name, _: order.append(name))
    images = digits(16)
    calibrate(PreparedModule(branched(), [GPTQ()]), batches=[images[:4], images[4:10], images[10:]])
    assert order == [
        "stem.weight",
        "grouped.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "shared.weight",
        "branch.weight",
        "head.weight",
    ]


def test_each_layer_sees_what_compressed_layers_made_of_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, tuple[Tensor, int]] = {}
    recorded(
        monkeypatch,
        lambda name, evidence: seen.update({name: (evidence.inputs.second, evidence.inputs.count)}),
    )
    prepared = PreparedModule(branched(repeats=1), [GPTQ()])
    images = digits(12)
    calibrate(prepared, batches=[images[:6], images[6:]])
    finalized = prepared.finalize()
    inputs: list[Tensor] = []
    finalized.head.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    finalized(images)
    rows = inputs[0].detach()
    second, count = seen["head.weight"]
    assert count == 12
    torch.testing.assert_close(second[0], rows.T @ rows / 12, rtol=1e-4, atol=1e-5)


def test_what_comes_into_a_layer_counts_each_time_that_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: dict[str, int] = {}
    recorded(monkeypatch, lambda name, evidence: rows.update({name: evidence.inputs.count}))
    calibrate(PreparedModule(branched(repeats=3), [GPTQ()]), batches=[digits(8)])
    assert rows["shared.weight"] == 3 * rows["attention.out_proj.weight"] == 3 * 8 * 9


def test_second_moments_of_one_layer_are_in_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    alive: weakref.WeakSet[InputMoments] = weakref.WeakSet()
    original = InputMoments.__init__

    def register(self: InputMoments, **keywords: Any) -> None:
        original(self, **keywords)
        alive.add(self)

    monkeypatch.setattr(InputMoments, "__init__", register)
    recorded(monkeypatch, lambda name, evidence: held.append(len(alive)))
    images = digits(12)
    network = nn.Sequential(
        *(layer for _ in range(4) for layer in (nn.Conv2d(1, 1, 3, padding=1), nn.ReLU()))
    )
    calibrate(PreparedModule(network, [GPTQ()]), batches=[images[:6], images[6:]])
    assert held == [1, 1, 1, 1]


def test_the_module_is_left_in_its_modes_without_hooks_or_threads_whatever_happens() -> None:
    network = branched()
    network.train()
    network.norm.eval()
    prepared = PreparedModule(network, [GPTQ()])
    hooks = [len(part._forward_pre_hooks) for part in network.modules()]
    threads = threading.active_count()

    def fails(batch: Tensor) -> None:
        network(batch)
        if running_pass() is not None:
            raise ArithmeticError("the third batch")

    with pytest.raises(ArithmeticError, match="the third batch"):
        calibrate(prepared, run=fails, batches=digits(12).split(4))
    assert network.training
    assert not network.norm.training
    assert [len(part._forward_pre_hooks) for part in network.modules()] == hooks
    assert threading.active_count() == threads
    assert torch.backends.mha.get_fastpath_enabled()


def test_passes_stop_and_go_on_where_they_stood_and_are_ended_in_their_places() -> None:
    told: list[str] = []

    def function(name: str) -> None:
        assert not torch.is_grad_enabled()
        for place in ("first", "second"):
            told.append(f"{name} at {place}")
            current = running_pass()
            assert current is not None
            try:
                current.stop_at(place)
            except BaseException:
                told.append(f"{name} ended at {place}")
                raise

    with suspended_passes([lambda: function("a"), lambda: function("b")]) as passes:
        passes[0].resume()
        passes[1].resume()
        passes[0].resume()
        assert [each.place for each in passes] == ["second", "first"]
        passes[0].resume()
        assert passes[0].has_ended
    assert told == ["a at first", "b at first", "a at second", "b ended at first"]


def test_layers_of_a_transformer_are_seen_though_torch_would_compute_them_as_a_whole() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    prepared = PreparedModule(nn.TransformerEncoder(layer, 2).eval(), [GPTQ(weight_dtype="int8")])
    inputs = torch.randn(4, 5, 8)
    expected = prepared.module(inputs).detach()
    calibrate(prepared, batches=[inputs])
    torch.testing.assert_close(prepared.finalize()(inputs), expected, rtol=0.05, atol=0.05)


def test_layers_that_nothing_calls_are_rounded_one_by_one_and_told(caplog: pytest.LogCaptureFixture) -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read = nn.Linear(64, 2)
            self.called = nn.Linear(2, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.called(inputs.flatten(1) @ self.read.weight.t())

    network = Reads()
    weight = network.read.weight.detach().clone()
    prepared = PreparedModule(network, [GPTQ(weight_dtype="int8")])
    with caplog.at_level(logging.WARNING):
        calibrate(prepared, batches=[digits(8)])
    assert "the inputs of 1 weight were never seen" in caplog.text
    assert "read.weight" in caplog.text
    step = weight.abs().amax(dim=1, keepdim=True) / 127
    assert bool(((prepared.finalize().read.weight - weight).abs() <= 0.51 * step).all())


def test_int8_inputs_are_observed_before_and_calibration_sees_them_rounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    methods: list[Method] = [GPTQ(), LinearQuantization(weight_dtype="float32")]
    prepared = PreparedModule(network, methods)
    seen: list[Tensor] = []
    recorded(monkeypatch, lambda _, evidence: seen.append(evidence.inputs.second))
    images = digits(32)
    calibrate(prepared, batches=[images])
    rounded = network[1].compressed_inputs["input"].eval()(images.flatten(1))
    assert not torch.equal(rounded, images.flatten(1))
    torch.testing.assert_close(seen[0][0], rounded.T @ rounded / 32)


def test_a_second_calibration_forgets_the_first_and_training_forgets_both() -> None:
    network = branched()
    images = digits(12)
    expected = network(images).detach()
    prepared = PreparedModule(network, [GPTQ(bias_correction=True)])
    calibrate(prepared, batches=[images])
    once = network(images).detach()
    calibrate(prepared, batches=[images])
    assert torch.equal(network(images), once)
    assert not torch.equal(once, expected)
    network.train()
    prepared.start_training()
    torch.testing.assert_close(network.eval()(images), expected)


def test_what_was_found_comes_back_with_the_state_of_the_module_and_reaches_other_processes() -> None:
    images = digits(8)
    first, second, third = (PreparedModule(branched(), [GPTQ(bias_correction=True)]) for _ in range(3))
    calibrate(first, batches=[images])
    second.module.load_state_dict(first.module.state_dict())
    third.take_calibrated_state(first.calibrated_state())
    expected = first.finalize()(images)
    assert torch.equal(second.finalize()(images), expected)
    assert torch.equal(third.finalize()(images), expected)


def test_without_data_nothing_is_finalized_and_everything_rehearsed() -> None:
    prepared = PreparedModule(branched(), [GPTQ()])
    with pytest.raises(CompressionError, match=r"'stem.weight' \(int4 weights.*call Compression.calibrate"):
        prepared.finalize()
    assert len(prepared.finalize(rehearses=True).stem.weight.unique()) <= 16 * 8


def test_what_is_missing_is_told_with_its_remedy() -> None:
    gptq = PreparedModule(branched(), [GPTQ()])
    with pytest.raises(CompressionError, match="'stem.weight' is compressed by what comes into its layer"):
        calibrate(gptq)
    sensitive = PreparedModule(branched(), [SensitivePalettization(n_bits=1, weight_threshold=0)])
    with pytest.raises(CompressionError, match=r"give what lightning_compress.methods.squared_gradients"):
        calibrate(sensitive)
    wrong = {reference.name: torch.ones(2, 2) for reference in find_tensors(branched())}
    with pytest.raises(ConfigurationError, match=r"the shape \(2, 2\); valid is that of the weight"):
        calibrate(sensitive, importance=wrong)
    with pytest.raises(WeightError, match="NaN or infinite"):
        calibrate(gptq, batches=[torch.full((2, 1, 8, 8), torch.nan)])


def test_methods_that_are_trained_need_nothing_and_are_left_alone() -> None:
    network = branched()
    prepared = PreparedModule(network, [DKMPalettization(n_bits=1, weight_threshold=0)])
    before = network(digits(4)).detach()
    calibrate(prepared, batches=[digits(4)])
    assert torch.equal(network(digits(4)), before)


def test_importance_is_taken_of_a_prepared_module_too() -> None:
    plain, network = branched(), branched()
    prepared = PreparedModule(network, [SensitivePalettization(n_bits=2, weight_threshold=0)])
    images = list(digits(3).split(1))
    expected = squared_gradients(find_tensors(plain), lambda image: plain(image).square().sum(), images)
    found = squared_gradients(find_tensors(network), lambda image: network(image).square().sum(), images)
    torch.testing.assert_close(found, expected)
    calibrate(prepared, importance=found)
    assert len(prepared.finalize().head.weight.unique()) == 4
