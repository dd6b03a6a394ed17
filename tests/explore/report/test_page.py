"""The page of a search: one file that holds all that it shows, whatever the search knows and whatever names it met."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_compress.explore.record import (
    Candidate,
    Exploration,
    Question,
    TensorRecord,
    read_record,
    write_record,
)
from lightning_compress.explore.report import write_report
from lightning_compress.explore.report.page import page
from lightning_compress.untrusted_text import plain_text
from tests.explore.explorations import draw_pictures, exploration, timings

WITHOUT_END = {"meta", "link", "img", "wbr", "path", "line", "rect", "circle", "polyline"}
LOADING = {"src", "href", "srcset", "action", "data", "poster", "xlink:href"}
"""Attributes that make a browser load something."""


class Page(HTMLParser):
    """A page taken apart: its elements with their texts, and whether they are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[int, str] = {}
        self.open: list[int] = []
        self.mistakes: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts[len(self.elements) - 1] = ""
        if tag not in WITHOUT_END:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.elements[self.open[-1]][0] != tag:
            self.mistakes.append(f"</{tag}>")
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        for place in self.open:
            self.texts[place] += data

    def named(self, tag: str) -> Iterator[tuple[dict[str, str | None], str]]:
        """The elements of a name: their attributes, and all text in them with its spaces joined."""
        for place, (name, attributes) in enumerate(self.elements):
            if name == tag:
                yield attributes, " ".join(self.texts.get(place, "").split())

    def elements_of(self, tag: str, style: str) -> Iterator[tuple[dict[str, str | None], str]]:
        """The same of those with a class."""
        return ((one, text) for one, text in self.named(tag) if style in (one.get("class") or "").split())

    @property
    def text(self) -> str:
        return " ".join(self.texts[0].split())


@pytest.fixture(scope="module")
def whole() -> Exploration:
    return exploration()


def read(found: Exploration, folder: Path = Path("nowhere")) -> Page:
    return Page(page(found, folder))


def rows(read_page: Page) -> dict[str, str]:
    return {text.split()[0]: text for _, text in read_page.named("tr") if text}


def test_the_answer_stands_first_in_one_sentence(whole):
    found = read(whole)
    chosen, verdict = whole.candidate(whole.chosen), whole.verdict
    (sentence,) = (text for _, text in found.named("p") if text.startswith(f"{chosen.name} answers"))
    assert f"{chosen.package_bytes / 1e3:.1f} kB" in sentence
    assert f"{whole.reference.package_bytes / chosen.package_bytes:.2f} times smaller" in sentence
    assert f"{verdict.value:.4f} ± {verdict.error:.4f}" in sentence
    assert f"worse by {verdict.drop:.4f} ± {verdict.drop_error:.4f}" in sentence
    assert "asked was a drop of at most 0.01" in sentence
    assert found.text.index(sentence) < found.text.index("over bytes")


def test_every_element_is_closed_and_every_heading_table_and_figure_has_its_words(whole, tmp_path):
    draw_pictures(whole, tmp_path)
    found = read(whole, tmp_path)
    assert found.mistakes == []
    assert found.open == []
    levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(text for tag in ("h1", "h2", "h3", "summary") for _, text in found.named(tag))
    assert all(attributes.get("scope") in ("col", "row") for attributes, _ in found.named("th"))
    assert all(attributes["alt"] for attributes, _ in found.named("img"))
    drawings = [attributes for attributes, _ in found.named("svg")]
    assert drawings
    assert all(one.get("aria-label") or one.get("aria-hidden") == "true" for one in drawings)
    scrolled = [attributes for attributes, _ in found.named("div") if attributes.get("class") == "box"]
    assert all(one["tabindex"] == "0" and one["role"] == "region" and one["aria-label"] for one in scrolled)
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_nothing_is_loaded_from_anywhere(whole, tmp_path):
    draw_pictures(whole, tmp_path)
    text = page(whole, tmp_path)
    found = Page(text)
    addresses = [
        value for _, attributes in found.elements for name, value in attributes.items() if name in LOADING
    ]
    assert len(addresses) == 3
    assert all(address.startswith("data:") for address in addresses)
    assert not {tag for tag, _ in found.elements} & {"script", "iframe", "object", "embed", "base", "form"}
    assert not re.search(r"https?:|url\(|@import|@font-face|//[a-z]", re.sub(r"base64,[\w+/=]*", "", text))


def test_both_pictures_are_in_the_page_byte_for_byte(whole, tmp_path):
    draw_pictures(whole, tmp_path)
    sources = [attributes["src"] for attributes, _ in read(whole, tmp_path).named("img")]
    expected = [(tmp_path / whole.pictures[name]).read_bytes() for name in ("float16", whole.chosen)]
    assert [base64.b64decode(source.partition("base64,")[2]) for source in sources] == expected


def test_a_picture_outside_of_the_folder_stays_there(whole, tmp_path):
    draw_pictures(whole, tmp_path)
    inside = tmp_path / "search"
    inside.mkdir()
    pictures = {name: f"../{file}" for name, file in whole.pictures.items()}
    assert "<img" not in page(dataclasses.replace(whole, pictures=pictures), inside)


def test_every_candidate_stands_in_the_table_and_in_the_figure_with_its_numbers(whole):
    found = read(whole)
    table = rows(found)
    for candidate in whole.candidates:
        row = table[candidate.name]
        assert f"{candidate.package_bytes / 1e3:.1f} kB" in row
        assert f"{candidate.value:.4f}" in row
        assert candidate is whole.reference or f"{candidate.drop:+.4f}" in row
    titles = [text for _, text in found.named("title")]
    for candidate in whole.candidates:
        assert sum(text.startswith(f"{candidate.name}: ") for text in titles) >= 2


def test_a_tensor_says_why_it_has_its_form(whole):
    chosen = whole.candidate(whole.chosen)
    table = rows(read(whole))
    record = next(record for record in whole.tensors if chosen.forms.get(record.name) == "palettize_6bit")
    now, then = record.option("palettize_6bit"), record.option("palettize_4bit")
    row = table[record.name]
    assert f"{(record.options[0].bytes - now.bytes) / 1e3:.1f} kB" in row
    assert f"{now.score:.4f}" in row
    assert f"{then.score - now.score:.4f}" in row
    dense = next(record for record in whole.tensors if record.reason)
    assert dense.reason in table[dense.name]


def test_the_search_that_found_nothing_names_the_nearest(whole):
    nearest = whole.candidates[-1].name
    found = read(dataclasses.replace(whole, chosen=None, nearest=nearest, verdict=None))
    assert f"No package answers; the nearest is {nearest}" in found.text
    assert "on the data of the search" in found.text


def test_a_verdict_that_does_not_hold_is_said(whole):
    verdict = dataclasses.replace(whole.verdict, holds=False)
    text = read(dataclasses.replace(whole, verdict=verdict)).text
    assert "but not on data that it has not seen" in text
    assert "exceeds the limit by more than its standard error" in text


def test_an_error_that_nobody_knows_is_not_written(whole):
    verdict = dataclasses.replace(whole.verdict, error=math.nan, float_error=math.nan, drop_error=math.nan)
    text = read(dataclasses.replace(whole, verdict=verdict)).text
    assert f"{verdict.value:.4f}, worse by {verdict.drop:.4f}, on 1,000 samples" in text
    assert not re.search(r"\bnan\b", text)


def test_devices_are_named_with_what_they_measured(whole):
    timed = [
        dataclasses.replace(candidate, timings=timings()) if candidate is whole.reference else candidate
        for candidate in whole.candidates
    ]
    text = read(dataclasses.replace(whole, candidates=timed)).text
    assert "Measured by Core ML on MacBook Pro, M3, macOS 15.1" in text
    assert "1.62 ms (60 on NeuralEngine, 2 on CPU)" in text
    assert "1.62 ms, ALL" in text
    assert " ms" not in read(whole).text


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_limits_are_drawn_on_the_side_where_the_metric_is_worse(whole, higher_is_better):
    question = dataclasses.replace(whole.question, higher_is_better=higher_is_better, max_bytes=150_000)
    found = read(dataclasses.replace(whole, question=question))
    wide = [
        attributes for attributes, _ in found.named("line") if attributes.get("class") in ("level", "limit")
    ]
    level = next(float(one["y1"]) for one in wide if one["class"] == "level")
    limits = [one for one in wide if one["class"] == "limit"]
    across = next(one for one in limits if one["y1"] == one["y2"])
    assert (float(across["y1"]) > level) == higher_is_better
    assert any(one["x1"] == one["x2"] for one in limits)


def without(**fields):
    return pytest.param(fields, id=",".join(fields))


@pytest.mark.parametrize(
    "fields",
    [
        without(verdict=None),
        without(chosen=None, verdict=None),
        without(tensors=()),
        without(rungs=()),
        without(seconds={}),
        without(pictures={}),
        without(candidates=(), chosen=None, verdict=None),
    ],
)
def test_whatever_is_missing_is_left_out(whole, fields):
    found = read(dataclasses.replace(whole, **fields))
    assert found.mistakes == []
    assert not re.search(r"\bNone\b|\bnan\b|Undefined", found.text)


def test_forms_without_scores_are_shown_all_the_same(whole):
    bare = [
        dataclasses.replace(
            record,
            input_score=None,
            options=[dataclasses.replace(option, score=None, measured=None) for option in record.options],
        )
        for record in whole.tensors
    ]
    found = read(dataclasses.replace(whole, tensors=bare))
    assert "Which suffer most" not in found.text
    assert all(record.name in rows(found) for record in bare)


def test_a_package_without_a_metric_is_in_the_table_and_not_in_the_figure(whole):
    broken = dataclasses.replace(whole.candidates[-1], name="broken", value=math.nan, drop=math.nan)
    found = read(dataclasses.replace(whole, candidates=[*whole.candidates, broken]))
    assert "nan" in rows(found)["broken"]
    assert "1 candidate outside of this part" in found.text
    assert not any("nan" in str(value) for _, attributes in found.elements for value in attributes.values())


def test_a_form_that_the_search_has_not_counted_is_named(whole):
    name = whole.tensors[1].name
    trained = [
        dataclasses.replace(one, forms={**one.forms, name: "trained"}) if one.name == whole.chosen else one
        for one in whole.candidates
    ]
    assert "trained" in rows(read(dataclasses.replace(whole, candidates=trained)))[name]


def test_a_long_network_shows_what_suffers_and_folds_the_rest(whole):
    longest = whole.tensors[5]
    many = [
        dataclasses.replace(
            longest,
            name=f"layer{place}.weight",
            options=[
                option if option.score is None else dataclasses.replace(option, score=option.score * place)
                for option in longest.options
            ],
        )
        for place in range(1, 301)
    ]
    forms = {record.name: "palettize_4bit" for record in many}
    chosen = dataclasses.replace(whole.candidate(whole.chosen), forms=forms)
    found = read(dataclasses.replace(whole, tensors=many, candidates=[whole.reference, chosen]))
    names = [text.split()[0] for _, text in found.named("tr") if text.startswith("layer")]
    assert names[:3] == ["layer300.weight", "layer299.weight", "layer298.weight"]
    assert len(set(names)) == 300
    assert "285 tensors that suffer less" in [text for _, text in found.named("summary")]


def test_each_point_has_the_bar_of_its_standard_error_on_its_sheet(whole):
    def told(error: float | None) -> Exploration:
        first, *others = whole.candidates
        others = [dataclasses.replace(candidate, drop_error=error) for candidate in others]
        asked = dataclasses.replace(whole.question, margin=1.0)
        return dataclasses.replace(whole, question=asked, candidates=[first, *others])

    def bars(found: Exploration) -> list[dict[str, str | None]]:
        return [one for one, _ in read(found).elements_of("line", "error") if one["y1"] != "-7"]

    assert bars(told(None)) == []
    near, far = bars(told(0.002)), bars(told(10.0))
    assert len(near) == len(far) > 0
    heights = [[float(one["y2"] or 0) - float(one["y1"] or 0) for one in found] for found in (near, far)]
    assert all(0 < small <= large < 400 for small, large in zip(*heights, strict=True))


def test_it_is_drawn_from_what_the_search_has_written(whole, tmp_path):
    write_record(whole, tmp_path / "explore.json")
    write_report(read_record(Exploration, tmp_path / "explore.json"), tmp_path)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page(whole, tmp_path)


NAMES = st.one_of(
    st.text(min_size=1),
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            "'\" onload=alert(1) x='",
            "--></style><b>",
            "{{ 7 * 7 }}{% raw %}",
            "&lt;&amp;",
            "http://example.com/a.png",
            "a" * 300,
            "\x1b[31mred\u202e\ud800",
        ]
    ),
)


@settings(max_examples=30, deadline=None)
@given(name=NAMES, metric=NAMES, device=NAMES)
def test_names_of_users_are_shown_and_nothing_in_them_is_obeyed(whole, name, metric, device):
    record = dataclasses.replace(whole.tensors[1], name=name, reason=metric)
    candidate = Candidate(
        name,
        metric,
        {name: whole.tensors[1].options[1].form},
        f"{name}/{name}.mlpackage",
        100_000,
        90_000,
        0.5,
        0.05,
        True,
        timings=timings(device),
    )
    small = Exploration(
        Question(metric, max_drop=0.1, left_alone=(name,), target=device),
        name,
        [record],
        [whole.reference, candidate],
        [dataclasses.replace(whole.rungs[0], name=name, reason=device)],
        chosen=name,
        seconds={device: 1.0},
    )
    plain = read(dataclasses.replace(small, **named_plainly(small)))
    found = read(small)
    assert found.mistakes == []
    wanted = [tag for tag, _ in plain.elements if tag != "wbr"]
    assert [tag for tag, _ in found.elements if tag != "wbr"] == wanted
    shown = " ".join(plain_text(name).split())
    assert shown in found.text
    assert not any(attribute.startswith("on") for _, attributes in found.elements for attribute in attributes)


def named_plainly(small: Exploration) -> dict[str, object]:
    """The same with names that no browser would stumble over."""
    candidate = small.candidates[1]
    record: TensorRecord = small.tensors[0]
    timed = [dataclasses.replace(timing, device="device") for timing in candidate.timings]
    plain = dataclasses.replace(
        candidate,
        name="name",
        rung="rung",
        forms={"tensor": next(iter(candidate.forms.values()))},
        timings=timed,
    )
    return {
        "tensors": [dataclasses.replace(record, name="tensor", reason="reason")],
        "candidates": [small.candidates[0], plain],
        "chosen": "name",
    }
