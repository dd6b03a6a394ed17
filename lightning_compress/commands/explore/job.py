"""The stages of `lightning-compress explore`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from lightning_compress.commands.explore.outcome import NAME, leave_outcome
from lightning_compress.commands.explore.subject import RecipeSubject
from lightning_compress.commands.jobs.building import COMPRESSED_FIT, FLOAT_FIT
from lightning_compress.commands.jobs.folder import resume_command
from lightning_compress.commands.jobs.job import Stage, say
from lightning_compress.commands.jobs.launching import chosen_launcher
from lightning_compress.commands.jobs.part_job import PartJob
from lightning_compress.commands.jobs.processes import is_first
from lightning_compress.commands.jobs.rehearsal import rehearse_float, rehearse_trainers
from lightning_compress.commands.jobs.whole_job import WITHOUT_COMPRESSION, WholeJob, with_compression
from lightning_compress.commands.results import Result
from lightning_compress.console import print_whole
from lightning_compress.errors import ConfigurationError
from lightning_compress.explore.elsewhere import Elsewhere
from lightning_compress.explore.forms import Form, parse_forms
from lightning_compress.explore.question import Asked
from lightning_compress.explore.record import Exploration, read_record
from lightning_compress.explore.searching import RECORD, Search
from lightning_compress.stopping import Stops
from lightning_compress.untrusted_text import plain_text

SEARCH = "search"


class ExploreJob(WholeJob):
    """A float fit, or weights that are given, and a search from there.

    Args:
        config: The composed configuration `explore.yaml`.
        folder: Where all that the job leaves goes.
        stops: Tells of signals.
        is_resumed: Whether to go on where a job in that folder stood.
    """

    command = "explore"

    def __init__(
        self, config: DictConfig, folder: Path, stops: Stops | None = None, *, is_resumed: bool = False
    ) -> None:
        self.asked = asked(config.explore)
        if config.trainer.devices != 1 or config.trainer.num_nodes != 1:
            raise ConfigurationError(
                "a search runs on one device: trainer.devices and trainer.num_nodes must be 1; fit the float weights "
                "with lightning-compress train on as many as you like, and give them with weights=…"
            )
        super().__init__(_as_job(config), folder, stops, is_resumed=is_resumed)

    def stages(self) -> list[Stage]:
        """The float fit, and the search."""
        return [self.float_stages()[0], Stage(SEARCH, SEARCH, self._search, steps=_unknown)]

    def rehearse(self, *, exports: bool) -> float:
        """Try the float fit, its package, and what the question names."""
        started = time.perf_counter()
        fits = [FLOAT_FIT, COMPRESSED_FIT] if self.building.steps(COMPRESSED_FIT) else [FLOAT_FIT]
        rehearse_trainers(self.building, fits)
        network = self.building.recipe.network_copy(self.building.float_module())
        self.asked.require_names(network)
        self.asked.require_forms(network)
        rehearse_float(self.building, [], exports=exports)
        return time.perf_counter() - started

    def report(self) -> list[Result]:
        """Print what was found."""
        if is_first() and (self.folder / RECORD).exists():
            from lightning_compress.explore.report import answer, exploration_table

            exploration = self.exploration()
            print_whole(exploration_table(exploration))
            say(plain_text(answer(exploration)))
            left = "report.html and results.md"
            if exploration.chosen is not None:
                left = f"{NAME}.mlpackage, a configuration to train it again, {left}"
            say(f"{left}: {self.folder}")
        return self.results if is_first() else []

    def exploration(self) -> Exploration:
        """What was found until now."""
        return read_record(Exploration, self.folder / RECORD)

    def write(self) -> None:
        """The search writes what it finds."""

    def make_candidate(self, name: str) -> None:
        """Make what the search asks for, in a process that it has given this to.

        Args:
            name: Of the candidate; what it is stands in its folder.
        """
        self._part_of_search().candidates.make_requested(name)

    def measure_form(self, name: str) -> None:
        """Measure what a form costs each tensor, likewise.

        Args:
            name: Of the form.
        """
        self._part_of_search().measure_form(Form.parse(name))

    def _part_of_search(self) -> Search:
        self._seed(SEARCH)
        self.building.data.prepare_data()
        self.building.data.setup("fit")
        return self._searching(_run_alone)[0]

    def _searching(
        self, run_fit: Callable[[PartJob], None], elsewhere: Elsewhere | None = None
    ) -> tuple[Search, RecipeSubject]:
        subject = RecipeSubject(self.building, self.weights, self.folder, self.stops, run_fit)
        given = self.config.explore.sensitivity
        sensitivity = None if given is None else Path(str(given)).expanduser()
        search = Search(subject, self.asked, self.folder, say, sensitivity=sensitivity, elsewhere=elsewhere)
        return search, subject

    def _elsewhere(self) -> Elsewhere | None:
        if chosen_launcher() is None:
            return None
        # It makes jobs of this kind.
        from lightning_compress.commands.explore.launched import Launched

        return Launched(self.folder)

    def _search(self) -> None:
        search, subject = self._searching(self.run_part, self._elsewhere())
        plan = search.plan()
        print_whole(plan.table())
        if self.config.explore.dry_run:
            say(
                "explore.dry_run=true: nothing was searched; do it by\n"
                f"  {resume_command(self.folder, 'explore')} explore.dry_run=false"
            )
            return
        exploration = search.run()
        leave_outcome(self.building, subject, search, exploration, self.folder)
        self.finish(SEARCH, lambda: ([self.folder / RECORD], results_of(exploration, self.folder)))


def _run_alone(part: PartJob) -> None:
    part.run()


def _unknown() -> None:
    """The steps of a search: its own table says how long it takes, once the weights are there."""


def asked(explore: DictConfig) -> Asked:
    """The question of a configuration.

    Raises:
        ConfigurationError: It cannot be used.
    """
    settings: Any = OmegaConf.to_container(explore, resolve=True)
    given = {
        key: settings[key]
        for key in (
            *("max_drop", "max_size", "budget", "higher_is_better", "target"),
            *("samples", "share", "steps", "fits", "short", "margin", "together"),
        )
    }
    given |= {key: _as_list(settings[key], key) for key in ("leave", "rungs")}
    measured = _as_list(settings["measured"], "measured")
    if measured:
        given["measured"] = parse_forms(measured, "explore.measured")
    if settings["forms"] is not None:
        given["forms"] = parse_forms(_as_list(settings["forms"], "forms"), "explore.forms")
    return Asked(**given)


def results_of(exploration: Exploration, folder: Path) -> list[Result]:
    """The float16 package and the chosen one, by the verdict."""
    verdict, name = exploration.verdict, exploration.chosen
    if verdict is None or name is None:
        return []
    metric = exploration.question.metric.rpartition("/")[2]
    return [
        Result(
            found.name,
            found.package_bytes,
            found.weight_bytes,
            metric,
            value,
            str(folder / (found.package or "")),
        )
        for found, value in (
            (exploration.reference, verdict.float_value),
            (exploration.candidate(name), verdict.value),
        )
    ]


def _as_list(given: Any, key: str) -> list[str]:
    if not isinstance(given, list) or any(not isinstance(entry, str) for entry in given):
        raise ConfigurationError(
            f"explore.{key}={given!r} is no list of names; valid is such as explore.{key}=[…]"
        )
    return given


def _as_job(config: DictConfig) -> DictConfig:
    """The configuration in the form of a job's: without compression of its own, and with the weights given."""
    own = with_compression(config, WITHOUT_COMPRESSION)
    with open_dict(own):
        if own.weights is not None:
            if own.float_fit.weights not in (None, own.weights):
                raise ConfigurationError(
                    f"weights={own.weights} and float_fit.weights={own.float_fit.weights} name two files; give one"
                )
            own.float_fit.weights = own.weights
            own.float_fit.enabled = False
    return own
