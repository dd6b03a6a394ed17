"""Mutates packages in a process of its own, with limits of time and memory, and tells what came of each."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import re
import resource
import shutil
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import coremltools as ct
import torch

from lightning_compress.errors import CompressionError
from tests.fuzz.files import (
    model_file,
    mutate_bytes,
    mutate_files,
    mutate_manifest,
    mutate_weights,
    odd_path,
)
from tests.fuzz.messages import mutate_message

PATIENCE = 20.0
"""Seconds after which a reader counts as hanging."""

MEMORY = 1_500_000_000
"""Bytes that reading may take beyond what the process had before."""

_NO_ANSWER = re.compile(
    r"list index out of range|tuple index out of range|object has no attribute|NoneType|object is not \w+|"
    r"unhashable|not enough values to unpack|too many values|positional argument|keyword argument|"
    r"can't allocate|not enough memory|Unable to allocate|MemoryError|embedded null|codec can't"
)
"""What Python says of its own trouble, which is no answer to what is wrong with a file."""

Reader = Callable[[Any], object]


@dataclass(frozen=True)
class Outcome:
    """What became of one mutation.

    Attributes:
        number: Which mutation, from 0 on: with the seed, all that is needed to make it again.
        package: Kind of the package.
        level: What was mutated: the bytes of the model, messages, weights, the manifest, files, the path.
        mutation: What was done.
        reader: Which reader failed, or empty.
        failure: "", or the type of a foreign exception, "hang", "crash", or "message" for one that does not help.
        message: What was said.
        refused: Whether the first reader refused it with an error of this project.
        trace: Where a foreign exception came from.
    """

    number: int
    package: str
    level: str
    mutation: str
    reader: str = ""
    failure: str = ""
    message: str = ""
    refused: bool = False
    trace: str = ""


Level = Callable[[Path, random.Random], str]


def _bytes_of_model(package: Path, chance: random.Random) -> str:
    file = model_file(package)
    changed, done = mutate_bytes(file.read_bytes(), chance)
    file.write_bytes(changed)
    return done


def _messages(package: Path, chance: random.Random) -> str:
    file = model_file(package)
    specification = ct.proto.Model_pb2.Model()
    specification.ParseFromString(file.read_bytes())
    done = [mutate_message(specification, chance) for _ in range(chance.choice([1, 1, 1, 2, 4]))]
    file.write_bytes(specification.SerializeToString())
    return "; ".join(done)


LEVELS: dict[str, tuple[float, Level]] = {
    "messages": (0.5, _messages),
    "model bytes": (0.15, _bytes_of_model),
    "weight bytes": (0.12, mutate_weights),
    "manifest": (0.1, mutate_manifest),
    "files": (0.11, mutate_files),
}
"""How often each level is mutated; the path that a caller gives, in what is left."""


def mutate(packages: Mapping[str, Path], seed: int, number: int, folder: Path) -> tuple[str | Path, Outcome]:
    """Make a mutation: the path to give to readers, and what was done."""
    chance = random.Random(f"{seed} {number}")
    kind = chance.choice(sorted(packages))
    package = Path(shutil.copytree(packages[kind], folder / packages[kind].name))
    level = chance.choices([*LEVELS, "path"], [*(share for share, _ in LEVELS.values()), 0.02])[0]
    if level == "path":
        path, done = odd_path(package, chance)
        return path, Outcome(number, kind, level, done)
    return package, Outcome(number, kind, level, LEVELS[level][1](package, chance))


def _made(packages: Mapping[str, Path], seed: int, number: int, folder: Path) -> tuple[str | Path, Outcome]:
    """A mutation; a fault of the fuzzer is no crash of a reader."""
    try:
        return mutate(packages, seed, number, folder)
    except Exception as error:
        return folder, Outcome(number, "", "", "", failure="fuzzer", message=repr(error))


def read(readers: Mapping[str, Reader], path: str | Path, made: Outcome) -> Outcome:
    """Give a package to each reader; the first thing wrong is the outcome."""
    refused = False
    for position, (name, reader) in enumerate(readers.items()):
        error = _error_of(reader, path)
        if error is None:
            continue
        message = str(error)
        if not isinstance(error, CompressionError):
            failure = type(error).__name__
        elif _NO_ANSWER.search(message) or not message.isprintable():
            failure = "message"
        else:
            refused = refused or position == 0
            continue
        trace = "".join(traceback.format_exception(error))[-3000:]
        return _replaced(made, reader=name, failure=failure, message=message, trace=trace)
    return _replaced(made, refused=refused)


def _error_of(reader: Reader, path: str | Path) -> BaseException | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            reader(path)
        except BaseException as error:
            return error
    return None


def _replaced(outcome: Outcome, **changes: Any) -> Outcome:
    return Outcome(**{**vars(outcome), **changes})


def run(
    packages: Mapping[str, Path],
    readers: Mapping[str, Reader],
    mutations: int,
    seed: int,
    *,
    first: int = 0,
    patience: float = PATIENCE,
) -> Iterator[Outcome]:
    """Make and read mutations, one after another.

    Args:
        packages: Packages to mutate, by kind; they are copied first.
        readers: What reads each of them, by name.
        mutations: The number after the last.
        seed: Of all of them.
        first: The number of the first.
        patience: Seconds until a reader counts as hanging.
    """
    number = first
    while number < mutations:
        with _Worker(packages, readers, seed, range(number, mutations)) as worker:
            for outcome in worker.outcomes(patience):
                yield outcome
                number = outcome.number + 1


class _Worker:
    """A forked process that reads mutations until one kills it or makes it hang."""

    def __init__(
        self, packages: Mapping[str, Path], readers: Mapping[str, Reader], seed: int, numbers: range
    ) -> None:
        context = multiprocessing.get_context("fork")
        self.numbers = numbers
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz"))
        self.receiver, sender = context.Pipe(duplex=False)
        self.process = context.Process(
            target=_work, args=(sender, packages, readers, seed, numbers, self.folder), daemon=True
        )
        self.process.start()
        sender.close()

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()
        self.receiver.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def outcomes(self, patience: float) -> Iterator[Outcome]:
        for number in self.numbers:
            made: Outcome | None = None
            while True:
                if not self.receiver.poll(patience):
                    yield _replaced(made or Outcome(number, "", "", ""), failure="hang")
                    return
                try:
                    message: Outcome = self.receiver.recv()
                except EOFError:
                    self.process.join()
                    text = f"exit code {self.process.exitcode}"
                    yield _replaced(made or Outcome(number, "", "", ""), failure="crash", message=text)
                    return
                if made is not None:
                    yield message
                    break
                made = message


def _work(
    sender: Connection,
    packages: Mapping[str, Path],
    readers: Mapping[str, Reader],
    seed: int,
    numbers: range,
    folder: Path,
) -> None:
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    for number in numbers:
        place = Path(tempfile.mkdtemp(dir=folder))
        path, made = _made(packages, seed, number, place)
        sender.send(made)
        sender.send(made if made.failure else read(readers, path, made))
        shutil.rmtree(place, ignore_errors=True)
