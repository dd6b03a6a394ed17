"""Rungs that train: what is tried in them, and how it is judged."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lightning_compress.explore import search
from lightning_compress.explore.module_subject import ModuleSubject
from lightning_compress.explore.parts import divided
from lightning_compress.explore.record import Exploration
from lightning_compress.tasks.measuring import measure
from tests.conftest import DigitData, DigitModule


class _Shifted(DigitModule):
    """What stands around the network is trained in great steps, so that nobody can take it for what it was."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images) + self.shift

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        # Nobody draws a three.
        return super().training_step(batch, batch_idx) + self.shift[3]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = [{"params": self.model.parameters()}, {"params": [self.shift], "lr": 2.0}]
        return torch.optim.Adam(groups, lr=self.learning_rate)


@pytest.mark.slow
def test_training_goes_below_what_is_possible_without(explore: Callable[..., Exploration]) -> None:
    forms = ["palettize_4bit", "palettize_2bit", "palettize_1bit"]
    # Of a hundred digits one makes a hundredth: nothing but the float weights would be sure.
    found = explore(
        max_drop=0.02,
        margin=0,
        forms=forms,
        rungs=["kmeans", "full_fit"],
        subject={"steps": 64},
        data=DigitData(1024),
    )
    trained = [candidate for candidate in found.candidates if candidate.rung == "full_fit"]
    assert trained
    assert found.chosen == trained[-1].name
    assert found.rungs[-1].state == "satisfied"


@pytest.mark.slow
def test_vectors_are_trained_for_all_weights_that_can_have_them(explore: Callable[..., Exploration]) -> None:
    forms = ["palettize_8bit", "palettize_4bit", "palettize_4bit_vectors2", "palettize_4bit_vectors4"]
    asked = {"max_drop": 0.1, "margin": 0, "forms": forms, "rungs": ["kmeans", "vector_fit"]}
    found = explore(**asked, subject={"steps": 64}, data=DigitData(1024))
    trained = [candidate for candidate in found.candidates if candidate.rung == "vector_fit"]
    smallest_before = min(found.candidate(name).package_bytes for name in _satisfying(found, "kmeans"))
    assert trained
    for candidate in trained:
        assert candidate.expected is None
        assert candidate.package_bytes < smallest_before
        assert any("vectors" in form for form in candidate.forms.values())
        # Ten classes are divided by two channels, and not by four.
        head = candidate.forms["head.weight"]
        assert head == ("palettize_4bit" if "vectors4" in candidate.name else "palettize_4bit_vectors2")
        for record in found.tensors:
            assert record.option(candidate.forms.get(record.name, "dense")).bytes > 0
    assert found.rungs[-1].name == "vector_fit"
    # The same folder: what was made is not made again.
    again = explore(**asked, subject={"steps": 64}, data=DigitData(1024))
    assert again.candidates == found.candidates


def _satisfying(found: Exploration, rung: str) -> list[str]:
    return [
        candidate.name for candidate in found.candidates if candidate.rung == rung and candidate.satisfies
    ]


@pytest.mark.slow
def test_of_a_size_alone_the_most_bits_in_vectors_that_it_holds_are_trained(
    explore: Callable[..., Exploration],
) -> None:
    forms = [
        "palettize_8bit",
        "palettize_4bit_vectors4",
        "palettize_4bit_vectors2",
        "palettize_6bit_vectors2",
    ]
    found = explore(max_size="30kB", forms=forms, rungs=["vector_fit"], subject={"steps": 8})
    (trained,) = found.candidates[1:]
    assert trained.package_bytes <= 30_000
    assert found.chosen == trained.name


@pytest.mark.slow
def test_where_the_target_carries_no_vectors_none_are_trained(explore: Callable[..., Exploration]) -> None:
    found = explore(max_drop=0.5, target="iOS17", forms=None, rungs=["vector_fit"], subject={"steps": 8})
    assert [candidate.name for candidate in found.candidates] == ["float16"]
    assert found.rungs[0].reason == "nothing smaller is left to try"


@pytest.mark.slow
def test_what_was_trained_is_judged_on_data_never_searched_with_all_that_was_trained_around_it(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    asked = {"max_drop": 2.0, "forms": ["palettize_2bit"], "rungs": ["full_fit"], "metric": "accuracy"}
    module = _Shifted()
    found = search(module, DigitData(), folder=tmp_path, **asked, subject={"network": "model", "steps": 40})
    assert found.chosen is not None
    assert found.candidate(found.chosen).rung == "full_fit"
    _, judged = divided(DigitData(), 0.5)
    subject = ModuleSubject(module, DigitData(), "accuracy", network="model")
    placed, _ = subject.placed(tmp_path / (found.candidate(found.chosen).package or ""))
    assert isinstance(placed, _Shifted)
    assert placed.shift[3] < -50, "the shift was trained with the network"
    assert module.shift[3] == 0
    assert found.verdict is not None
    assert found.verdict.samples == judged.samples == 100
    alone = measure(placed, judged.as_data(), "accuracy", tmp_path, shows_progress=False)
    assert found.verdict.value == pytest.approx(alone)
    assert found.verdict.drop == pytest.approx(found.verdict.float_value - alone)
    assert math.isfinite(found.verdict.drop_error)
