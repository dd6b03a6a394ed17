"""What of the methods works on the networks that people bring.

    python -m tests.benchmarks.breadth --results breadth.jsonl [--resume] [--networks REGEX] [--methods REGEX]
                                       [--jobs N] [--timeout SECONDS]
    python -m tests.benchmarks.breadth --table breadth.jsonl

Each network of `breadth_networks.NETWORKS` is trained for a few steps by each method, in a process of its own, as a
user would: a Trainer with `Compression` and `CoreMLExport`. A cell is

- ok: the package is verified, and what was selected is stored as asked;
- refused: a `CompressionError` before the first step;
- failed: any other error, or one after the first step;
- wrong: the package was written, but its weights are not stored as asked, its operations have no integers as inputs,
  or the finalized module computes something else than the trained one in `eval()`.

The method "plain" only exports: it says whether coremltools converts the network at all. Results are appended as JSON
lines, one a cell; a cell that is there twice counts by its last line.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tests.benchmarks.breadth_cell import METHODS, Cell, run_cell
from tests.benchmarks.breadth_networks import NETWORKS

_SHORT = {"ok": "ok", "refused": "refused", "failed": "failed", "wrong": "WRONG"}


def run_apart(network: str, method: str, timeout: float) -> Cell:
    """Run a cell in a process of its own, on one thread.

    Args:
        network: A key of `NETWORKS`.
        method: A key of `METHODS`.
        timeout: Seconds after which it is stopped.
    """
    began = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "cell.json"
        command = [sys.executable, "-m", "tests.benchmarks.breadth", "--cell", network, method, str(written)]
        try:
            ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            reason = f"took more than {timeout:g} seconds"
            return Cell(network, method, "failed", reason, seconds=time.monotonic() - began)
        if not written.exists():
            tail = " / ".join(ended.stderr.strip().splitlines()[-3:])
            reason = f"the process ended with {ended.returncode}: {tail}"
            return Cell(network, method, "failed", reason, seconds=time.monotonic() - began)
        return Cell(**json.loads(written.read_text()))


def run_all(pairs: Sequence[tuple[str, str]], results: Path, jobs: int, timeout: float) -> None:
    """Run cells and append each to a file of JSON lines as it ends.

    Args:
        pairs: Networks and methods.
        results: The file.
        jobs: Processes at a time.
        timeout: Seconds for each.
    """
    with ThreadPoolExecutor(max_workers=jobs) as pool, results.open("a") as file:
        futures = [pool.submit(run_apart, network, method, timeout) for network, method in pairs]
        for count, future in enumerate(as_completed(futures), 1):
            cell = future.result()
            file.write(json.dumps(cell.as_dict()) + "\n")
            file.flush()
            print(f"[{count}/{len(pairs)}] {cell.line()}", flush=True)


def read_results(path: Path) -> dict[tuple[str, str], Cell]:
    """The cells of a file of JSON lines, by network and method; none if there is no file."""
    if not path.exists():
        return {}
    cells = [Cell(**json.loads(line)) for line in path.read_text().splitlines() if line.strip()]
    return {(cell.network, cell.method): cell for cell in cells}


def table(cells: Mapping[tuple[str, str], Cell]) -> str:
    """Networks by methods in Markdown, the reason of each cell that is not ok, and the shares that are."""
    networks = [name for name in NETWORKS if any(cell.network == name for cell in cells.values())]
    methods = [name for name in METHODS if any(cell.method == name for cell in cells.values())]
    lines = ["| network | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    for network in networks:
        row = [_code(cells.get((network, method))) for method in methods]
        lines.append(f"| {network} | " + " | ".join(row) + " |")
    lines.append("")
    for network in networks:
        for method in methods:
            cell = cells.get((network, method))
            if cell is not None and cell.outcome != "ok":
                lines.append(
                    f"- {network}, {method}: {cell.outcome}{_after(cell)}: {_on_one_line(cell.reason)}"
                )
    lines += ["", *_shares(cells, networks, methods)]
    return "\n".join(lines)


def _code(cell: Cell | None) -> str:
    return "" if cell is None else _SHORT[cell.outcome]


def _after(cell: Cell) -> str:
    return f" after {cell.steps} steps" if cell.outcome == "failed" else ""


def _on_one_line(text: str, length: int = 400) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 3] + "..."


def _shares(
    cells: Mapping[tuple[str, str], Cell], networks: Sequence[str], methods: Sequence[str]
) -> list[str]:
    """How many cells are ok, among the networks that are exported without any method."""
    convertible = {n for n in networks if (n, "plain") in cells and cells[n, "plain"].outcome == "ok"}
    lines = [
        f"{len(convertible)} of {len(networks)} networks are exported without any method. Of these are ok:"
    ]
    all_ok = all_run = 0
    for method in methods:
        if method == "plain":
            continue
        outcomes = [cells[n, method].outcome for n in networks if n in convertible and (n, method) in cells]
        ok = sum(outcome == "ok" for outcome in outcomes)
        all_ok, all_run = all_ok + ok, all_run + len(outcomes)
        if outcomes:
            lines.append(f"- {method}: {ok} of {len(outcomes)} ({ok / len(outcomes):.0%})")
    if all_run:
        lines.append(f"- all methods: {all_ok} of {all_run} ({all_ok / all_run:.0%})")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--results", type=Path, default=Path("breadth.jsonl"), help="where cells are appended"
    )
    parser.add_argument(
        "--resume", action="store_true", help="skip the cells that are in the file of results"
    )
    parser.add_argument("--networks", default="", help="a regular expression that names of networks hold")
    parser.add_argument("--methods", default="", help="a regular expression that names of methods hold")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for a cell")
    parser.add_argument("--table", type=Path, help="print the table of a file of results, and run nothing")
    parser.add_argument("--list", action="store_true", help="print the networks and the methods")
    parser.add_argument("--cell", nargs=3, metavar=("NETWORK", "METHOD", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.cell:
        network, method, written = options.cell
        Path(written).write_text(json.dumps(run_cell(network, method).as_dict()))
        return 0
    if options.list:
        print("\n".join([*NETWORKS, "", *METHODS]))
        return 0
    if options.table:
        print(table(read_results(options.table)))
        return 0
    pairs = _pairs(options)
    run_all(pairs, options.results, options.jobs, options.timeout)
    print()
    print(table(read_results(options.results)))
    return 0


def _pairs(options: Any) -> list[tuple[str, str]]:
    done = read_results(options.results) if options.resume else {}
    return [
        (network, method)
        for network in NETWORKS
        if re.search(options.networks, network)
        for method in METHODS
        if re.search(options.methods, method) and (network, method) not in done
    ]


if __name__ == "__main__":
    sys.exit(main())
