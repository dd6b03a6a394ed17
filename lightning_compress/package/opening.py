"""Opens a package and finds out, before anything is read from it, whether it is whole.

Only coremltools' readers touch the contents; nothing in a package is run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import coremltools as ct

from lightning_compress.errors import PackageError
from lightning_compress.package.files import regular_files, shown
from lightning_compress.package.program import read_program
from lightning_compress.package.reader import models_of, read_package


@dataclass(frozen=True)
class Package:
    """A package that has been opened: its description and operations, and where its weights are.

    Attributes:
        path: The `.mlpackage` folder.
        specification: The `Model` message of Core ML's specification that holds the program.
        weights_folder: The folder of the weight files, or None if the program has no large constants.
        pipeline: The `Model` message of the pipeline that the program stands in, or None.
        model: The model in memory whose folder this is, which may be gone with it; None for a package on the disk.
    """

    path: Path
    specification: Any
    weights_folder: Path | None
    pipeline: Any | None = None
    model: ct.models.MLModel | None = field(default=None, repr=False)

    @property
    def description(self) -> Any:
        """The `ModelDescription` message that apps meet."""
        return (self.specification if self.pipeline is None else self.pipeline).description

    @property
    def specification_version(self) -> int:
        """Version of Core ML's specification: 6 for iOS15 up to 10 for iOS26."""
        return int(self.specification.specificationVersion)

    @property
    def weight_files(self) -> list[Path]:
        """The files with the large constants."""
        if self.weights_folder is None or not self.weights_folder.is_dir():
            return []
        return [file for file, _ in regular_files(self.weights_folder)]

    def program(self, minimum_version: int = 0) -> Any:
        """The program as coremltools' `Program`, read as of `minimum_version` of the specification or later.

        Raises:
            PackageError: If coremltools cannot read it.
        """
        return read_program(self.specification, self.weights_folder, self.path, minimum_version)


def open_package(package: str | Path | ct.models.MLModel) -> Package:
    """Open a package, or a model in memory, whose program coremltools can read.

    Args:
        package: Path of an `.mlpackage` folder, or a converted model.

    Raises:
        PackageError: If there is nothing at the path, it is no package, it holds an older kind of model or
            one that is encrypted or compiled, or its weight file is missing or too short.
    """
    model = None
    if isinstance(package, ct.models.MLModel):
        model = package
        path, specification = Path(package.package_path), package.get_spec()
        weights = Path(package.weights_dir or package.package_path)
    else:
        contents = read_package(package)
        path, specification, weights = contents.path, contents.specification, contents.weights
    if models_of(specification):
        return Package(path, _only_program(specification, path), weights, specification, model)
    if specification.WhichOneof("Type") != "mlProgram":
        raise PackageError(
            f"{shown(path)} holds a model of type {specification.WhichOneof('Type')!r}. "
            "Valid types: 'mlProgram', and pipelines with one of them."
        )
    return Package(path, specification, weights, model=model)


def _only_program(pipeline: Any, path: Path) -> Any:
    models = models_of(pipeline)
    kinds = [model.WhichOneof("Type") for model in models]
    if kinds.count("mlProgram") != 1:
        raise PackageError(
            f"{shown(path)} holds a pipeline of {', '.join(map(str, kinds))}; one with one ML Program can be read. "
            "Give the packages of its programs one by one."
        )
    return models[kinds.index("mlProgram")]
