"""`lightning-compress explore`: the smallest package that still does the job.

- `job`: the stages, of which the search is one; `subject` is what the search is told of a recipe, `fit` its fits.
- `outcome`: what the search leaves for people: the package, and a configuration that `train` takes.
"""

from __future__ import annotations

from omegaconf import DictConfig

from lightning_compress.commands.explore.job import ExploreJob
from lightning_compress.commands.jobs.running import run_job
from lightning_compress.commands.results import Result

__all__ = ["ExploreJob", "run"]


def run(config: DictConfig) -> list[Result]:
    """Search as a composed configuration asks, in Hydra's run directory, or go on with a search.

    Returns:
        The float16 package and the chosen one; empty on every process but the first.

    Raises:
        CompressionError: Before training wherever that is possible.
        SystemExit: With 130 after Ctrl-C and 143 after SIGTERM, when what is needed to go on is on the disk.
    """
    return run_job(ExploreJob, config)
