"""Texts in a package that a terminal, rich, Markdown or HTML would obey are shown as they are."""

from __future__ import annotations

import io

import pytest
import torch
from markdown_it import MarkdownIt
from rich.console import Console
from torch import nn

from lightning_compress.coreml import CoreMLExport, add_metadata, model_card
from lightning_compress.package.inspection import inspect
from lightning_compress.package.rendering import render

HOSTILE = "\x1b]0;owned\x07[/x][red]<img src=x onerror=alert(1)>\n```\n[a](javascript:b) |\x1b[2J"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "[red][x].mlpackage"
    export = CoreMLExport(
        path,
        description=HOSTILE,
        author=HOSTILE,
        license=HOSTILE,
        version=HOSTILE,
        class_labels=[f"{HOSTILE} {number}" for number in range(3)],
        input_names=["x"],
        input_descriptions={"x": HOSTILE},
    )
    export.run(nn.Sequential(nn.Linear(16, 3), nn.Softmax(-1)).eval(), torch.rand(1, 16))
    return add_metadata(path, {HOSTILE: HOSTILE, "metrics": '{"[/x] <b>": "<script>"}', "[red]": "```\n# x"})


def test_tables_hold_the_words_and_no_escapes(report):
    output = io.StringIO()
    Console(file=output, width=400, force_terminal=False).print(render(report))
    text = output.getvalue()
    assert "[red][x].mlpackage" in text
    assert text.count("[/x][red]<img src=x onerror=alert(1)>") >= 6
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "owned" not in text


def test_a_card_has_no_html_no_links_and_the_blocks_of_an_ordinary_one(report):
    card = model_card(report)
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(card)
    kinds = [part.type for token in tokens for part in (token, *(token.children or ()))]
    assert not {"html_inline", "html_block", "link_open", "image", "code_block"} & set(kinds)
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings[1:] == [
        "Metrics",
        "Inputs and outputs",
        "Compression by layer",
        "In Swift",
        "Metadata",
    ]
    assert kinds.count("fence") == 3  # Swift, and two entries of metadata
    assert "\x1b" not in card


def test_an_ordinary_report_needs_no_other_reading(report):
    assert inspect(report.path) == report
