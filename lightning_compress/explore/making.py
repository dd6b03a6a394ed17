"""Candidates: made, measured, and kept, so that a search that goes on makes none of them twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from lightning_compress.errors import CompressionError, ConfigurationError
from lightning_compress.explore.compressing import Compressed, Compressing
from lightning_compress.explore.forms import Form
from lightning_compress.explore.limits import Limits
from lightning_compress.explore.parts import Part
from lightning_compress.explore.record import Candidate, read_record, write_record
from lightning_compress.explore.subject import Subject
from lightning_compress.package.rendering import in_megabytes
from lightning_compress.package.sizes import package_bytes
from lightning_compress.tasks.measuring import measure

REFERENCE = "float16"
"""The name of the package that nothing is compressed in, and of its rung."""

FOLDER = "candidates"

FIT = "fit"
"""The folder of a candidate's fit, beside its package."""

_RECORD = "candidate.json"
_KEY = "made_of"


class Candidates:
    """Makes packages of the subject and measures them on the data of the search.

    Args:
        subject: What is searched.
        folder: Of the search.
        part: Of the validation data that the search looks at.
        tell: Is told of each candidate.

    Attributes:
        found: Every candidate of this search, in the order in which it was asked for.
        limits: Tells what satisfies; None until float was measured.
    """

    def __init__(self, subject: Subject, folder: Path, part: Part, tell: Callable[[str], None]) -> None:
        self.found: list[Candidate] = []
        self.limits: Limits | None = None
        self._subject = subject
        self._folder = folder
        self._part = part
        self._tell = tell

    def reference(self) -> Candidate:
        """The float16 package, against which all others are measured."""

        def make(path: Path) -> Path:
            return self._subject.export(Compressed(self._subject.network()), path, verifies=False).path

        return self._candidate(REFERENCE, REFERENCE, {}, 0.0, make, REFERENCE)

    def after_training(
        self,
        name: str,
        rung: str,
        forms: Mapping[str, str],
        expected: float | None,
        compress: Compressing,
        how: str,
    ) -> Candidate:
        """A package of the float weights.

        Args:
            name: Of the candidate.
            rung: What asks for it.
            forms: By name of the tensor.
            expected: The sum of their scores.
            compress: Brings tensors into forms.
            how: Names `compress`, so that what was made in another way is not taken for the same.
        """

        def make(path: Path) -> Path:
            compressed = compress(self._subject.network(), parsed(forms))
            return self._subject.export(compressed, path, verifies=False).path

        return self._candidate(name, rung, forms, expected, make, how)

    def trained(
        self, name: str, rung: str, forms: Mapping[str, str], expected: float | None, share: float
    ) -> Candidate:
        """A package of weights that were trained in their forms, from the float weights.

        Args:
            name: Of the candidate.
            rung: What asks for it.
            forms: By name of the tensor.
            expected: The sum of the scores after training.
            share: Of the full length of a fit.
        """

        def make(path: Path) -> Path:
            fitted = self._subject.fit(name, parsed(forms), share, path.parent / FIT)
            # A package of its own beside what the fit needs to go on.
            if path.exists():
                shutil.rmtree(path)
            shutil.copytree(fitted, path)
            return path

        return self._candidate(name, rung, forms, expected, make, f"trained for {share:g}")

    def path(self, candidate: Candidate) -> Path:
        """Of its package."""
        assert candidate.package is not None
        return self._folder / candidate.package

    def _candidate(
        self,
        name: str,
        rung: str,
        forms: Mapping[str, str],
        expected: float | None,
        make: Callable[[Path], Path],
        how: str,
    ) -> Candidate:
        folder = self._folder / FOLDER / name
        key = self._key(forms, how)
        candidate = self._kept(folder, key)
        if candidate is None:
            candidate = self._made(name, rung, forms, expected, make, folder)
            (folder / _KEY).write_text(key, encoding="utf-8")
            write_record(candidate, folder / _RECORD)
            self._tell(
                f"  {name}: {in_megabytes(candidate.package_bytes)}, {self._subject.metric} {candidate.value:.4f}"
            )
        candidate = self._judged(dataclasses.replace(candidate, rung=rung))
        self.found = [other for other in self.found if other.name != name] + [candidate]
        return candidate

    def _made(
        self,
        name: str,
        rung: str,
        forms: Mapping[str, str],
        expected: float | None,
        make: Callable[[Path], Path],
        folder: Path,
    ) -> Candidate:
        began = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        path = make(folder / f"{name}.mlpackage")
        module, _ = self._subject.placed(path)
        value = measure(module, self._part.as_data(), self._subject.metric, folder, shows_progress=False)
        weights = sum(file.stat().st_size for file in path.rglob("weights/*") if file.is_file())
        return Candidate(
            name=name,
            rung=rung,
            forms=dict(forms),
            package=Path(os.path.relpath(path, self._folder)).as_posix(),
            package_bytes=package_bytes(path),
            weight_bytes=weights,
            value=value,
            drop=0.0,
            satisfies=False,
            expected=expected,
            seconds=round(time.monotonic() - began, 2),
        )

    def _judged(self, candidate: Candidate) -> Candidate:
        limits = self.limits
        if limits is None:
            return candidate
        return dataclasses.replace(
            candidate,
            drop=limits.drop(candidate.value),
            satisfies=limits.allow(candidate.value, candidate.package_bytes),
        )

    def _kept(self, folder: Path, key: str) -> Candidate | None:
        try:
            if (folder / _KEY).read_text(encoding="utf-8") != key:
                return None
            candidate = read_record(Candidate, folder / _RECORD)
        except (OSError, CompressionError):
            return None
        is_there = candidate.package is not None and package_bytes(self._folder / candidate.package)
        return candidate if is_there == candidate.package_bytes else None

    def _key(self, forms: Mapping[str, str], how: str) -> str:
        content = json.dumps([self._subject.digest, self._part.samples, sorted(forms.items()), how])
        return hashlib.sha256(content.encode()).hexdigest()


def parsed(forms: Mapping[str, str]) -> dict[str, Form]:
    """Forms of their names, by name of the tensor."""
    return {name: Form.parse(form) for name, form in forms.items()}


def require_number(candidate: Candidate, metric: str) -> None:
    """Refuse a metric that is no number.

    Raises:
        ConfigurationError: It is NaN.
    """
    if candidate.value != candidate.value:
        raise ConfigurationError(
            f"{metric} of the float16 package is NaN on the data of the search; with such a metric no package can be "
            "told from another. Check the metric and the validation data"
        )
