"""Mistakes with packages that are there, or are not."""

from __future__ import annotations

from typing import Any

from lightning_compress import runtime
from lightning_compress.coreml import PostTrainingForm, add_metadata, compress_package, palettize_package
from lightning_compress.package import inspect
from tests.mistakes.bench import Bench, Mistake


def text_file(bench: Bench) -> Any:
    bench.package.write_text("no package")
    return bench.package


def empty_folder(bench: Bench) -> Any:
    bench.package.mkdir()
    return bench.package


PACKAGES = [
    Mistake(
        "bits in no list",
        "n_bits=4; valid is a list of widths",
        lambda bench: palettize_package(bench.package, 4),
    ),
    Mistake("5 bits", "5", lambda bench: palettize_package(bench.package, ["5"])),
    Mistake("no bits", "n_bits is empty", lambda bench: palettize_package(bench.package, [])),
    Mistake(
        "a package that is missing", "net.mlpackage", lambda bench: palettize_package(bench.package, [4])
    ),
    Mistake(
        "a share of 75", "prune=75 is no share between 0 and 1", lambda bench: PostTrainingForm(prune=75)
    ),
    Mistake(
        "an unknown integer",
        "quantize='int2' is unknown; valid are int8",
        lambda bench: PostTrainingForm(quantize="int2"),
    ),
    Mistake(
        "a form in no list",
        "form",
        lambda bench: compress_package(bench.package, PostTrainingForm(palettize=4)),
    ),
    Mistake(
        "metadata of text", "metadata='x'; valid is a mapping", lambda bench: add_metadata(bench.package, "x")
    ),
    Mistake("a number for a path", "path=5; valid is a path", lambda bench: runtime.load(5)),
    Mistake(
        "a precision that is none",
        "precision='half' is unknown",
        lambda bench: runtime.load("x", precision="half"),
    ),
    Mistake(
        "a device that is none",
        "device='gpu'; valid is the name",
        lambda bench: runtime.load("x", device="gpu"),
    ),
    Mistake("nothing there", "net.mlpackage", lambda bench: runtime.load(bench.package)),
    Mistake("a file for a folder", "net.mlpackage", lambda bench: inspect(text_file(bench))),
    Mistake("an empty folder", "net.mlpackage", lambda bench: inspect(empty_folder(bench))),
]
