"""Which tensor takes which form, so that the outputs are expected to move least within a number of bytes.

A multiple-choice knapsack, solved as an integer program by HiGHS through SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from lightning_compress.errors import ConfigurationError
from lightning_compress.explore.forms import DENSE, Form
from lightning_compress.explore.record import Candidate, Option, TensorRecord
from lightning_compress.explore.sizes import palette_bytes

_GAP = 1e-4
"""Relative distance from the optimum at which the solver may stop; scores are known far less exactly."""

_SECONDS = 20.0


@dataclass(frozen=True)
class Allocation:
    """A form for each tensor.

    Attributes:
        forms: By name of the tensor, dense ones among them.
        bytes: What the tensors take together.
        expected: The sum of the scores of the forms.
    """

    forms: Mapping[str, str]
    bytes: int
    expected: float

    @property
    def compressed(self) -> dict[str, str]:
        """The forms of the tensors that are not dense."""
        return {name: form for name, form in self.forms.items() if form != DENSE}


def allocate(records: Sequence[TensorRecord], most: int) -> Allocation:
    """The forms by which the outputs are expected to move least within a number of bytes.

    Args:
        records: The tensors with their options.
        most: Bytes that all of them may take together.

    Raises:
        ConfigurationError: No forms are so small; the smallest possible is named.

    Example:
        >>> allocate([TensorRecord("w", (8,), (Option("dense", 80, 0.0), Option("int8", 72, 0.1)))], 75).forms
        {'w': 'int8'}
    """
    smallest = smallest_bytes(records)
    if most < smallest:
        raise ConfigurationError(
            f"{most:,} bytes are fewer than the weights can take: the smallest forms that are tried take {smallest:,}"
        )
    choices = [_worthwhile(record) for record in records]
    costs = np.array([cost for options in choices for _, cost in options])
    sizes = np.array([option.bytes for options in choices for option, _ in options], dtype=float)
    # One number for both, so that neither tolerance of the solver drowns the smaller scores.
    scale = max(float(costs.max(initial=0.0)), 1e-30)
    belongs = np.zeros((len(choices), len(costs)))
    start = 0
    for row, options in enumerate(choices):
        belongs[row, start : start + len(options)] = 1
        start += len(options)
    result = milp(
        # Of equals, the smaller.
        costs / scale + 1e-9 * sizes / max(sizes.max(initial=1.0), 1.0),
        integrality=np.ones(len(costs)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(belongs, 1, 1),
            LinearConstraint(sizes[None, :] / 64, -np.inf, most / 64),
        ],
        options={"mip_rel_gap": _GAP, "time_limit": _SECONDS},
    )
    assert result.x is not None, result.message
    chosen = [option for options in choices for option, _ in options]
    return _allocation(
        records, [option for option, share in zip(chosen, result.x, strict=True) if share > 0.5]
    )


def uniform(records: Sequence[TensorRecord], form: str) -> Allocation:
    """One form for all tensors that can have it and that it makes smaller; the others stay dense."""
    return _allocation(records, [_in_form(record, form) for record in records])


BESIDE_VECTORS = "palettize_4bit"
"""The form of tensors that vectors do not fit, and of those so small that a palette of vectors would outweigh it."""


def in_vectors(records: Sequence[TensorRecord], form: str, able: Collection[str]) -> Allocation:
    """Palettes of vectors for tensors that can have them, plain ones of 4 bits for others and where these are smaller.

    Args:
        records: The tensors with their options.
        form: Of the vectors.
        able: Names of the tensors that can have it.
    """
    taken = [_in_form(record, BESIDE_VECTORS) for record in records]
    return _allocation(
        records,
        [
            min(option, option_in(record, form), key=lambda found: found.bytes)
            if record.name in able
            else option
            for record, option in zip(records, taken, strict=True)
        ],
    )


def option_in(record: TensorRecord, form: str) -> Option:
    """A tensor in a form, its bytes counted where the search has not scored it in that."""
    found = record.known(form)
    if found is not None:
        return found
    parsed = Form.parse(form)
    assert parsed == Form(bits=parsed.bits, vector=parsed.vector)
    assert parsed.bits is not None
    return Option(form, palette_bytes(math.prod(record.shape), parsed.bits, parsed.vector))


def with_forms_of(records: Sequence[TensorRecord], candidates: Sequence[Candidate]) -> list[TensorRecord]:
    """The tensors with the forms of candidates among their options, those that the search has not scored too."""
    result = []
    for record in records:
        forms = dict.fromkeys(candidate.forms.get(record.name, DENSE) for candidate in candidates)
        more = [option_in(record, form) for form in forms if record.known(form) is None]
        others = sorted([*record.options[1:], *more], key=lambda option: (-option.bytes, option.form))
        result.append(replace(record, options=(record.options[0], *others)) if more else record)
    return result


def smallest_bytes(records: Sequence[TensorRecord]) -> int:
    """What the tensors take together in their smallest forms."""
    return sum(min(option.bytes for option in record.options) for record in records)


def cost_of(record: TensorRecord, option: Option) -> float:
    """How far the outputs are taken to move.

    As it was measured, where it was. Elsewhere the score, times what the measured forms of the tensor have moved them
    farther than their scores say.
    """
    if option.measured is not None:
        return option.measured
    ratios = [
        found.measured / found.score
        for found in record.options
        if found.measured is not None and found.score and found.measured > 0
    ]
    factor = float(np.exp(np.mean(np.log(ratios)))) if ratios else 1.0
    return (option.score or 0.0) * factor


def _allocation(records: Sequence[TensorRecord], taken: Sequence[Option]) -> Allocation:
    return Allocation(
        {record.name: option.form for record, option in zip(records, taken, strict=True)},
        sum(option.bytes for option in taken),
        sum(cost_of(record, option) for record, option in zip(records, taken, strict=True)),
    )


def _worthwhile(record: TensorRecord) -> list[tuple[Option, float]]:
    """The options that no smaller one beats, each with its cost."""
    kept: list[tuple[Option, float]] = []
    costs = [(option, cost_of(record, option)) for option in record.options]
    for option, cost in sorted(costs, key=lambda entry: (entry[0].bytes, entry[1])):
        if not kept or cost < kept[-1][1]:
            kept.append((option, cost))
    return kept


def _in_form(record: TensorRecord, form: str) -> Option:
    dense = record.options[0]
    found = record.known(form) or dense
    return found if found.bytes < dense.bytes else dense
