"""The sensitivity of a network on the disk: written form by form, taken up again, and reused by a later search."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_compress.errors import CompressionError, ConfigurationError
from lightning_compress.explore.forms import Form
from lightning_compress.explore.record import Option, TensorRecord, read_record, write_record
from lightning_compress.explore.sensitivity import SensitivityTable

FILE = "sensitivity.json"

MEASURED = "sensitivity"
"""The folder beside it with such a file for each form that another process has measured."""


@dataclass(frozen=True)
class _Content:
    """What the file holds.

    Attributes:
        digest: Of the weights and of all that a score depends on.
        options: By name of the form, then of the tensor.
        inputs: By name of a tensor, what rounding the inputs of its layer costs; None where that is not known yet.
        seconds: How long it took.
    """

    digest: str
    options: dict[str, dict[str, Option]] = field(default_factory=dict)
    inputs: dict[str, float] | None = None
    seconds: float = 0.0


class SensitivityFile:
    """The table of a search, of which each form is computed once.

    Args:
        path: Of the file.
        digest: Of the weights and of all that a score depends on.
        given: The file of an earlier search to begin with; None for none.

    Raises:
        ConfigurationError: The earlier file cannot be read, or is of other weights.
    """

    def __init__(self, path: Path, digest: str, given: Path | None = None) -> None:
        self._path = path
        self._content = self._read(digest, given)

    @property
    def seconds(self) -> float:
        """How long the table took, over all runs."""
        return self._content.seconds

    def records(
        self,
        table: SensitivityTable,
        forms: Sequence[Form],
        measured: Sequence[Form],
        tell: Callable[[str], None],
        elsewhere: Callable[[Sequence[str]], Mapping[str, str]] | None = None,
    ) -> list[TensorRecord]:
        """The table; forms that the file lacks are computed.

        Args:
            table: Computes them.
            forms: The forms.
            measured: For which of them the outputs are really computed.
            tell: Is told of the forms that are computed.
            elsewhere: Lets other processes measure forms of these names, each by `measure`, and returns what went
                wrong; None where this process computes all.

        Raises:
            ConfigurationError: Another process did not come to its end with a form.
        """
        began = time.monotonic()
        before = self._content.seconds
        missing = [form for form in forms if form.name not in self._content.options]
        if elsewhere is not None:
            # Nothing moves with the dense form, which every list of forms holds.
            sent = [form for form in missing if form in measured and form != Form()]
            self._take_over(sent, elsewhere)
            missing = [form for form in missing if form not in sent]
        for group in table.groups(missing):
            tell(", ".join(form.name for form in group))
            options = {**self._content.options, **table.options(group, measures=measured)}
            self._keep(options=options, seconds=round(before + time.monotonic() - began, 2))
        if self._content.inputs is None:
            tell("inputs of layers")
            self._keep(inputs=table.inputs(), seconds=round(before + time.monotonic() - began, 2))
        inputs = self._content.inputs or {}
        records = table.records({form.name: self._content.options[form.name] for form in forms})
        return [dataclasses.replace(record, input_score=inputs.get(record.name)) for record in records]

    def measure(self, form: Form, table: SensitivityTable) -> None:
        """Measure a form into a file of its own, from which the process that has asked for it takes it over."""
        path = self._of(form)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(_Content(self._content.digest, table.options([form], measures=[form])), path)

    def _take_over(
        self, forms: Sequence[Form], elsewhere: Callable[[Sequence[str]], Mapping[str, str]]
    ) -> None:
        began = time.monotonic()
        before = self._content.seconds
        left = [form.name for form in forms if self._measured(form) is None]
        errors = elsewhere(left) if left else {}
        for form in forms:
            found = self._measured(form)
            if found is None:
                raise ConfigurationError(
                    f"{form.name} was not measured: {errors.get(form.name, 'its process ended without a word')}. What "
                    f"it has said is in {str(self._of(form).parent)!r}; all others are kept"
                )
            self._keep(
                options={**self._content.options, form.name: found},
                seconds=round(before + time.monotonic() - began, 2),
            )

    def _measured(self, form: Form) -> dict[str, Option] | None:
        """What another process has measured of these weights, if it has."""
        try:
            content = _content(self._of(form))
        except ConfigurationError:
            return None
        return content.options.get(form.name) if content.digest == self._content.digest else None

    def _of(self, form: Form) -> Path:
        return self._path.parent / MEASURED / form.name / FILE

    def _keep(self, **changes: Any) -> None:
        self._content = dataclasses.replace(self._content, **changes)
        write_record(self._content, self._path)

    def _read(self, digest: str, given: Path | None) -> _Content:
        if given is not None and not self._path.exists():
            content = _content(given)
            if content.digest != digest:
                raise ConfigurationError(
                    f"explore.sensitivity={str(given)!r} is of other weights or other settings than this search; "
                    "leave it out, and the table is computed anew"
                )
            return dataclasses.replace(content, seconds=0.0)
        try:
            content = _content(self._path)
        except ConfigurationError:
            return _Content(digest)
        return content if content.digest == digest else _Content(digest)


def _content(path: Path) -> _Content:
    try:
        return read_record(_Content, path)
    except (CompressionError, json.JSONDecodeError) as error:
        raise ConfigurationError(f"{str(path)!r} holds no sensitivity of a search: {error}") from error
