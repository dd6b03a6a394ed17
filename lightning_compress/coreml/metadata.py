"""What is written into a package after it was made: metrics are known only once the package has run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import coremltools as ct
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from lightning_compress.arguments import require_path, require_type
from lightning_compress.coreml.card import write_model_card
from lightning_compress.errors import PackageError
from lightning_compress.nice_to_have import nice_to_have
from lightning_compress.package.inspection import PackageReport, inspect
from lightning_compress.package.opening import open_package
from lightning_compress.package.save import save_package


def add_metadata(package: str | Path, metadata: Mapping[str, Any], *, card: bool = True) -> PackageReport:
    """Add to a package's user-defined metadata; a key that is there already gets the new value.

    Args:
        package: Path of an `.mlpackage` folder, which is replaced in one step.
        metadata: Values by key; what is no string is written as `str` gives it.
        card: Whether to write the model card anew.

    Returns:
        What the package holds now.

    Raises:
        ConfigurationError: If `metadata` is no mapping.
        PackageError: If it cannot be read or written.
    """
    require_path("package", package, "net.mlpackage")
    require_type("metadata", metadata, Mapping, "a mapping from keys to values")
    path = open_package(package).path
    try:
        model = ct.models.MLModel(str(path), skip_model_load=True)
    except (DecodeError, OSError, RuntimeError, ValueError) as error:
        raise PackageError(f"{str(path)!r} cannot be read: {error}") from error
    for key, value in metadata.items():
        model.user_defined_metadata[str(key)] = str(value)
    report = inspect(save_package(model, path))
    if card:
        with nice_to_have("the model card"):
            write_model_card(report)
    return report
