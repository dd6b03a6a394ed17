"""A whole search of a digit classifier: what it answers, when it stops, what it keeps, and what it refuses."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Subset

from lightning_compress.errors import ConfigurationError
from lightning_compress.explore import search
from lightning_compress.explore.forms import Form, parse_forms
from lightning_compress.explore.making import Candidates
from lightning_compress.explore.module_subject import ModuleSubject
from lightning_compress.explore.question import Asked
from lightning_compress.explore.record import Exploration, read_record
from lightning_compress.explore.searching import RECORD, Search
from tests.conftest import DigitData, DigitModule
from tests.explore.conftest import FEW


@pytest.fixture(scope="module")
def searched(fitted: DigitModule, tmp_path_factory: pytest.TempPathFactory) -> tuple[Exploration, Path]:
    """What a search for a drop of two points has found, and its folder."""
    folder = tmp_path_factory.mktemp("searched")
    return search(fitted, DigitData(), folder=folder, max_drop=0.02, **FEW), folder


def test_the_smallest_width_within_the_drop_is_chosen_and_judged_on_data_never_searched(
    searched: tuple[Exploration, Path],
) -> None:
    found, folder = searched
    assert found.chosen == "kmeans_palettize_4bit"
    chosen = found.candidate(found.chosen)
    assert chosen.satisfies
    assert chosen.package_bytes < found.reference.package_bytes
    assert not found.candidate("kmeans_palettize_1bit").satisfies
    assert found.verdict is not None
    assert found.verdict.samples == 100
    assert found.verdict.holds
    assert 0 <= found.verdict.drop_error < 0.1
    assert all(record.input_score is not None and record.input_score > 0 for record in found.tensors)
    assert read_record(Exploration, folder / RECORD) == found


def test_a_drop_has_a_standard_error_from_groups_of_the_data_and_must_be_within_the_limit_by_it(
    searched: tuple[Exploration, Path],
) -> None:
    found, _ = searched
    assert found.question.margin == 1.0
    assert found.reference.drop_error is None
    for candidate in found.candidates[1:]:
        assert candidate.drop_error is not None
        assert len(candidate.groups) == len(found.reference.groups) == 10
        assert candidate.satisfies == (candidate.drop + candidate.drop_error <= 0.02)
    assert (found.candidate("kmeans_palettize_1bit").drop_error or 0) > 0.01


@pytest.mark.slow
def test_a_limit_that_must_be_kept_by_more_standard_errors_takes_a_larger_package(
    explore: Callable[..., Exploration],
) -> None:
    as_measured = explore(max_drop=0.9, margin=0)
    assert as_measured.chosen == "kmeans_palettize_1bit"
    assert all(candidate.drop_error is None for candidate in as_measured.candidates)
    # The same folder: what was measured without groups is measured again.
    by_far = explore(max_drop=0.9, margin=100)
    assert by_far.chosen == "kmeans_palettize_4bit"


def test_a_search_leaves_the_module_as_it_was(
    fitted: DigitModule, searched: tuple[Exploration, Path]
) -> None:
    assert not fitted.training
    assert not hasattr(fitted.model.head, "parametrizations")
    assert all(parameter.requires_grad for parameter in fitted.parameters())


def test_what_was_measured_once_is_not_measured_again(
    fitted: DigitModule, searched: tuple[Exploration, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a candidate was made again")

    found, folder = searched
    monkeypatch.setattr(Candidates, "_made", refuse)
    again = search(fitted, DigitData(), folder=folder, max_drop=0.02, **FEW)
    assert dataclasses.replace(again, seconds={}) == dataclasses.replace(found, seconds={})


class _Beside:
    """Does parts of a search by another search in the same folder, as a job of a launcher does.

    Args:
        search: Makes one.
        killed: Names of candidates that are not made.
    """

    def __init__(self, search: Callable[[], Search], killed: Sequence[str] = ()) -> None:
        self.asked: list[list[str]] = []
        self._search = search
        self._killed = killed

    def candidates(self, names: Sequence[str]) -> dict[str, str]:
        self.asked.append(list(names))
        for name in names:
            if name not in self._killed:
                self._search().candidates.make_requested(name)
        return {name: "stopped by SIGKILL" for name in names if name in self._killed}

    def forms(self, names: Sequence[str]) -> dict[str, str]:
        self.asked.append(list(names))
        for name in names:
            self._search().measure_form(Form.parse(name))
        return {}


def _search(fitted: DigitModule, folder: Path, beside: _Beside | None = None, **asked: Any) -> Search:
    folder.mkdir(exist_ok=True)
    given = {"max_drop": 0.02, "rungs": ["kmeans"], "forms": parse_forms(FEW["forms"], "forms"), **asked}
    subject = ModuleSubject(fitted, DigitData(), "accuracy")
    return Search(subject, Asked(**given), folder, lambda _: None, elsewhere=beside)


def test_other_processes_make_what_may_come_next_and_a_killed_one_loses_its_candidate_alone(
    fitted: DigitModule, searched: tuple[Exploration, Path], tmp_path: Path
) -> None:
    beside = _Beside(lambda: _search(fitted, tmp_path), killed=["kmeans_palettize_4bit"])
    with pytest.raises(
        ConfigurationError, match="kmeans_palettize_4bit did not end well: stopped by SIGKILL"
    ):
        _search(fitted, tmp_path, beside).run()
    assert beside.asked == [["kmeans_palettize_4bit", "kmeans_palettize_1bit"]]
    again = _Beside(lambda: _search(fitted, tmp_path))
    found = _search(fitted, tmp_path, again).run()
    assert again.asked == [["kmeans_palettize_4bit"]]
    assert _told(found) == _told(searched[0])


@pytest.mark.slow
def test_other_processes_measure_forms_as_one_would(fitted: DigitModule, tmp_path: Path) -> None:
    measured = parse_forms(["palettize_1bit"], "measured")
    place = tmp_path / "beside"
    beside = _Beside(lambda: _search(fitted, place, measured=measured))
    found = _search(fitted, place, beside, measured=measured).run()
    assert ["palettize_1bit"] in beside.asked
    assert _told(found) == _told(_search(fitted, tmp_path / "alone", measured=measured).run())


def _told(found: Exploration) -> Exploration:
    """What was found, without what a clock has measured."""
    candidates = [dataclasses.replace(candidate, seconds=0.0) for candidate in found.candidates]
    rungs = [dataclasses.replace(rung, seconds=0.0) for rung in found.rungs]
    return dataclasses.replace(found, seconds={}, candidates=candidates, rungs=rungs)


@pytest.mark.slow
def test_other_weights_in_the_same_folder_are_measured_anew(
    fitted: DigitModule, explore: Callable[..., Exploration], tmp_path: Path
) -> None:
    first = explore(max_drop=0.05)
    other = copy.deepcopy(fitted)
    torch.nn.init.normal_(other.model.head.weight)
    second = search(other, DigitData(), folder=tmp_path / "found", max_drop=0.05, **FEW)
    assert second.digest != first.digest
    assert second.reference.value < first.reference.value


@pytest.mark.slow
def test_nothing_that_keeps_the_limit_is_told_with_the_nearest(explore: Callable[..., Exploration]) -> None:
    found = explore(max_drop=0.0, forms=["palettize_1bit"])
    assert found.chosen is None
    assert found.nearest == "kmeans_palettize_1bit"
    assert found.verdict is not None
    assert not found.verdict.holds


@pytest.mark.slow
def test_forms_of_their_own_are_better_than_one_width_at_the_same_size(
    explore: Callable[..., Exploration],
) -> None:
    forms = [f"palettize_{bits}bit" for bits in (8, 6, 4, 3, 2, 1)]
    uniform = explore(max_drop=2.0, forms=["palettize_2bit"])
    size = uniform.candidate("kmeans_palettize_2bit").package_bytes
    mixed = explore(max_size=size, forms=forms, rungs=["mixed"])
    assert mixed.chosen is not None
    best = mixed.candidate(mixed.chosen)
    assert best.package_bytes <= size
    assert best.value > uniform.candidate("kmeans_palettize_2bit").value


@pytest.mark.slow
def test_forms_that_are_measured_count_as_they_were_measured(explore: Callable[..., Exploration]) -> None:
    found = explore(max_drop=0.05, measured=["palettize_1bit"])
    searched = [record for record in found.tensors if record.reason is None]
    assert searched
    for record in searched:
        assert (record.option("palettize_1bit").measured or 0) > 0
        assert record.option("palettize_4bit").measured is None


@pytest.mark.slow
def test_with_both_limits_the_search_ends_at_the_first_rung_that_keeps_them(
    explore: Callable[..., Exploration],
) -> None:
    found = explore(max_drop=0.05, max_size="1MB", rungs=["kmeans", "mixed", "short_fit"])
    assert [rung.state for rung in found.rungs] == ["satisfied", "not needed", "not needed"]


@pytest.mark.slow
def test_rungs_that_cannot_be_afforded_are_named_with_what_they_cost(
    explore: Callable[..., Exploration],
) -> None:
    found = explore(max_drop=0.05, rungs=["kmeans", "full_fit"], budget=60, subject={"steps": 10**6})
    states = {rung.name: rung for rung in found.rungs}
    assert states["full_fit"].state == "not affordable"
    assert states["full_fit"].seconds > 60
    assert "are left" in states["full_fit"].reason
    without = explore(max_drop=0.05, rungs=["kmeans", "full_fit"])
    assert {rung.name: rung.reason for rung in without.rungs}["full_fit"].startswith("nothing can be trained")


@pytest.mark.slow
def test_a_sensitivity_file_serves_the_next_search_and_none_of_other_weights(
    fitted: DigitModule, explore: Callable[..., Exploration], tmp_path: Path
) -> None:
    explore(max_drop=0.05)
    content = json.loads((tmp_path / "found" / "sensitivity.json").read_text())
    assert set(content["options"]) == {"dense", "palettize_4bit", "palettize_1bit"}
    asked = Asked(max_drop=0.05, forms=parse_forms(["palettize_4bit"], "forms"), rungs=["kmeans"])
    given = tmp_path / "found" / "sensitivity.json"
    told: list[str] = []
    place = tmp_path / "second"
    place.mkdir()
    Search(ModuleSubject(fitted, DigitData(), "accuracy"), asked, place, told.append, sensitivity=given).run()
    assert not [line for line in told if line.startswith("sensitivity")]
    other = copy.deepcopy(fitted)
    torch.nn.init.normal_(other.model.head.weight)
    with pytest.raises(ConfigurationError, match="is of other weights"):
        Search(
            ModuleSubject(other, DigitData(), "accuracy"), asked, tmp_path / "third", print, sensitivity=given
        )


class _FewDigits(DigitData):
    def __init__(self) -> None:
        super().__init__()
        self.val_set = Subset(self.val_set, range(12))  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "a search needs a limit"),
        ({"max_drop": 0.05, "leave": ["model.heads"]}, "explore.leave holds 'model.heads'"),
        ({"max_drop": 0.05, "leave": ["features.9"]}, "no module and no weight of the network; did you mean"),
        ({"max_drop": 0.05, "forms": ["palettize_7bit"]}, "forms='palettize_7bit' is no form"),
        ({"max_drop": 0.05, "forms": ["palettize_4bit_group7"]}, "fits a tensor of the network"),
        ({"max_drop": 0.05, "forms": ["int4_block32"], "target": "iOS16"}, "explore.target='iOS16'"),
        ({"max_drop": 0.05, "data": _FewDigits()}, "has 12 samples"),
        ({"max_drop": 0.05, "metric": "accurcy"}, "'accurcy' is not among"),
        ({"max_drop": 0.05, "budget": 0.001}, "does not hold one evaluation"),
        ({"max_size": "1kB"}, "is less than the smallest package that is tried"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_questions_without_an_answer_are_told(
    explore: Callable[..., Exploration], asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        explore(**asked)
