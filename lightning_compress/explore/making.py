"""Candidates: made, measured, and kept, so that a search that goes on makes none of them twice."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_compress.errors import CompressionError, ConfigurationError
from lightning_compress.explore.compressing import Compressed, Compressing
from lightning_compress.explore.forms import Form
from lightning_compress.explore.limits import Limits
from lightning_compress.explore.parts import Part
from lightning_compress.explore.record import Candidate, read_record, write_record
from lightning_compress.explore.subject import Subject
from lightning_compress.explore.uncertainty import by_groups, error_of_groups
from lightning_compress.package.rendering import in_megabytes
from lightning_compress.package.sizes import package_bytes
from lightning_compress.tasks.measuring import measure

REFERENCE = "float16"
"""The name of the package that nothing is compressed in, and of its rung."""

FOLDER = "candidates"

FIT = "fit"
"""The folder of a candidate's fit, beside its package."""

RECORD = "candidate.json"
"""The file in the folder of a candidate with what was measured of it."""

_REQUEST = "request.json"
_KEY = "made_of"


@dataclass(frozen=True)
class Request:
    """A candidate before it is made.

    Attributes:
        name: Of the candidate.
        rung: What asks for it; without a share, the way in which tensors are brought into forms.
        forms: By name of the tensor.
        expected: The sum of their scores.
        share: Of the full length of the fit that trains the float weights in these forms; None for no fit.
    """

    name: str
    rung: str
    forms: Mapping[str, str]
    expected: float | None
    share: float | None = None

    @property
    def how(self) -> str:
        """The way in which it is made, so that what was made in another is not taken for the same."""
        return self.rung if self.share is None else f"trained for {self.share:g}"


class Candidates:
    """Makes packages of the subject and measures them on the data of the search.

    Args:
        subject: What is searched.
        folder: Of the search.
        part: Of the validation data that the search looks at.
        tell: Is told of each candidate.
        compressing: How a rung without training brings tensors into forms, by the name of the rung.
        elsewhere: Makes candidates of some names in other processes, where requests lie in their folders, and returns
            what went wrong by name; None where this process makes them itself, one after the other.
        in_groups: Whether drops get a standard error, from groups of the data.

    Attributes:
        found: Every candidate of this search, in the order in which it was asked for.
        limits: Tells what satisfies; None until float was measured.
    """

    def __init__(
        self,
        subject: Subject,
        folder: Path,
        part: Part,
        tell: Callable[[str], None],
        compressing: Callable[[str], Compressing],
        elsewhere: Callable[[Sequence[str]], Mapping[str, str]] | None = None,
        *,
        in_groups: bool = False,
    ) -> None:
        self.found: list[Candidate] = []
        self.limits: Limits | None = None
        self._subject = subject
        self._folder = folder
        self._part = part
        self._tell = tell
        self._compressing = compressing
        self._elsewhere = elsewhere
        self._in_groups = in_groups
        self._new: set[str] = set()

    @property
    def is_elsewhere(self) -> bool:
        """Whether other processes make candidates, so that several at once take no longer than one."""
        return self._elsewhere is not None

    def reference(self) -> Candidate:
        """The float16 package, against which all others are measured."""
        request = Request(REFERENCE, REFERENCE, {}, 0.0)
        return self._counted(request, self._kept(request) or self._made(request))

    def make(self, request: Request, beside: Iterable[Request] = ()) -> Candidate:
        """Make and measure a candidate, unless the folder holds it.

        Args:
            request: What is asked for.
            beside: What will perhaps be asked for next: other processes make it at the same time.

        Raises:
            ConfigurationError: Another process did not come to its end with it.
        """
        kept = self._kept(request)
        if kept is None and self._elsewhere is not None:
            kept = self._launched(self._elsewhere, request, beside)
        return self._counted(request, kept or self._made(request))

    def make_requested(self, name: str) -> Candidate:
        """Make what another process has asked for, unless the folder holds it.

        Args:
            name: Of the candidate, in whose folder the request lies.

        Raises:
            CompressionError: There is no such request.
        """
        request = read_record(Request, self._of(name) / _REQUEST)
        return self._kept(request) or self._made(request)

    def path(self, candidate: Candidate) -> Path:
        """Of its package."""
        assert candidate.package is not None
        return self._folder / candidate.package

    def _launched(
        self,
        elsewhere: Callable[[Sequence[str]], Mapping[str, str]],
        request: Request,
        beside: Iterable[Request],
    ) -> Candidate:
        asked = {found.name: found for found in [request, *beside] if self._kept(found) is None}
        for name, found in asked.items():
            self._of(name).mkdir(parents=True, exist_ok=True)
            write_record(found, self._of(name) / _REQUEST)
        errors = elsewhere(list(asked))
        self._new.update(asked)
        made = self._kept(request)
        if made is None:
            raise ConfigurationError(
                f"{request.name} did not end well: {errors.get(request.name, 'it ended without a word')}. What it has "
                f"said is in its folder under {str(self._folder / FOLDER)!r}; all others are kept"
            )
        return made

    def _made(self, request: Request) -> Candidate:
        began = time.monotonic()
        folder = self._of(request.name)
        folder.mkdir(parents=True, exist_ok=True)
        # What lies there is not what was asked for, or not whole.
        (folder / _KEY).unlink(missing_ok=True)
        path = self._package(request, folder)
        value, groups = self._measured(path, folder)
        weights = sum(file.stat().st_size for file in path.rglob("weights/*") if file.is_file())
        candidate = Candidate(
            name=request.name,
            rung=request.rung,
            forms=dict(request.forms),
            package=Path(os.path.relpath(path, self._folder)).as_posix(),
            package_bytes=package_bytes(path),
            weight_bytes=weights,
            value=value,
            drop=0.0,
            satisfies=False,
            expected=request.expected,
            seconds=round(time.monotonic() - began, 2),
            groups=groups,
        )
        write_record(candidate, folder / RECORD)
        # Last: what this says is there is whole, whenever the process is killed.
        (folder / _KEY).write_text(self._key(request), encoding="utf-8")
        self._new.add(request.name)
        return candidate

    def _measured(self, package: Path, folder: Path) -> tuple[float, list[float]]:
        """The metric of a package, and that on groups of the data where these are asked for."""
        placed, metric = functools.partial(self._subject.placed, package), self._subject.metric
        if self._in_groups:
            return by_groups(placed, self._part, metric, folder)
        return measure(placed()[0], self._part.as_data(), metric, folder, shows_progress=False), []

    def _package(self, request: Request, folder: Path) -> Path:
        path = folder / f"{request.name}.mlpackage"
        if request.share is None:
            compressed = (
                self._compressing(request.rung)(self._subject.network(), parsed(request.forms))
                if request.forms
                else Compressed(self._subject.network())
            )
            return self._subject.export(compressed, path, verifies=False).path
        fitted = self._subject.fit(request.name, parsed(request.forms), request.share, folder / FIT)
        # A package of its own beside what the fit needs to go on.
        if path.exists():
            shutil.rmtree(path)
        shutil.copytree(fitted, path)
        return path

    def _counted(self, request: Request, candidate: Candidate) -> Candidate:
        """A candidate of this search, judged by its limits."""
        candidate = self._judged(dataclasses.replace(candidate, rung=request.rung))
        if candidate.name in self._new:
            self._new.discard(candidate.name)
            error = candidate.drop_error
            drop = "" if error is None else f", a drop of {candidate.drop:.4f} ± {error:.4f}"
            self._tell(
                f"  {candidate.name}: {in_megabytes(candidate.package_bytes)}, {self._subject.metric} "
                f"{candidate.value:.4f}{drop}"
            )
        self.found = [other for other in self.found if other.name != candidate.name] + [candidate]
        return candidate

    def _judged(self, candidate: Candidate) -> Candidate:
        limits = self.limits
        if limits is None:
            return candidate
        error = self._error(candidate) if self._in_groups and candidate.name != REFERENCE else None
        return dataclasses.replace(
            candidate,
            drop=limits.drop(candidate.value),
            drop_error=error,
            satisfies=limits.allow(candidate.value, candidate.package_bytes, error),
        )

    def _error(self, candidate: Candidate) -> float | None:
        """The standard error of the drop; the float16 package has seen the same groups."""
        pairs = zip(candidate.groups, self.found[0].groups, strict=True)
        error = error_of_groups([own - other for own, other in pairs])
        return None if math.isnan(error) else error

    def _kept(self, request: Request) -> Candidate | None:
        folder = self._of(request.name)
        try:
            if (folder / _KEY).read_text(encoding="utf-8") != self._key(request):
                return None
            candidate = read_record(Candidate, folder / RECORD)
        except (OSError, CompressionError):
            return None
        if self._in_groups and not candidate.groups:
            return None
        is_there = candidate.package is not None and package_bytes(self._folder / candidate.package)
        return candidate if is_there == candidate.package_bytes else None

    def _of(self, name: str) -> Path:
        return self._folder / FOLDER / name

    def _key(self, request: Request) -> str:
        content = json.dumps(
            [self._subject.digest, self._part.samples, sorted(request.forms.items()), request.how]
        )
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
