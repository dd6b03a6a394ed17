"""A candidate of a search in a process that one of Hydra's launchers has started."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from lightning_compress.commands.explore.job import CANDIDATES, ExploreJob
from lightning_compress.commands.jobs.folder import lock_folder, shown
from lightning_compress.commands.jobs.launching import run_launched
from lightning_compress.errors import ConfigurationError
from lightning_compress.stopping import Stops


def run_candidate(config: DictConfig) -> str:
    """Make and measure one candidate.

    Args:
        config: Composed of what the launcher was told.

    Returns:
        What went wrong; empty if all went well.
    """
    return run_launched(config, ExploreJob.command, CANDIDATES, _make)


def _make(stored: DictConfig, name: str, whole: Path, stops: Stops) -> None:
    folder = CANDIDATES.folder(whole, name)
    lock = lock_folder(folder)
    if lock is None:
        raise ConfigurationError(
            f"{name} is still being made by another process in {shown(folder)!r}; end that, or wait for it, and resume "
            "then"
        )
    with lock:
        ExploreJob(stored, whole, stops, is_resumed=True).make_candidate(name)
