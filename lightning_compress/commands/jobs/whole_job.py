"""A job with fits that are jobs of their own: what a larger job and its parts share."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from lightning_compress.commands.jobs.building import COMPRESSED_FIT, Building
from lightning_compress.commands.jobs.job import Job
from lightning_compress.commands.jobs.part_job import PartJob
from lightning_compress.stopping import Stops

WITHOUT_COMPRESSION: Mapping[str, Any] = {"name": "none", "methods": {}}
"""The compression of the larger job: each part has its own."""


class WholeJob(Job):
    """A job that runs parts, one after the other, within its stages.

    Args:
        config: Of the larger job, in the form of a job's.
        folder: Where all that the job leaves goes.
        stops: Tells of signals.
        is_resumed: Whether to go on where a job in that folder stood.
    """

    def __init__(
        self, config: DictConfig, folder: Path, stops: Stops | None = None, *, is_resumed: bool = False
    ) -> None:
        super().__init__(config, folder, stops, is_resumed=is_resumed, building=Building(config, folder))
        self._running: PartJob | None = None

    def steps_of_fit(self) -> int:
        """Those of its own fit, or of the part's that is running."""
        return super().steps_of_fit() or (0 if self._running is None else self._running.steps_of_fit())

    def run_part(self, part: PartJob) -> None:
        """Run a part as the present stage, unless it is finished."""
        assert self.progress is not None
        self._running = part
        part.launcher = self.launcher
        try:
            part.go_on(self.progress)
        finally:
            self.launcher = part.launcher
        self._running = None


def with_compression(config: DictConfig, compression: Mapping[str, Any]) -> DictConfig:
    """A configuration in the form of a job's that has this compression, and begins its fit anew.

    Args:
        config: Of the larger job; it is not changed.
        compression: As the group `compression` has it.
    """
    own = copy.deepcopy(config)
    with open_dict(own):
        own.compression = dict(compression)
        own[COMPRESSED_FIT].ckpt_path = None
    return own
