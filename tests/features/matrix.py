"""The matrix of methods and features, and the block of the README beside this file that holds it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lightning_compress.markdown import markdown_table
from tests.features.cases import METHODS
from tests.features.features import FEATURES, outcome

README = Path(__file__).resolve().parent / "README.md"
START, END = "<!-- features -->", "<!-- /features -->"


def run_all() -> dict[tuple[str, str], str]:
    """Run every cell; the outcome by feature and method."""
    outcomes = {}
    for title in FEATURES:
        for method in METHODS:
            with tempfile.TemporaryDirectory() as folder:
                outcomes[title, method] = outcome(method, title, Path(folder))
    return outcomes


def render(outcomes: dict[tuple[str, str], str]) -> str:
    """The matrix in Markdown, with a numbered reason for each refusal."""
    reasons: list[str] = []
    rows = [[title, *(_cell(outcomes[title, method], reasons) for method in METHODS)] for title in FEATURES]
    lines = [
        "`python -m tests.features` makes this table by fitting each method with each feature.",
        "",
        markdown_table(["", *METHODS], rows),
        "",
        *(f"{number}. {reason}" for number, reason in enumerate(reasons, start=1)),
    ]
    return "\n".join(lines).strip()


def _cell(outcome: str, reasons: list[str]) -> str:
    if outcome == "works":
        return "works"
    reason = outcome.removeprefix("refused: ")
    reason = reason[0].upper() + reason[1:] + "."
    if reason not in reasons:
        reasons.append(reason)
    return f"refused ({reasons.index(reason) + 1})"


def readme_block(text: str) -> str:
    """What a README holds between the two marks."""
    return text.partition(START)[2].partition(END)[0].strip()


def readme_cells(text: str) -> dict[tuple[str, str], str]:
    """The cells of a README's matrix, by feature and method."""
    rows = [line for line in readme_block(text).splitlines() if line.startswith("|")]
    methods = _cells(rows[0])[1:]
    return {
        (cells[0], method): cell
        for cells in map(_cells, rows[2:])
        for method, cell in zip(methods, cells[1:], strict=True)
    }


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def write_block(block: str, path: Path = README) -> None:
    """Put the matrix between the marks."""
    before, _, rest = path.read_text().partition(START)
    path.write_text(f"{before}{START}\n{block}\n{END}{rest.partition(END)[2]}")
