"""Mutate packages of every kind and read them: each is read, or refused by an error that says what is wrong with it.

    python -m tests.fuzz [--mutations 5000] [--seed 0] [--only NUMBER] [--folder FOLDER]

Prints the findings by kind and by reader, and ends with 1 if there are any: an exception that is none of this
project's, one whose message does not help, a hang, a crash, or memory by the gigabyte. Linux only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_compress.untrusted_text import plain_text
from tests.fuzz.fuzzing import LEVELS, Outcome, run
from tests.fuzz.packages import make_packages
from tests.fuzz.reading import READERS


def levels_table(outcomes: list[Outcome]) -> Table:
    """How many were read, refused and found, by what was mutated."""
    table = Table(title="Mutations", title_justify="left")
    table.add_column("level", no_wrap=True)
    for heading in ("mutations", "read", "refused", "findings"):
        table.add_column(heading, justify="right")
    for level in (*LEVELS, "path", "all"):
        rows = [outcome for outcome in outcomes if level in (outcome.level, "all")]
        found = sum(bool(outcome.failure) for outcome in rows)
        refused = sum(outcome.refused and not outcome.failure for outcome in rows)
        table.add_row(level, str(len(rows)), str(len(rows) - found - refused), str(refused), str(found))
    return table


def findings_table(outcomes: list[Outcome]) -> Table:
    """The findings by type of exception and reader, with one example each."""
    table = Table(title="Findings", title_justify="left")
    for heading in ("type", "reader", "count", "number", "example", "message"):
        table.add_column(heading, overflow="fold")
    found = [outcome for outcome in outcomes if outcome.failure]
    for (failure, reader), count in Counter((o.failure, o.reader) for o in found).most_common():
        example = next(o for o in found if (o.failure, o.reader) == (failure, reader))
        table.add_row(
            failure,
            reader,
            str(count),
            str(example.number),
            Text(plain_text(f"{example.package}, {example.level}: {example.mutation}")[:200]),
            Text(plain_text(example.message)[:200]),
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutations", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="make one mutation, read it, and show where it fails")
    parser.add_argument("--folder", type=Path, help="where the packages are kept for another run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        packages = make_packages(folder)
        begin = time.monotonic()
        last = arguments.mutations if arguments.only is None else arguments.only + 1
        first = 0 if arguments.only is None else arguments.only
        outcomes = list(run(packages, READERS, last, arguments.seed, first=first))
    for outcome in outcomes:
        if outcome.failure:
            print(
                plain_text(f"{outcome.number} {outcome.failure} in {outcome.reader}: {outcome.message:.200}")
            )
        if arguments.only is not None:
            print(plain_text(f"{outcome}\n{outcome.trace}"))
    console.print(levels_table(outcomes))
    console.print(findings_table(outcomes))
    console.print(f"{len(outcomes)} mutations in {time.monotonic() - begin:.0f} s")
    if any(outcome.failure for outcome in outcomes):
        sys.exit(1)


if __name__ == "__main__":
    main()
