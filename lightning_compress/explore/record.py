"""What a search leaves behind, as data: `explore.json`, which the report is drawn from and a later search reads."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lightning_compress.errors import CompressionError
from lightning_compress.package.save import write_whole

Data = TypeVar("Data")


@dataclass(frozen=True)
class Question:
    """What was asked.

    Attributes:
        metric: Name of the metric, as it is logged.
        higher_is_better: Whether a larger metric is a better one.
        max_drop: How much worse than float the package may be, in the unit of the metric; None for no such limit.
        max_bytes: How large the package may be; None for no such limit.
        budget: Seconds that the search may take; None for no such limit.
        target: The deployment target, None for the lowest that carries what is chosen.
        rungs: Names of what may be tried, cheapest first.
        left_alone: Tensors that were to stay dense, by name.
        margin: By how many standard errors the drop must be within its limit, on the data of the search.
    """

    metric: str
    higher_is_better: bool = True
    max_drop: float | None = None
    max_bytes: int | None = None
    budget: float | None = None
    target: str | None = None
    rungs: Sequence[str] = ()
    left_alone: Sequence[str] = ()
    margin: float = 0.0


@dataclass(frozen=True)
class Option:
    """A tensor in one form.

    Attributes:
        form: Name of the form, such as "palettize_4bit", or "dense".
        bytes: What it takes in the package.
        score: How far the outputs are expected to move: the mean square of their change over their variance, summed
            over the outputs; None where nothing is known.
        measured: How far they did move, on a part of the data, with this alone; None where it was not tried.
    """

    form: str
    bytes: int
    score: float | None = None
    measured: float | None = None


@dataclass(frozen=True)
class TensorRecord:
    """What the search knows of a tensor.

    Attributes:
        name: Its dotted name in the network.
        shape: Its shape.
        options: Its forms, the largest first; the first is dense.
        input_score: How far the outputs are expected to move where the inputs of its layer are rounded to int8; None
            where nothing is known.
        reason: Why it stays dense whatever is searched; None where it need not.
    """

    name: str
    shape: Sequence[int]
    options: Sequence[Option]
    input_score: float | None = None
    reason: str | None = None

    def option(self, form: str) -> Option:
        """The tensor in a form that the search has counted."""
        found = self.known(form)
        assert found is not None, form
        return found

    def known(self, form: str) -> Option | None:
        """The tensor in a form; None where the search has not counted that."""
        return next((option for option in self.options if option.form == form), None)


@dataclass(frozen=True)
class Timing:
    """How long a package takes on a device, as Core ML itself measured it.

    Attributes:
        unit: The compute units that it was loaded for, such as "CPU_AND_NE".
        milliseconds: Median of its predictions.
        repetitions: How many predictions.
        placement: How many operations run where: {"NeuralEngine": 60, "CPU": 2}.
        device: The machine, in words, such as "MacBook Pro, M3, macOS 15.1".
    """

    unit: str
    milliseconds: float
    repetitions: int
    placement: Mapping[str, int]
    device: str


@dataclass(frozen=True)
class Candidate:
    """A package that was made and measured on the data of the search.

    Attributes:
        name: Of its folder and package.
        rung: What made it, a name of `Question.rungs`, or "float16".
        forms: The form of each tensor that is not dense, by name of the tensor.
        package: Its path below the folder of the search; None where it was not kept.
        package_bytes: Bytes of all its files.
        weight_bytes: Bytes of its weights.
        value: The metric.
        drop: How much worse the metric is than that of the float16 package; negative where it is better.
        drop_error: The standard error of the drop, both having seen the same samples; None where it was not asked for,
            or the samples are one group.
        satisfies: Whether it keeps the limits that were asked for.
        expected: The sum of the scores of its forms; None where nobody knows.
        seconds: Making and measuring it.
        groups: The metric on each group of the samples alone; empty where it was not asked for.
        timings: What devices measured; empty until a profile is read back.
    """

    name: str
    rung: str
    forms: Mapping[str, str]
    package: str | None
    package_bytes: int
    weight_bytes: int
    value: float
    drop: float
    satisfies: bool
    expected: float | None = None
    seconds: float = 0.0
    drop_error: float | None = None
    groups: Sequence[float] = ()
    timings: Sequence[Timing] = ()


@dataclass(frozen=True)
class RungRecord:
    """How a rung ended.

    Attributes:
        name: One of `Question.rungs`.
        state: "satisfied", "not satisfied", "not needed", "not affordable" or "not begun".
        seconds: How long it took, or, where it was not affordable, would have taken.
        reason: In words, for the report.
    """

    name: str
    state: str
    seconds: float
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """The chosen package on data that the search has never seen.

    Attributes:
        samples: How many samples of validation data.
        float_value: The metric of the float16 package.
        float_error: Its standard error.
        value: The metric of the chosen package.
        error: Its standard error.
        drop: How much worse the chosen one is; negative where it is better.
        drop_error: The standard error of the drop, both having seen the same samples.
        holds: Whether the drop is within the limit, or exceeds it by no more than its standard error.
    """

    samples: int
    float_value: float
    float_error: float
    value: float
    error: float
    drop: float
    drop_error: float
    holds: bool


@dataclass(frozen=True)
class Exploration:
    """All that a search found.

    Attributes:
        question: What was asked.
        digest: Of the float weights.
        tensors: Every tensor of two or more dimensions.
        candidates: In the order in which they were measured; the first is the float16 package.
        rungs: In their order.
        chosen: Name of the package that answers the question, None where none does.
        nearest: Name of the package that comes nearest where none answers it.
        verdict: On the other part of the data; None before.
        seconds: Time spent, by what on.
        pictures: Files of sample outputs below the folder of the search, by name of the candidate.
        delivered: Path of the chosen package as it is handed over, below the folder of the search; None where that is
            the candidate's.
    """

    question: Question
    digest: str
    tensors: Sequence[TensorRecord] = ()
    candidates: Sequence[Candidate] = ()
    rungs: Sequence[RungRecord] = ()
    chosen: str | None = None
    nearest: str | None = None
    verdict: Verdict | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    pictures: Mapping[str, str] = field(default_factory=dict)
    delivered: str | None = None

    @property
    def reference(self) -> Candidate:
        """The float16 package."""
        return self.candidates[0]

    def candidate(self, name: str) -> Candidate:
        """A candidate by its name."""
        return next(candidate for candidate in self.candidates if candidate.name == name)

    def path(self, candidate: Candidate) -> str | None:
        """Where the package of a candidate lies, below the folder of the search; None where it was not kept."""
        if candidate.name == self.chosen and self.delivered is not None:
            return self.delivered
        return candidate.package


def write_record(record: Any, path: Path) -> None:
    """Write one of these dataclasses as JSON, whole or not at all."""
    write_whole(path, (json.dumps(dataclasses.asdict(record), indent=2) + "\n").encode())


def read_record(kind: type[Data], path: Path) -> Data:
    """Read what `write_record` wrote.

    Raises:
        CompressionError: The file cannot be read, or holds something else.
    """
    try:
        return typing.cast(Data, _from_plain(kind, json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CompressionError(f"{path} holds no {kind.__name__}: {type(error).__name__}: {error}") from error


def _from_plain(kind: Any, value: Any) -> Any:
    """A value of JSON as the type that an annotation names."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        (kind,) = (argument for argument in typing.get_args(kind) if argument is not type(None))
        return _from_plain(kind, value)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{key: _from_plain(hints[key], entry) for key, entry in value.items()})  # type: ignore[operator]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        _, of = typing.get_args(kind)
        return {key: _from_plain(of, entry) for key, entry in value.items()}
    if isinstance(origin, type) and issubclass(origin, Sequence):
        (of,) = typing.get_args(kind)
        return tuple(_from_plain(of, entry) for entry in value)
    return value
