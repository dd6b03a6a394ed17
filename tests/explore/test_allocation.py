"""Forms within a number of bytes: the integer program against trying everything."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_compress.errors import ConfigurationError
from lightning_compress.explore.allocation import (
    allocate,
    cost_of,
    in_vectors,
    smallest_bytes,
    uniform,
    with_forms_of,
)
from lightning_compress.explore.record import Candidate, Option, TensorRecord
from lightning_compress.explore.sizes import dense_bytes, palette_bytes


@st.composite
def _records(draw: st.DrawFn) -> list[TensorRecord]:
    records = []
    for index in range(draw(st.integers(1, 4))):
        dense = draw(st.integers(100, 10_000))
        options = [Option("dense", dense, 0.0)]
        for place in range(draw(st.integers(0, 4))):
            size = draw(st.integers(10, dense))
            options.append(Option(f"form{place}", size, draw(st.floats(1e-6, 1.0))))
        records.append(TensorRecord(f"layer{index}", (dense,), tuple(options)))
    return records


@settings(max_examples=60, deadline=None)
@given(_records(), st.floats(0.0, 1.0))
def test_no_other_choice_within_the_bytes_costs_less(records: list[TensorRecord], share: float) -> None:
    smallest, dense = smallest_bytes(records), sum(record.options[0].bytes for record in records)
    most = int(smallest + share * (dense - smallest))
    found = allocate(records, most)
    assert found.bytes <= most
    best = min(
        sum(cost_of(record, option) for record, option in zip(records, choice, strict=True))
        for choice in itertools.product(*(record.options for record in records))
        if sum(option.bytes for option in choice) <= most
    )
    assert found.expected <= best * 1.001 + 1e-6


def test_fewer_bytes_than_possible_are_told_with_the_fewest() -> None:
    records = [TensorRecord("w", (50,), (Option("dense", 164, 0.0), Option("int8", 114, 0.1)))]
    with pytest.raises(ConfigurationError, match="113 bytes .* take 114"):
        allocate(records, 113)


def test_of_tensors_with_the_same_bytes_the_more_sensitive_one_keeps_more_bits() -> None:
    records = [
        TensorRecord(name, (1000,), (Option("dense", 2064, 0.0), Option("palettize_2bit", 350, score)))
        for name, score in (("sensitive", 1.0), ("robust", 0.01))
    ]
    assert allocate(records, 2064 + 350).forms == {"sensitive": "dense", "robust": "palettize_2bit"}


def test_one_form_for_all_leaves_dense_what_cannot_have_it_or_would_grow() -> None:
    records = [
        TensorRecord("a", (9,), (Option("dense", 82, 0.0), Option("int8", 90, 0.1))),
        TensorRecord("b", (9,), (Option("dense", 82, 0.0),)),
        TensorRecord("c", (90,), (Option("dense", 244, 0.0), Option("int8", 154, 0.1))),
    ]
    found = uniform(records, "int8")
    assert found.forms == {"a": "dense", "b": "dense", "c": "int8"}
    assert found.compressed == {"c": "int8"}
    assert found.bytes == 82 + 82 + 154


def test_what_was_measured_counts_and_corrects_the_scores_beside_it() -> None:
    measured = Option("palettize_2bit", 100, 0.1, measured=0.4)
    other = Option("palettize_1bit", 60, 0.3)
    record = TensorRecord("w", (9,), (Option("dense", 300, 0.0), measured, other))
    assert cost_of(record, measured) == 0.4
    assert cost_of(record, other) == pytest.approx(1.2)


def _palettized(name: str, *shape: int) -> TensorRecord:
    count = shape[0] * shape[1]
    options = (
        Option("dense", dense_bytes(count), 0.0),
        Option("palettize_4bit", palette_bytes(count, 4), 0.1),
    )
    return TensorRecord(name, shape, options)


def test_vectors_are_for_tensors_that_can_have_them_and_outweigh_their_palette() -> None:
    records = [_palettized("large", 512, 512), _palettized("small", 64, 147), _palettized("head", 10, 512)]
    found = in_vectors(records, "palettize_8bit_vectors8", able=["large", "small"])
    assert found.forms == {
        "large": "palettize_8bit_vectors8",
        # 256 vectors of eight take 4 kB, and four bits of all its weights less than that and the indices.
        "small": "palettize_4bit",
        "head": "palettize_4bit",
    }
    assert found.bytes == (64 + 512 * 64 + 64 + 4096) + sum(record.options[1].bytes for record in records[1:])


def test_forms_that_were_made_and_not_scored_are_told_with_their_bytes_and_weighed_by_none() -> None:
    records = [_palettized("large", 512, 512), _palettized("head", 10, 512)]
    made = Candidate(
        "vectors", "vector_fit", {"large": "palettize_8bit_vectors8"}, None, 1, 1, 0.9, 0.0, True
    )
    after = with_forms_of(records, [made])
    assert after[1] == records[1]
    assert [(option.form, option.score) for option in after[0].options] == [
        ("dense", 0.0),
        ("palettize_4bit", 0.1),
        ("palettize_8bit_vectors8", None),
    ]
    assert with_forms_of(after, [made]) == after
