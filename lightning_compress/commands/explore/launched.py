"""Parts of a search in processes that one of Hydra's launchers has started: candidates, and forms that are measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig

from lightning_compress.commands.explore.job import ExploreJob
from lightning_compress.commands.jobs.folder import lock_folder, shown
from lightning_compress.commands.jobs.launching import Launching, Parts, run_launched
from lightning_compress.errors import ConfigurationError
from lightning_compress.explore.making import FOLDER
from lightning_compress.explore.making import RECORD as CANDIDATE
from lightning_compress.explore.sensitivity_file import FILE, MEASURED
from lightning_compress.stopping import Stops

CANDIDATES = Parts("candidate", FOLDER, CANDIDATE)
FORMS = Parts("form", MEASURED, FILE)


class Launched:
    """Makes parts of a search by the launcher that Hydra's configuration names.

    Args:
        folder: Of the search.
    """

    def __init__(self, folder: Path) -> None:
        self._candidates = Launching(folder, CANDIDATES, run_candidate)
        self._forms = Launching(folder, FORMS, run_form)

    def candidates(self, names: Sequence[str]) -> Mapping[str, str]:
        """Make candidates; what went wrong, by name."""
        return self._candidates.run(names)

    def forms(self, names: Sequence[str]) -> Mapping[str, str]:
        """Measure forms; what went wrong, by name."""
        return self._forms.run(names)


def run_candidate(config: DictConfig) -> str:
    """Make and measure one candidate.

    Args:
        config: Composed of what the launcher was told.

    Returns:
        What went wrong; empty if all went well.
    """
    return run_launched(config, ExploreJob.command, CANDIDATES, _held(CANDIDATES, ExploreJob.make_candidate))


def run_form(config: DictConfig) -> str:
    """Measure what one form costs each tensor, as `run_candidate`."""
    return run_launched(config, ExploreJob.command, FORMS, _held(FORMS, ExploreJob.measure_form))


def _held(
    parts: Parts, work: Callable[[ExploreJob, str], None]
) -> Callable[[DictConfig, str, Path, Stops], None]:
    """The work on a part, whose folder is held against other processes."""

    def run(stored: DictConfig, name: str, whole: Path, stops: Stops) -> None:
        folder = parts.folder(whole, name)
        lock = lock_folder(folder)
        if lock is None:
            raise ConfigurationError(
                f"{name} is still being made by another process in {shown(folder)!r}; end that, or wait for it, and "
                "resume then"
            )
        with lock:
            work(ExploreJob(stored, whole, stops, is_resumed=True), name)

    return run
