"""What is written into a package after it was made: metrics are known only once the package has run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_compress.coreml.card import write_model_card
from lightning_compress.package.changing import change_specification
from lightning_compress.package.inspection import PackageReport, inspect


def add_metadata(package: str | Path, metadata: Mapping[str, Any], *, card: bool = True) -> PackageReport:
    """Add to a package's user-defined metadata; a key that is there already gets the new value.

    Args:
        package: Path of an `.mlpackage` folder, which is replaced in one step.
        metadata: Values by key; what is no string is written as `str` gives it.
        card: Whether to write the model card anew.

    Returns:
        What the package holds now.

    Raises:
        PackageError: If it cannot be read or written.
    """

    def add(specification: Any) -> None:
        for key, value in metadata.items():
            specification.description.metadata.userDefined[str(key)] = str(value)

    def describe(path: Path) -> PackageReport:
        report = inspect(path)
        if card:
            write_model_card(report)
        return report

    return change_specification(package, add, describe)
