"""Opens a package and finds out, before anything is read from it, whether it is whole.

Only coremltools' readers touch the contents; nothing in a package is run.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coremltools as ct
from coremltools.converters.mil.frontend.milproto import load as milproto
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from lightning_compress.errors import PackageError

_BLOB_SENTINEL = 0xDEADBEEF
_BLOB_HEADER = struct.Struct("<IIQQ")
"""Before each blob of a weight file: sentinel, type, bytes, offset of the data."""


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
        path = Path(package.package_path)
        specification = package.get_spec()
        folder = package.weights_dir
    else:
        path = Path(package).expanduser()
        specification, folder = _read(path)
    pipeline = None
    kind = specification.WhichOneof("Type")
    if kind == "pipeline":
        pipeline, specification = specification, _only_program(specification, path)
    elif kind != "mlProgram":
        raise PackageError(
            f"{str(path)!r} holds a model of type {kind or 'unknown'}, not an ML Program; "
            "convert the original model again with convert_to='mlprogram'"
        )
    opened = Package(path, specification, Path(folder) if folder else None, pipeline)
    _require_whole(opened)
    return opened


def _only_program(pipeline: Any, path: Path) -> Any:
    kinds = [model.WhichOneof("Type") for model in pipeline.pipeline.models]
    if kinds.count("mlProgram") != 1:
        raise PackageError(
            f"{str(path)!r} holds a pipeline of {', '.join(map(str, kinds)) or 'nothing'}; one with one ML Program "
            "can be read. Give the packages of its programs one by one"
        )
    return pipeline.pipeline.models[kinds.index("mlProgram")]


def _read(path: Path) -> tuple[Any, str | None]:
    if not path.exists():
        raise PackageError(f"there is nothing at {str(path)!r}; give the path of an .mlpackage folder")
    if path.suffix == ".mlmodelc":
        raise PackageError(f"{str(path)!r} is compiled; give the .mlpackage that it was compiled from")
    if path.suffix == ".mlmodel" or not path.is_dir():
        raise PackageError(
            f"{str(path)!r} is a file, not an .mlpackage folder; "
            "an older .mlmodel has to be converted again with convert_to='mlprogram'"
        )
    if not (path / "Manifest.json").is_file():
        raise PackageError(f"{str(path)!r} is no package: it has no Manifest.json")
    try:
        specification = ct.utils.load_spec(str(path))
        folder = ct.models.utils._try_get_weights_dir_path(str(path))
    except (DecodeError, OSError, RuntimeError, ValueError) as error:
        raise PackageError(f"{str(path)!r} is damaged: its model cannot be read ({error})") from error
    if not specification.IsInitialized() or specification.specificationVersion == 0:
        raise PackageError(f"{str(path)!r} is damaged or encrypted: its model has no specification version")
    return specification, folder


def _require_whole(package: Package) -> None:
    """Coremltools' reader of weights checks no lengths, so they are checked here."""
    for file_name, offset in _blobs(package.specification.mlProgram):
        name = file_name.rsplit("/", 1)[-1]
        file = (package.weights_folder or package.path) / name
        if not file.is_file():
            raise PackageError(f"{str(package.path)!r} is damaged: its weight file {name!r} is missing")
        size = file.stat().st_size
        with file.open("rb") as stream:
            stream.seek(offset)
            header = stream.read(_BLOB_HEADER.size)
        whole = len(header) == _BLOB_HEADER.size
        if whole:
            sentinel, _, length, start = _BLOB_HEADER.unpack(header)
            if sentinel != _BLOB_SENTINEL:
                raise PackageError(
                    f"{str(package.path)!r} is damaged: its weight file {name!r} "
                    f"holds no weight at byte {offset}"
                )
            whole = start + length <= size
        if not whole:
            raise PackageError(
                f"{str(package.path)!r} is damaged: its weight file {name!r} ends after {size} bytes, "
                "before the weights that its program names; copy or export it again"
            )


def _blobs(program: Any) -> Iterator[tuple[str, int]]:
    for function in program.functions.values():
        for block in function.block_specializations.values():
            yield from _blobs_of_block(block)


def _blobs_of_block(block: Any) -> Iterator[tuple[str, int]]:
    for operation in block.operations:
        values = list(operation.attributes.values())
        for argument in operation.inputs.values():
            values += [binding.value for binding in argument.arguments if binding.HasField("value")]
        for value in values:
            if value.WhichOneof("value") == "blobFileValue":
                yield value.blobFileValue.fileName, value.blobFileValue.offset
        for nested in operation.blocks:
            yield from _blobs_of_block(nested)
