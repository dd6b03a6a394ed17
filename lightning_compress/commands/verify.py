"""`lightning-compress verify package=... recipe=... checkpoint=...`: a package against a torch model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.table import Table
from rich.text import Text

from lightning_compress.arguments import require_one_of
from lightning_compress.commands.output import write_json
from lightning_compress.commands.reference import Reference, reference_of_recipe, reference_of_saved_module
from lightning_compress.console import literal, print_whole
from lightning_compress.coreml.convert import PRECISIONS
from lightning_compress.coreml.detector import COORDINATES
from lightning_compress.coreml.verification import (
    Verification,
    compare,
    coreml_is_available,
    reference_outputs,
    run_in_coreml,
    run_in_torch,
    verification_table,
)
from lightning_compress.coreml.verification.running import effect_of_rounding, output_names, program_of
from lightning_compress.errors import ConfigurationError, VerificationError
from lightning_compress.package.inspection import inspect


@dataclass(frozen=True)
class MetricComparison:
    """A task metric of the torch model and of the package, on the same data.

    Attributes:
        name: Its name.
        module: Of the torch model.
        package: Of the package.
        allowed: How far the two may be apart.
    """

    name: str
    module: float
    package: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether they are near enough."""
        return abs(self.module - self.package) <= self.allowed


def run(config: DictConfig) -> None:
    """Compare `config.package` with the torch model, print tables, and write `config.json` if that is set.

    Raises:
        VerificationError: If an output or the metric is outside of its tolerance.
        PackageError: The package is missing, damaged or of an older kind.
        ConfigurationError: There is nothing to compare it with.
    """
    if not config.get("package"):
        raise ConfigurationError(
            "package is empty; give the path of an .mlpackage: lightning-compress verify net.mlpackage ..."
        )
    require_one_of("precision", config.precision, PRECISIONS)
    report = inspect(config.package)
    reference = (
        reference_of_recipe(config, report)
        if config.get("recipe") is not None
        else reference_of_saved_module(config, report)
    )
    verifications = _verifications(config, reference)
    print_whole(*(verification_table(verification) for verification in verifications))
    metric = _metric(config, reference)
    if metric is not None:
        print_whole(_metric_table(metric))
    if config.json:
        write_json(config.json, _as_json(verifications, metric))
    for verification in verifications:
        verification.require_passed()
    if metric is not None and not metric.passed:
        raise VerificationError(
            f"{metric.name} of the package is {metric.package:.4f}, and {metric.module:.4f} of the torch model; they "
            f"may be apart by metric_tolerance={metric.allowed:g}"
        )


def _verifications(config: DictConfig, reference: Reference) -> list[Verification]:
    package = Path(config.package)
    program = program_of(package, config.precision)
    names = output_names(program)
    expected = reference_outputs(reference.module, reference.samples.module, names)
    exact = expected
    if reference.finalized is not reference.module:
        exact = reference_outputs(reference.finalized, reference.samples.module, names)
    rounding = effect_of_rounding(reference.finalized, reference.samples.module, exact, reference.tolerance)
    pixels = None if reference.pixel is None else {COORDINATES: reference.pixel}
    found = {f"torch, {config.precision}": run_in_torch(program, reference.samples.package)}
    if coreml_is_available():
        found["Core ML"] = run_in_coreml(package, reference.samples.package)
    return [
        Verification(
            package=str(package),
            runner=runner,
            samples=len(expected),
            outputs=compare(expected, outputs, reference.tolerance, pixels=pixels, rounding=rounding),
        )
        for runner, outputs in found.items()
    ]


def _metric(config: DictConfig, reference: Reference) -> MetricComparison | None:
    if reference.measure is None or not config.metric:
        return None
    with tempfile.TemporaryDirectory() as folder:
        of_module, of_package = reference.measure(Path(folder))
    return MetricComparison(config.recipe.metric, of_module, of_package, config.metric_tolerance)


def _metric_table(metric: MetricComparison) -> Table:
    table = Table("metric", "torch model", "package", "difference", "allowed", "")
    table.add_row(
        literal(metric.name),
        f"{metric.module:.4f}",
        f"{metric.package:.4f}",
        f"{metric.package - metric.module:+.4f}",
        f"{metric.allowed:g}",
        Text("ok", "green") if metric.passed else Text("differs", "bold red"),
    )
    return table


def _as_json(verifications: list[Verification], metric: MetricComparison | None) -> Mapping[str, Any]:
    runs = [
        {
            "runner": verification.runner,
            "samples": verification.samples,
            "passed": verification.passed,
            "outputs": [
                {**asdict(output), "relative": output.relative, "passed": output.passed}
                for output in verification.outputs
            ],
        }
        for verification in verifications
    ]
    passed = all(verification.passed for verification in verifications) and (metric is None or metric.passed)
    return {
        "package": verifications[0].package,
        "passed": passed,
        "runs": runs,
        "metric": None if metric is None else {**asdict(metric), "passed": metric.passed},
    }
