"""What stands in all tables of a search, on the page, in Markdown and in the terminal."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from lightning_compress.explore.front import front, shortlist
from lightning_compress.explore.record import Option, TensorRecord
from lightning_compress.explore.report import answer, exploration_table, write_report
from lightning_compress.explore.report.outcome import asked
from lightning_compress.explore.report.page import page
from lightning_compress.explore.report.tensors import sensitivity, tensor_rows
from tests.explore.explorations import exploration, timings


@pytest.fixture(scope="module")
def whole():
    return exploration()


def printed(found) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=200, markup=False, emoji=False).print(exploration_table(found))
    return stream.getvalue().splitlines()


def markdown(found, folder) -> str:
    write_report(found, folder)
    return (folder / "results.md").read_text(encoding="utf-8")


def test_the_front_holds_what_no_candidate_beats(whole):
    best = front(whole)
    assert best == sorted(best, key=lambda one: one.package_bytes)
    for candidate in whole.candidates:
        beaten = any(
            other.package_bytes <= candidate.package_bytes
            and other.value >= candidate.value
            and (other.package_bytes < candidate.package_bytes or other.value > candidate.value)
            for other in whole.candidates
        )
        assert (candidate in best) != beaten


def test_where_less_is_better_the_front_is_the_other_one(whole):
    turned = dataclasses.replace(
        whole,
        question=dataclasses.replace(whole.question, higher_is_better=False),
        candidates=[dataclasses.replace(one, value=-one.value) for one in whole.candidates],
    )
    assert [one.name for one in front(turned)] == [one.name for one in front(whole)]


def test_the_shortlist_has_float16_the_chosen_one_and_the_front_as_far_as_they_were_kept(whole):
    names = [one.name for one in shortlist(whole)]
    assert names[0] == "float16"
    assert whole.chosen in names
    assert {one.name for one in front(whole)} <= set(names)
    gone = [dataclasses.replace(one, package=None) for one in whole.candidates]
    assert shortlist(dataclasses.replace(whole, candidates=gone)) == []


def test_the_terminal_marks_the_chosen_one(whole):
    lines = printed(whole)
    (line,) = (line for line in lines if line.split()[:1] == ["chosen"])
    assert whole.chosen in line
    assert all(any(candidate.name in line for line in lines) for candidate in whole.candidates)


def test_markup_of_rich_in_names_is_printed(whole):
    named = dataclasses.replace(
        whole, candidates=[dataclasses.replace(whole.reference, name="[red]x[/]")], chosen=None
    )
    assert any("[red]x[/]" in line for line in printed(named))


def test_markdown_has_the_answer_and_all_tables(whole, tmp_path):
    timed = [
        dataclasses.replace(candidate, timings=timings("a_device|<b>")) if place == 0 else candidate
        for place, candidate in enumerate(whole.candidates)
    ]
    text = markdown(dataclasses.replace(whole, candidates=timed), tmp_path)
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [
        "# The smallest package that still does the job",
        "## Packages",
        "## Tensors",
        "## Rungs",
        r"## Measured by Core ML on a\_device\|\<b\>",
    ]
    assert answer(whole).replace("_", r"\_") in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    for one in [*whole.candidates, *whole.tensors]:
        assert any(row.startswith(f"| `{one.name}` |") for row in rows)
    assert not any(r"\-" in row or r"\+" in row for row in rows), "numbers are read as they are"
    assert "1.62 ms (60 on NeuralEngine, 2 on CPU)" in text


def test_markdown_of_a_search_that_has_just_begun_is_its_answer(whole, tmp_path):
    begun = dataclasses.replace(
        whole, tensors=(), candidates=(), rungs=(), chosen=None, verdict=None, seconds={}, pictures={}
    )
    text = markdown(begun, tmp_path)
    assert "No package has been chosen yet; asked is a drop of at most 0.01." in text
    assert "|" not in text


def test_tensors_that_suffer_most_come_first(whole):
    scores = [row.suffers for row in tensor_rows(whole)]
    assert scores == sorted(scores, reverse=True)


def test_before_anything_was_chosen_tensors_stand_as_they_would_suffer(whole):
    begun = dataclasses.replace(
        whole,
        chosen=None,
        verdict=None,
        tensors=[
            dataclasses.replace(
                one, options=[dataclasses.replace(one.options[0], score=0.0), *one.options[1:]]
            )
            for one in whole.tensors
        ],
    )
    bars = [bar.name for bar in sensitivity(begun).bars]
    assert [row.record.name for row in tensor_rows(begun)][: len(bars)] == bars


def test_the_next_smaller_form_is_one_that_no_smaller_one_beats():
    record = TensorRecord(
        "weight",
        (8, 8),
        [
            Option("dense", 1000),
            Option("int8", 500, 0.1),
            Option("int4_block32", 300, 0.9),
            Option("palettize_4bit", 280, 0.4),
            Option("palettize_2bit", 150, 3.0),
        ],
    )
    whole = exploration()
    chosen = dataclasses.replace(whole.candidates[1], name="chosen", forms={"weight": "int8"})
    found = dataclasses.replace(
        whole, tensors=[record], candidates=[whole.reference, chosen], chosen="chosen"
    )
    (row,) = tensor_rows(found)
    assert row.smaller.form == "palettize_4bit"
    assert (row.won, row.more_won) == (500, 220)
    assert row.more_cost == pytest.approx(0.3)


def test_tensors_are_compared_in_one_form_that_most_of_them_can_have(whole):
    found = sensitivity(whole)
    have = {
        option.form: sum(option.form in [one.form for one in record.options] for record in whole.tensors)
        for record in whole.tensors
        for option in record.options[1:]
    }
    assert have[found.form] == max(have.values())
    assert [bar.score for bar in found.bars] == sorted((bar.score for bar in found.bars), reverse=True)
    assert max(max(bar.share, bar.measured_share or 0) for bar in found.bars) == 1
    assert all(0 <= bar.share <= 1 for bar in found.bars)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_drop": None, "max_bytes": 4_000_000}, "the best package of at most 4.00 MB"),
        ({"max_drop": None}, "the smallest package, without a limit"),
        ({"margin": 1.0}, "a drop of at most 0.01, kept by 1 standard error"),
        ({"margin": 1.5}, "a drop of at most 0.01, kept by 1.5 standard errors"),
    ],
)
def test_what_was_asked_is_said(whole, limits, words):
    assert asked(dataclasses.replace(whole.question, **limits)) == words


def test_the_package_that_is_handed_over_is_named_as_it_can_be_copied(whole, tmp_path):
    handed_over = dataclasses.replace(whole, delivered="to_ship.mlpackage")
    text = markdown(handed_over, tmp_path)
    assert "| `to_ship.mlpackage` |" in text
    assert f"`{whole.candidate(whole.chosen).package}`" not in text
    others = [one for one in whole.candidates if one.name != whole.chosen]
    assert all(f"`{one.package}`" in text for one in others)
    assert "<code>to_ship.mlpackage</code>" in page(handed_over, tmp_path)
    assert f"`{whole.candidate(whole.chosen).package}`" in markdown(whole, tmp_path)
