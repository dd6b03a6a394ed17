"""What a job has finished, on the disk: `job.json` in its folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning_compress.commands.results import Result
from lightning_compress.errors import ConfigurationError
from lightning_compress.package.save import write_whole

FILE = "job.json"

_VERSION = 1


@dataclass
class FinishedStage:
    """A stage that need not be run again.

    Attributes:
        name: Of the stage.
        seconds: How long it took.
        files: The files and packages that later stages need, relative to the job's folder, with their SHA-256.
        results: What it measured.
    """

    name: str
    seconds: float
    files: dict[str, str] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)


class JobState:
    """The finished stages of a job.

    Written whole after each stage. A stage is seeded by itself and depends on the configuration and on the files of
    stages before it, so no random states are held here; those within a fit are in its checkpoints.

    Args:
        folder: The job's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stages: dict[str, FinishedStage] = {}

    @classmethod
    def read(cls, folder: Path) -> JobState:
        """Read what a job has left; nothing if it has finished no stage.

        Raises:
            ConfigurationError: The file is damaged.
        """
        state = cls(folder)
        path = folder / FILE
        if not path.exists():
            return state
        try:
            content = json.loads(path.read_text())
            version = content["version"]
            if version == _VERSION:
                state.stages = {entry["name"]: _stage(entry, folder) for entry in content["stages"]}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigurationError(
                f"{str(path)!r} is damaged ({type(error).__name__}: {error}), so that the job cannot go on from it; "
                "start a new job in another folder"
            ) from error
        if version != _VERSION:
            raise ConfigurationError(f"{str(path)!r} is of version {version!r}; valid is {_VERSION}")
        return state

    @property
    def results(self) -> list[Result]:
        """What was measured, in the order of the stages."""
        return [result for stage in self.stages.values() for result in stage.results]

    def finish(self, name: str, seconds: float, files: Iterable[Path], results: Iterable[Result]) -> None:
        """Write down that a stage is finished."""
        digests = {str(path.relative_to(self.folder)): digest(path) for path in files}
        self.stages[name] = FinishedStage(name, round(seconds, 2), digests, list(results))
        content = {"version": _VERSION, "stages": [self._entry(stage) for stage in self.stages.values()]}
        write_whole(self.folder / FILE, (json.dumps(content, indent=2) + "\n").encode())

    def _entry(self, stage: FinishedStage) -> dict[str, Any]:
        """A stage as JSON; paths are those below the folder, so that it can be moved."""
        entry = asdict(stage)
        for result in entry["results"]:
            result["package"] = os.path.relpath(result["package"], self.folder)
        return entry

    def check_files(self) -> None:
        """Find out whether what the finished stages wrote is still there.

        Raises:
            ConfigurationError: A file or a package is missing or another.
        """
        for stage in self.stages.values():
            for name, expected in stage.files.items():
                path = self.folder / name
                if not path.exists():
                    raise ConfigurationError(
                        f"{str(path)!r} is missing, which the finished stage {stage.name!r} of the job wrote; put "
                        "it back, or start a new job in another folder"
                    )
                if digest(path) != expected:
                    raise ConfigurationError(
                        f"{str(path)!r} is not what the stage {stage.name!r} of the job wrote: it was cut short or "
                        "replaced; put it back, or start a new job in another folder"
                    )


def digest(path: Path) -> str:
    """The SHA-256 of a file, or of a folder's files and their names."""
    total = hashlib.sha256()
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        with file.open("rb") as stream:
            own = hashlib.sha256()
            while block := stream.read(1 << 20):
                own.update(block)
        total.update(f"{file.relative_to(path)}\0{own.hexdigest()}\n".encode())
    return total.hexdigest()


def _stage(entry: dict[str, Any], folder: Path) -> FinishedStage:
    return FinishedStage(
        entry["name"],
        float(entry["seconds"]),
        {str(name): str(value) for name, value in entry["files"].items()},
        [Result(**{**result, "package": str(folder / result["package"])}) for result in entry["results"]],
    )
