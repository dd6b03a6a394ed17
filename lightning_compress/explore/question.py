"""What a search is asked, before float was measured: limits as they were typed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from lightning_compress.counted import counted
from lightning_compress.errors import ConfigurationError, did_you_mean
from lightning_compress.explore.forms import Form, default_forms, default_vectors, needed_by
from lightning_compress.explore.limits import Limits
from lightning_compress.explore.quantities import check_limits, parse_drop, parse_duration, parse_size
from lightning_compress.explore.record import Question
from lightning_compress.explore.rungs import RUNGS
from lightning_compress.methods.mechanism.tensors import find_tensors
from lightning_compress.package.targets import resolve_target


@dataclass(frozen=True)
class Asked:
    """The question and the settings of a search.

    Attributes:
        max_drop: How much worse than float a package may be: 0.01 in the unit of the metric, or "1%" of float's.
        max_size: How large it may be: "4MB", or bytes.
        budget: How long the search may take: "2h", or seconds.
        higher_is_better: Whether a larger metric is a better one.
        target: The deployment target; what it cannot carry is not tried. None for the lowest that carries what is
            chosen.
        leave: Names of tensors, or of modules, that stay dense.
        rungs: Names of what may be tried, in any order.
        forms: What a tensor may become.
        measured: Those of the forms for which the outputs are really computed, with one tensor after the other in them.
        samples: How many samples of the validation data tell how much each weight matters, a tenth of it at most.
        share: Of the validation data that the search looks at; the verdict is given by the rest.
        steps: How often the size is bisected after training.
        fits: How many fits each rung may make.
        short: Share of the full length of a fit that a short one has.
        margin: By how many standard errors the drop must be within its limit on the data of the search, so that it is
            on others too; 0 for as it is measured.
        together: How many candidates other processes are given at once.
    """

    max_drop: str | float | None = None
    max_size: str | int | None = None
    budget: str | float | None = None
    higher_is_better: bool = True
    target: str | None = None
    leave: Sequence[str] = ()
    rungs: Sequence[str] = tuple(RUNGS)
    forms: Sequence[Form] = field(default_factory=lambda: tuple(default_forms()))
    measured: Sequence[Form] = ()
    samples: int = 160
    share: float = 0.5
    steps: int = 6
    fits: int = 3
    short: float = 0.5
    margin: float = 1.0
    together: int = 3

    def __post_init__(self) -> None:
        """Refuse what no search could use.

        Raises:
            ConfigurationError: Naming the value and what is valid.
        """
        check_limits(self.max_drop, self.max_size, self.budget)
        if self.target is not None:
            resolve_target(self.target)
        for rung in self.rungs:
            if rung not in RUNGS:
                raise ConfigurationError(
                    f"explore.rungs holds {rung!r}{did_you_mean(str(rung), list(RUNGS))} Valid are {', '.join(RUNGS)}."
                )
        if not self.rungs:
            raise ConfigurationError(f"explore.rungs is empty; valid are {', '.join(RUNGS)}")
        for key, value in (
            ("samples", self.samples),
            ("steps", self.steps),
            ("fits", self.fits),
            ("together", self.together),
        ):
            if type(value) is not int or value < 1:
                raise ConfigurationError(f"explore.{key}={value!r} is no count from 1")
        for key, part in (("share", self.share), ("short", self.short)):
            if isinstance(part, bool) or not isinstance(part, int | float) or not 0 < part < 1:
                raise ConfigurationError(f"explore.{key}={part!r} is no share between 0 and 1")
        margin = self.margin
        if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 <= margin < math.inf:
            raise ConfigurationError(f"explore.margin={margin!r} is no number of standard errors from 0")

    def max_bytes(self) -> int | None:
        """The limit of the size, None for none."""
        return None if self.max_size is None else parse_size(self.max_size, "explore.max_size")

    def seconds(self) -> float | None:
        """The budget, None for none."""
        return None if self.budget is None else parse_duration(self.budget, "explore.budget")

    def in_groups(self) -> bool:
        """Whether the standard error of a drop matters."""
        return self.max_drop is not None and self.margin > 0

    def ahead(self) -> int:
        """How many steps of a bisection hold as many candidates as are made at once."""
        return (self.together + 1).bit_length() - 1

    def all_forms(self) -> list[Form]:
        """The forms, the dense one among them, each once."""
        return list(dict.fromkeys([Form(), *self.forms]))

    def vector_forms(self) -> list[Form]:
        """The palettes of vectors that a whole network may be trained in, those of fewest bits a weight first."""
        given = default_vectors() if list(self.forms) == default_forms() else self.forms
        plain = [
            (form.bits / form.vector, form)
            for form in given
            if form.bits is not None and form.vector > 1 and form == Form(bits=form.bits, vector=form.vector)
        ]
        return [form for _, form in sorted(plain, key=lambda entry: entry[0])]

    def ordered_rungs(self) -> list[str]:
        """The rungs in the order in which they are tried."""
        return [rung for rung in RUNGS if rung in self.rungs]

    def require_names(self, network: nn.Module) -> None:
        """Refuse names of what is to be left alone that are not there.

        Raises:
            ConfigurationError: With the nearest name.
        """
        modules = [name for name, _ in network.named_modules(remove_duplicate=False) if name]
        tensors = [name for reference in find_tensors(network) for name in reference.names]
        for given in self.leave:
            if given not in modules and given not in tensors:
                raise ConfigurationError(
                    f"explore.leave holds {given!r}, which is no module and no weight of the network"
                    f"{did_you_mean(str(given), [*modules, *tensors])}"
                )

    def require_forms(self, network: nn.Module) -> None:
        """Refuse forms that no tensor of a network can have, or the target cannot carry.

        Raises:
            ConfigurationError: Naming them.
        """
        references = find_tensors(network)
        most = None if self.target is None else resolve_target(self.target).value
        usable = []
        for form in self.forms:
            needs = [needed for ref in references if (needed := needed_by(ref, form)) is not None]
            if any(most is None or resolve_target(None, needed).value <= most for needed in needs):
                usable.append(form)
        if all(form == Form() for form in usable):
            raise ConfigurationError(
                f"none of the {counted(len(self.forms), 'form')} in explore.forms fits a tensor of the network"
                + ("" if self.target is None else f" and explore.target={self.target!r}")
            )

    def question(self, metric: str, float_value: float) -> Question:
        """The question in the units of the metric, once float was measured."""
        drop = None if self.max_drop is None else parse_drop(self.max_drop, float_value, "explore.max_drop")
        return Question(
            metric=metric,
            higher_is_better=self.higher_is_better,
            max_drop=drop,
            max_bytes=self.max_bytes(),
            budget=self.seconds(),
            target=self.target,
            rungs=self.ordered_rungs(),
            left_alone=list(self.leave),
            margin=self.margin,
        )

    def limits(self, metric: str, float_value: float) -> Limits:
        """The limits of the question."""
        return Limits.of(self.question(metric, float_value), float_value)
