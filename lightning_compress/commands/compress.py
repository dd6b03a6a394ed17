"""`lightning-compress compress net.mlpackage palettize=4`: any package, smaller, without training."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import coremltools as ct
from omegaconf import DictConfig, ListConfig
from rich import box
from rich.table import Table
from rich.text import Text

from lightning_compress.arguments import require_one_of
from lightning_compress.commands.output import write_json
from lightning_compress.commands.samples import package_samples
from lightning_compress.console import literal, print_whole
from lightning_compress.coreml.convert import PRECISIONS
from lightning_compress.coreml.post_training import (
    PostTrainingForm,
    compress_package,
    configured_package,
    read_configuration,
)
from lightning_compress.coreml.tolerance import Tolerance
from lightning_compress.coreml.verification import compare, run_in_torch
from lightning_compress.coreml.verification.comparison import OutputDifference
from lightning_compress.coreml.verification.running import program_of
from lightning_compress.counted import counted
from lightning_compress.errors import ConfigurationError
from lightning_compress.package.inspection import Layer, PackageReport, inspect
from lightning_compress.package.rendering import format_bytes, storage
from lightning_compress.package.save import require_writable, save_package

_FORM = ("prune", "palettize", "quantize", "group_size", "cluster_dim", "block_size")


@dataclass(frozen=True)
class Smaller:
    """A package that was made of another.

    Attributes:
        name: How it was compressed, such as "palettize_4bit".
        report: What it holds.
        dense: Why weights stay as they were, by the names of the program's constants.
        outputs: How far its outputs are from those of the original, one entry an output.
    """

    name: str
    report: PackageReport
    dense: Mapping[str, str]
    outputs: Sequence[OutputDifference]


def run(config: DictConfig) -> list[Smaller]:
    """Compress `config.package` in each form asked for, print tables, and write `config.json` if that is set.

    Raises:
        CompressionError: Before anything is written, naming what is wrong and what is valid.
    """
    require_one_of("precision", config.precision, PRECISIONS)
    original = inspect(config.package)
    samples = package_samples(original, config.inputs, config.samples).package
    models = list(_models(config))
    paths = {name: _path(config, original.path, name) for name, _, _ in models}
    for path in paths.values():
        require_writable(path)
    expected = run_in_torch(program_of(config.package, config.precision), samples)
    found = []
    for name, model, dense in models:
        # Shown as it was typed, as the original is.
        path = paths[name]
        save_package(model, path)
        outputs = run_in_torch(program_of(path, config.precision), samples)
        found.append(Smaller(name, inspect(path), dense, compare(expected, outputs, Tolerance())))
    print_whole(*_tables(original, found, len(samples)))
    if config.json:
        write_json(config.json, _as_json(original, found))
    return found


def _models(config: DictConfig) -> Iterator[tuple[str, ct.models.MLModel, Mapping[str, str]]]:
    """Each package that is asked for: its name, the model, and what stays dense."""
    target = config.minimum_deployment_target
    if config.configuration is not None:
        given = [key for key in _FORM if config[key] is not None]
        if given:
            raise ConfigurationError(
                f"{given[0]} and configuration are both given; a configuration says all of it by operation"
            )
        files = [Path(file) for file in _listed(config.configuration)]
        configurations = [read_configuration(file) for file in files]
        model, dense = configured_package(config.package, configurations, minimum_deployment_target=target)
        yield "_".join(file.stem for file in files), model, dense
        return
    values = [_listed(config[key]) for key in _FORM]
    for key, listed in zip(_FORM, values, strict=True):
        if not listed:
            raise ConfigurationError(
                f"{key}=[] asks for no package; give a value or several, or leave {key} out"
            )
    forms = [
        PostTrainingForm(**dict(zip(_FORM, combination, strict=True)))
        for combination in itertools.product(*values)
    ]
    for compressed in compress_package(
        config.package,
        forms,
        weight_threshold=config.weight_threshold,
        minimum_deployment_target=target,
    ):
        yield compressed.form.name, compressed.model, compressed.dense


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, ListConfig) else [value]


def _path(config: DictConfig, original: Path, name: str) -> Path:
    folder = original.parent if config.output is None else Path(config.output).expanduser()
    return folder / f"{original.stem}.{name}.mlpackage"


def _tables(original: PackageReport, found: Sequence[Smaller], samples: int) -> list[Table]:
    return [_sizes(original, found), _differences(found, samples), _weights(original, found)]


def _sizes(original: PackageReport, found: Sequence[Smaller]) -> Table:
    table = _table("Packages")
    for heading in ("package", "runs on", "bytes", "weights", "times smaller"):
        table.add_column(heading, justify="left" if heading in ("package", "runs on") else "right")
    for report in (original, *(smaller.report for smaller in found)):
        table.add_row(
            literal(str(report.path)),
            report.target,
            format_bytes(report.package_bytes),
            format_bytes(report.weight_bytes),
            f"{original.package_bytes / report.package_bytes:.2f}",
        )
    return table


def _differences(found: Sequence[Smaller], samples: int) -> Table:
    table = _table(f"Outputs on {counted(samples, 'sample')}, beside those of the original")
    for heading in (
        "compression",
        "output",
        "largest value",
        "largest difference",
        "relative",
        "mean difference",
    ):
        table.add_column(heading, justify="left" if heading in ("compression", "output") else "right")
    for smaller in found:
        for output in smaller.outputs:
            if output.is_labels:
                values = ["", "", "", f"{output.mean:.2%} are others"]
            else:
                values = [
                    f"{output.largest_value:.4g}",
                    f"{output.largest:.4g}",
                    f"{output.relative:.1%}",
                    f"{output.mean:.4g}",
                ]
            table.add_row(literal(smaller.name), literal(output.name), *values)
    return table


def _weights(original: PackageReport, found: Sequence[Smaller]) -> Table:
    table = _table("Weights of two or more dimensions")
    table.add_column("weight")
    table.add_column("elements", justify="right")
    for heading in ("original", *(smaller.name for smaller in found)):
        table.add_column(heading)
    stored = [{layer.name: layer for layer in smaller.report.layers} for smaller in found]
    for layer in original.layers:
        if len(layer.shape) > 1:
            cells = [_stored(layers.get(layer.name)) for layers in stored]
            table.add_row(literal(layer.name), f"{layer.parameters:,}", _stored(layer), *cells)
    return table


def _stored(layer: Layer | None) -> Text:
    return literal("" if layer is None else f"{storage(layer)}, {format_bytes(layer.stored_bytes)}")


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def _as_json(original: PackageReport, found: Sequence[Smaller]) -> Mapping[str, Any]:
    return {
        "package": str(original.path),
        "package_bytes": original.package_bytes,
        "compressed": [
            {
                "name": smaller.name,
                "package": str(smaller.report.path),
                "package_bytes": smaller.report.package_bytes,
                "weight_bytes": smaller.report.weight_bytes,
                "dense": dict(smaller.dense),
                "outputs": [{**asdict(output), "relative": output.relative} for output in smaller.outputs],
            }
            for smaller in found
        ],
    }
