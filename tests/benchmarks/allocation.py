"""Forms of their own for each weight beside one width for all, at the same bytes, without any training.

    python -m tests.benchmarks.allocation FOLDER recipe=ssd_resnet18 weights=float.ckpt

The words behind FOLDER are those of `lightning-compress explore`. Prints the metric of real packages on the half of the
validation data that no score has seen, for palettes of one width by k-means, of one width by data, and of widths of
their own by data, in as many bytes.
"""

from __future__ import annotations

import functools
import logging
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_module
from rich.console import Console
from rich.table import Table

from lightning_compress.command_line.composing import CONFIGURATIONS
from lightning_compress.command_line.words import sort_words
from lightning_compress.commands.explore.job import ExploreJob
from lightning_compress.commands.explore.subject import RecipeSubject
from lightning_compress.commands.jobs.building import FLOAT_FIT
from lightning_compress.explore.allocation import allocate, uniform
from lightning_compress.explore.compressing import Compressed, compressed_after_training
from lightning_compress.explore.forms import Form
from lightning_compress.explore.making import parsed
from lightning_compress.explore.record import TensorRecord
from lightning_compress.explore.searching import Search
from lightning_compress.package.rendering import in_megabytes
from lightning_compress.stopping import Stops
from lightning_compress.tasks.measuring import measure

WIDTHS = (4, 3, 2)


class Bench:
    """A search that is taken apart."""

    def __init__(self, folder: Path, words: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        overrides = sort_words("explore", [*words, "explore.max_drop=1"]).overrides
        with initialize_config_module(CONFIGURATIONS, version_base="1.3"):
            config = compose("explore", overrides=overrides)
        job = ExploreJob(config, folder)
        job.building.data.prepare_data()
        job.building.data.setup("fit")
        job.weights.keep(FLOAT_FIT, job.building.float_module())
        self.folder = folder
        self.job = job
        self.subject = RecipeSubject(job.building, job.weights, folder, Stops(), lambda _: None)
        self.search = Search(self.subject, job.asked, folder, lambda _: None)

    @functools.cached_property
    def records(self) -> list[TensorRecord]:
        """The table of scores."""
        began = time.perf_counter()
        records = self.search.sensitivity(self.job.asked.all_forms())
        self.seconds = time.perf_counter() - began
        return records

    def value(self, compressed: Compressed, name: str) -> tuple[float, int]:
        """The metric of a package on the other half of the data, and its bytes."""
        package = self.subject.export(compressed, self.folder / f"{name}.mlpackage", verifies=False)
        module, _ = self.subject.placed(package.path)
        data = self.search.judged.as_data()
        return measure(
            module, data, self.subject.metric, self.folder, shows_progress=False
        ), package.package_bytes


def compared(bench: Bench) -> Table:
    """Each width by k-means, by data, and as widths of their own in as many bytes, with error feedback too."""
    records = bench.records
    table = Table(title=f"{bench.subject.metric} without training; table of scores in {bench.seconds:.0f} s")
    headings = ("bytes of", "package", "k-means", "by data", "of their own", "with feedback", "their package")
    for heading in headings:
        table.add_column(heading, justify="right")
    network = bench.subject.network()
    value, size = bench.value(Compressed(network), "float16")
    table.add_row("float16", in_megabytes(size), f"{value:.4f}", "", "", "", "")
    for bits in WIDTHS:
        same = uniform(records, Form(bits=bits).name)
        own = allocate(records, same.bytes)
        kmeans, size = bench.value(
            compressed_after_training(network, parsed(same.compressed)), f"kmeans_{bits}"
        )
        data, _ = bench.value(
            bench.search.compressed_by_data(network, parsed(same.compressed)), f"data_{bits}"
        )
        mixed, mixed_size = bench.value(
            bench.search.compressed_by_data(network, parsed(own.compressed)), f"mixed_{bits}"
        )
        corrected, _ = bench.value(
            bench.search.compressed_with_feedback(network, parsed(own.compressed)), f"feedback_{bits}"
        )
        table.add_row(
            f"{bits} bits",
            in_megabytes(size),
            f"{kmeans:.4f}",
            f"{data:.4f}",
            f"{mixed:.4f}",
            f"{corrected:.4f}",
            in_megabytes(mixed_size),
        )
    return table


def main() -> None:
    """Print the tables."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    logging.getLogger("lightning_compress").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    Console(width=110).print(compared(Bench(Path(sys.argv[1]), sys.argv[2:])))


if __name__ == "__main__":
    main()
