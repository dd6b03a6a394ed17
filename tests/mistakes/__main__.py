"""Make every mistake, and print who tells it and after how many seconds: `python -m tests.mistakes`.

    python -m tests.mistakes [PLACE ...] [--markdown FILE]

Ends with 1 if a mistake is told by nobody, in other words, by a foreign error, or after the first training step.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from lightning_compress.markdown import markdown_table
from tests.mistakes.bench import make
from tests.mistakes.catalogue import MISTAKES

HEADER = ("where", "mistake", "told by", "seconds until told")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mistakes", description=__doc__)
    parser.add_argument(
        "places", nargs="*", metavar="PLACE", help=f"of {', '.join(MISTAKES)}; all by default"
    )
    parser.add_argument("--markdown", type=Path, help="write the table to this file too")
    arguments = parser.parse_args()
    unknown = set(arguments.places) - set(MISTAKES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; valid are {', '.join(MISTAKES)}")
    torch.set_num_threads(1)
    rows, untold = [], []
    for place in arguments.places or MISTAKES:
        for mistake in MISTAKES[place]:
            with tempfile.TemporaryDirectory() as folder:
                outcome = make(mistake, Path(folder))
            rows.append((place, mistake.name, outcome.told_by, f"{outcome.seconds:.2f}"))
            if not outcome.is_told:
                untold.append(f"{place}, {mistake.name}: {outcome.told_by}: {outcome.message[-1000:]}")
    table = Table(*HEADER)
    table.columns[-1].justify = "right"
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, emoji=False)
    console.print(table)
    console.print(f"{len(rows)} mistakes, {len(rows) - len(untold)} told before the first step")
    for line in untold:
        console.print(line)
    if arguments.markdown is not None:
        arguments.markdown.write_text(markdown_table(HEADER, rows, right=[HEADER[-1]]) + "\n")
    return 1 if untold else 0


if __name__ == "__main__":
    raise SystemExit(main())
