"""The search: float, sensitivity, the rungs, and the verdict, each kept as soon as it is known."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from lightning_compress.errors import ConfigurationError
from lightning_compress.explore.allocation import in_vectors, smallest_bytes, with_forms_of
from lightning_compress.explore.compressing import (
    Compressed,
    Compressing,
    compressed_after_training,
    compressed_by_data,
    compressed_with_feedback,
)
from lightning_compress.explore.elsewhere import Elsewhere
from lightning_compress.explore.forms import Form
from lightning_compress.explore.importance_file import IMPORTANCE, ImportanceFile
from lightning_compress.explore.limits import Limits
from lightning_compress.explore.making import REFERENCE, Candidates, parsed, require_number
from lightning_compress.explore.parts import divided
from lightning_compress.explore.planning import Plan, in_minutes, plan_of
from lightning_compress.explore.projection import OutputProjection, usable
from lightning_compress.explore.question import Asked
from lightning_compress.explore.record import (
    Candidate,
    Exploration,
    RungRecord,
    TensorRecord,
    Verdict,
    read_record,
    write_record,
)
from lightning_compress.explore.rungs import RUNGS, TRAINED, VECTOR_RUNG, Standing, climb
from lightning_compress.explore.sensitivity import Searched, SensitivityTable, searched_tensors
from lightning_compress.explore.sensitivity_file import FILE, SensitivityFile
from lightning_compress.explore.subject import Subject
from lightning_compress.explore.verdict import verdict_of
from lightning_compress.methods.importance import squared_gradients
from lightning_compress.methods.mechanism.agreement import Call
from lightning_compress.nice_to_have import nice_to_have

RECORD = "explore.json"

_SHARE = 10
"""Of so many samples of the validation data one tells how much weights matter: the whole table of scores shall take no
more than three evaluations of all data, and each gradient, of single samples, is computed twice."""


class OutOfTimeError(Exception):
    """The budget does not hold what comes next."""


class Search:
    """Looks for the smallest package that keeps the limits, or the best within a size.

    Everything that was measured is kept in the folder, so that a search that was stopped at any time goes on where it
    stood and ends with the same answer.

    Args:
        subject: What is searched.
        asked: The question.
        folder: Where packages and records go.
        tell: Is told what happens, line by line.
        sensitivity: The sensitivity file of an earlier search of the same weights; None for none.
        elsewhere: Other processes that do parts of it; None for this process alone.

    Raises:
        ConfigurationError: The validation data cannot be divided, or names and forms do not fit the network.
    """

    def __init__(
        self,
        subject: Subject,
        asked: Asked,
        folder: Path,
        tell: Callable[[str], None] = print,
        *,
        sensitivity: Path | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        network = subject.network()
        asked.require_names(network)
        asked.require_forms(network)
        self._subject = subject
        self._asked = asked
        self._folder = folder
        self._tell = tell
        self._part, self.judged = divided(subject.data, asked.share)
        self._elsewhere = elsewhere
        self.candidates = Candidates(
            subject,
            folder,
            self._part,
            tell,
            self._compressing,
            None if elsewhere is None else self._make_elsewhere,
            in_groups=asked.in_groups(),
        )
        self._file = SensitivityFile(folder / FILE, self._digest(), sensitivity)
        self._records: list[TensorRecord] = []
        self._rungs: dict[str, RungRecord] = {}
        self._spent: dict[str, float] = {}
        self._pictures: dict[str, str] = {}

    def plan(self) -> Plan:
        """What the search will do and about how long that takes, from a timing of one package.

        Raises:
            ConfigurationError: The metric is NaN, or the budget does not hold one evaluation.
        """
        reference = self.candidates.reference()
        require_number(reference, self._subject.metric)
        self.candidates.limits = self._asked.limits(self._subject.metric, reference.value)
        reference = self.candidates.reference()
        plan = plan_of(self._asked, self._subject, reference, self._part.samples, self.judged.samples)
        budget = self._asked.seconds()
        if budget is not None and budget < reference.seconds:
            raise ConfigurationError(
                f"explore.budget={self._asked.budget!r} does not hold one evaluation: making and measuring the "
                f"float16 package took {reference.seconds:.0f} s"
            )
        return plan

    def run(self) -> Exploration:
        """Search.

        Returns:
            All that was found, which stands in the folder as well.

        Raises:
            ConfigurationError: A limit that nothing can keep, as far as that is known before time is spent.
        """
        plan = self.plan()
        self._records = self.sensitivity(self._asked.all_forms())
        self._require_size()
        rungs = self._asked.ordered_rungs()
        self._rungs = {rung: RungRecord(rung, "not begun", 0.0) for rung in rungs}
        self._write()
        for rung in rungs:
            self._rungs[rung] = self._climbed(rung, plan)
            self._write()
        return self._ended()

    def sensitivity(self, forms: Sequence[Form]) -> list[TensorRecord]:
        """Every tensor with its forms; what the folder holds of them is not computed again."""
        elsewhere = None if self._elsewhere is None else self._measure_elsewhere
        return self._file.records(self.table, forms, self._asked.measured, self._tell_form, elsewhere)

    # What the network is.

    @functools.cached_property
    def _network(self) -> nn.Module:
        return self._subject.network().requires_grad_(True)

    @functools.cached_property
    def _tensors(self) -> list[Searched]:
        return searched_tensors(self._network, self._asked.leave)

    @functools.cached_property
    def _projection(self) -> OutputProjection:
        part = self._part.singly(self._examples)
        calls = self._subject.calls(part.as_data(), part.samples)
        return OutputProjection(self._network, calls, self._subject.comparable)

    @property
    def _examples(self) -> int:
        """How many single samples tell how much weights matter, at most."""
        every = self._part.samples + self.judged.samples
        return min(self._asked.samples, max(1, every // _SHARE))

    @functools.cached_property
    def _calls(self) -> Sequence[Call]:
        """Samples in batches, for what looks at the inputs of layers."""
        batches = self._part.batches_of(self._asked.samples)
        return usable(self._subject.calls(self._part.as_data(), batches))

    @functools.cached_property
    def _importance(self) -> Mapping[str, Tensor]:
        kept = ImportanceFile(self._folder / IMPORTANCE, self._digest())
        found = kept.read()
        if found is None:
            references = [searched.reference for searched in self._tensors]
            self._projection.begin(0)
            found = squared_gradients(references, self._projection, self._projection.calls)
            if self.candidates.is_elsewhere:
                # All processes shall make the same of the same, whatever each would add up in which order.
                kept.write(found)
        return found

    @functools.cached_property
    def table(self) -> SensitivityTable:
        """Computes the options of a form."""
        return SensitivityTable(
            self._network,
            self._tensors,
            lambda: self._projection,
            target=self._asked.target,
            compress=self.compressed_by_data,
        )

    @functools.cached_property
    def _vectors(self) -> Mapping[str, Sequence[str]]:
        """Names of the tensors that can have each palette of vectors, that of fewest bits a weight first."""
        forms = self._asked.vector_forms() if VECTOR_RUNG in self._asked.rungs else []
        return {form.name: self.table.able(form) for form in forms}

    def compressed_by_data(self, network: nn.Module, forms: Mapping[str, Form]) -> Compressed:
        """A network with tensors in forms, by what the validation data of the search tell."""
        return compressed_by_data(network, forms, self._importance)

    def compressed_with_feedback(self, network: nn.Module, forms: Mapping[str, Form]) -> Compressed:
        """The same, with the errors of columns made good for in those after them."""
        return compressed_with_feedback(network, forms, self._importance, self._calls)

    def compressed(self, candidate: Candidate) -> Compressed | None:
        """The network in the forms of a candidate, made again; None where it was trained."""
        if candidate.rung in TRAINED:
            return None
        return self._compressing(candidate.rung)(self._subject.network(), parsed(candidate.forms))

    def _compressing(self, rung: str) -> Compressing:
        """How a rung without training brings tensors into forms."""
        if rung == "kmeans":
            return compressed_after_training
        return self.compressed_with_feedback if rung == "feedback" else self.compressed_by_data

    def measure_form(self, form: Form) -> None:
        """Measure what a form costs each tensor, for the process that has asked for it."""
        self._file.measure(form, self.table)

    def _make_elsewhere(self, names: Sequence[str]) -> Mapping[str, str]:
        # By the importance that this process has written down.
        assert self._elsewhere is not None
        assert self._importance
        return self._elsewhere.candidates(names)

    def _measure_elsewhere(self, names: Sequence[str]) -> Mapping[str, str]:
        assert self._elsewhere is not None
        assert self._importance
        return self._elsewhere.forms(names)

    # Limits.

    @property
    def limits(self) -> Limits:
        """What is asked for, in the units of the metric; known once float was measured."""
        assert self.candidates.limits is not None
        return self.candidates.limits

    @property
    def _overhead(self) -> int:
        """Bytes of a package beside its tensors."""
        dense = sum(record.options[0].bytes for record in self._records)
        return self.candidates.found[0].package_bytes - dense

    def _require_size(self) -> None:
        most = self.limits.max_bytes
        if most is None:
            return
        sizes = [in_vectors(self._records, form, able).bytes for form, able in self._vectors.items()]
        smallest = min([smallest_bytes(self._records), *sizes]) + self._overhead
        if most < smallest:
            raise ConfigurationError(
                f"explore.max_size={self._asked.max_size!r} is less than the smallest package that is tried: "
                f"{smallest:,} bytes, every tensor in its smallest form. Ask for more, or let explore.forms hold "
                "smaller forms"
            )

    # Rungs.

    def _climbed(self, rung: str, plan: Plan) -> RungRecord:
        """Try one rung, and say how it ended."""
        cost = plan.cost(rung)
        if self._is_answered():
            return RungRecord(rung, "not needed", 0.0, "an earlier rung keeps both limits")
        if cost.seconds is None:
            return RungRecord(rung, "not affordable", 0.0, "nothing can be trained: no fit is configured")
        left = self._seconds_left()
        # One package of the rung has to fit at least.
        least = cost.seconds / max(cost.packages, 1)
        if left is not None and left < least:
            return RungRecord(
                rung,
                "not affordable",
                cost.seconds,
                f"{in_minutes(cost.seconds)}, and {in_minutes(left)} are left",
            )
        self._tell(f"{rung}: {RUNGS[rung]}")
        reason = ""
        try:
            self._try(rung, least)
        except OutOfTimeError:
            reason = "ended early: the budget is spent"
        made = [found for found in self.candidates.found if found.rung == rung]
        spent = sum(found.seconds for found in made)
        is_satisfied = any(found.satisfies for found in made)
        if not made and not reason:
            reason = "nothing smaller is left to try"
        return RungRecord(rung, "satisfied" if is_satisfied else "not satisfied", round(spent, 2), reason)

    def _try(self, rung: str, least: float) -> None:
        def proceed() -> None:
            left = self._seconds_left()
            if left is not None and left < least:
                raise OutOfTimeError

        standing = Standing(
            candidates=self.candidates,
            records=self._records,
            limits=self.limits,
            overhead=self._overhead,
            steps=self._asked.steps,
            fits=self._asked.fits,
            short=self._asked.short,
            vectors=self._vectors,
            ahead=self._asked.ahead(),
            proceed=proceed,
        )
        climb(standing, rung)

    def _is_answered(self) -> bool:
        """Whether nothing better is asked for: with one limit alone, a smaller or a better package always is."""
        has_both = self.limits.max_drop is not None and self.limits.max_bytes is not None
        return has_both and self.limits.best(self.candidates.found[1:]) is not None

    def _seconds_left(self) -> float | None:
        """Of the budget, over all runs; None without one."""
        budget = self._asked.seconds()
        if budget is None:
            return None
        return budget - self._file.seconds - sum(found.seconds for found in self.candidates.found)

    # The end.

    def _ended(self) -> Exploration:
        found = self.candidates.found[1:]
        best = self.limits.best(found)
        shown = best or self.limits.nearest(found)
        if shown is None:
            return self._write()
        began = time.monotonic()
        verdict = self._verdict(shown)
        self._spent["verdict"] = round(time.monotonic() - began, 2)
        self._draw(shown)
        return self._write(best, shown, verdict)

    def _verdict(self, chosen: Candidate) -> Verdict:
        reference, path = (self.candidates.path(found) for found in (self.candidates.found[0], chosen))
        return verdict_of(self._subject, reference, path, self.judged, self.limits, self._folder)

    def _draw(self, chosen: Candidate) -> None:
        for candidate in (self.candidates.found[0], chosen):
            picture = self._folder / f"{candidate.name}.png"
            with nice_to_have("a picture"):
                if self._subject.draw(self.candidates.path(candidate), picture):
                    self._pictures[candidate.name] = picture.name

    def _write(
        self, best: Candidate | None = None, shown: Candidate | None = None, verdict: Verdict | None = None
    ) -> Exploration:
        reference = self.candidates.found[0]
        exploration = Exploration(
            question=self._asked.question(self._subject.metric, reference.value),
            digest=self._digest(),
            tensors=with_forms_of(self._records, self.candidates.found),
            candidates=list(self.candidates.found),
            rungs=list(self._rungs.values()),
            chosen=None if best is None else best.name,
            nearest=shown.name if best is None and shown is not None else None,
            verdict=verdict,
            seconds=self._seconds(),
            pictures=dict(self._pictures),
        )
        write_record(exploration, self._folder / RECORD)
        return read_record(Exploration, self._folder / RECORD)

    def _seconds(self) -> dict[str, float]:
        return {
            REFERENCE: self.candidates.found[0].seconds,
            "sensitivity": self._file.seconds,
            **{rung.name: rung.seconds for rung in self._rungs.values() if rung.state.endswith("satisfied")},
            **self._spent,
        }

    def _digest(self) -> str:
        """Of the weights, and of what the scores depend on beside them."""
        of_scores = f"{self._asked.samples} {self._examples} {self._part.samples} {self._asked.target}"
        content = f"{self._subject.digest} {of_scores}"
        return hashlib.sha256(content.encode()).hexdigest()

    def _tell_form(self, form: str) -> None:
        self._tell(f"sensitivity: {form}")
