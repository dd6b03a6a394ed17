"""Opens a package and finds out, before anything is read from it, whether it is whole.

Only coremltools' readers touch the contents; nothing in a package is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coremltools as ct
from coremltools.converters.mil.frontend.milproto import load as milproto

from lightning_compress.errors import PackageError
from lightning_compress.package.reader import PackageContents, read_package


@dataclass(frozen=True)
class Package:
    """A package that has been opened: its description and operations, and where its weights are.

    Attributes:
        path: The `.mlpackage` folder.
        specification: The `Model` message of Core ML's specification that holds the program.
        weights_folder: The folder of the weight files, or None if the program has no large constants.
        pipeline: The `Model` message of the pipeline that the program stands in, or None.
    """

    path: Path
    specification: Any
    weights_folder: Path | None
    pipeline: Any | None = None

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
        return sorted(entry for entry in self.weights_folder.rglob("*") if entry.is_file())

    def program(self, minimum_version: int = 0) -> Any:
        """The program as coremltools' `Program`, read as of `minimum_version` of the specification or later.

        Raises:
            PackageError: If coremltools cannot read it.
        """
        version = max(self.specification_version, minimum_version)
        try:
            return milproto.load(self.specification, version, str(self.weights_folder or ""))
        except Exception as error:
            raise PackageError(f"the program of {str(self.path)!r} cannot be read: {error}") from error


def open_package(package: str | Path | ct.models.MLModel) -> Package:
    """Open a package, or a model in memory, whose program coremltools can read.

    Args:
        package: Path of an `.mlpackage` folder, or a converted model.

    Raises:
        PackageError: If there is nothing at the path, it is no package, it holds an older kind of model or
            one that is encrypted or compiled, or its weight file is missing or too short.
    """
    if isinstance(package, ct.models.MLModel):
        contents = PackageContents(
            Path(package.package_path), package.get_spec(), Path(package.weights_dir or package.package_path)
        )
    else:
        contents = read_package(Path(package).expanduser())
    specification, pipeline = contents.specification, None
    if specification.WhichOneof("Type") == "pipeline":
        pipeline, specification = specification, _only_program(specification, contents.path)
    elif specification.WhichOneof("Type") != "mlProgram":
        raise PackageError(
            f"{contents.path} holds a model of type {specification.WhichOneof('Type')!r}. "
            "Valid types: 'mlProgram', and pipelines with one of them."
        )
    return Package(contents.path, specification, contents.weights, pipeline)


def _only_program(pipeline: Any, path: Path) -> Any:
    kinds = [model.WhichOneof("Type") for model in pipeline.pipeline.models]
    if kinds.count("mlProgram") != 1:
        raise PackageError(
            f"{str(path)!r} holds a pipeline of {', '.join(map(str, kinds)) or 'nothing'}; one with one ML Program "
            "can be read. Give the packages of its programs one by one"
        )
    return pipeline.pipeline.models[kinds.index("mlProgram")]
