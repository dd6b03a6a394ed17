"""`lightning-compress inspect package=...`: what a package holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig

from lightning_compress.commands.output import write_json
from lightning_compress.console import print_whole
from lightning_compress.errors import ConfigurationError
from lightning_compress.package.inspection import PackageReport, inspect
from lightning_compress.package.rendering import tables


def run(config: DictConfig) -> None:
    """Print the report of `config.package`, and write it to `config.json` if that is set.

    Raises:
        PackageError: The package is missing, damaged or of an older kind.
    """
    if "package" not in config or not config.package:
        raise ConfigurationError(
            "package is empty; give the path of an .mlpackage: lightning-compress inspect net.mlpackage"
        )
    report = inspect(config.package)
    print_whole(*tables(report))
    if config.json:
        write_json(config.json, _as_json(report))


_IN_WORDS = ("technique", "bits", "granularity", "details", "stored_bytes")


def _as_json(report: PackageReport) -> dict[str, Any]:
    """A report with its layers' storage typed and in words, and the default function's inputs and outputs."""
    layers = [
        {**asdict(layer), **{name: getattr(layer, name) for name in _IN_WORDS}} for layer in report.layers
    ]
    features = {
        name: [asdict(feature) for feature in getattr(report, name)] for name in ("inputs", "outputs")
    }
    return {**asdict(report), **features, "layers": layers}
