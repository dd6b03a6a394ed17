"""A fit that a search asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig, OmegaConf, open_dict

from lightning_compress.commands.jobs.building import COMPRESSED_FIT
from lightning_compress.commands.jobs.part_job import PartJob
from lightning_compress.commands.jobs.whole_job import with_compression
from lightning_compress.commands.results import Result
from lightning_compress.explore.forms import Form, sections
from lightning_compress.stopping import Stops

_KEYS = {"MagnitudePruning": "prune", "DKMPalettization": "palettize", "LinearQuantization": "quantize"}
"""Where `explore.methods` has what each method takes beside the forms."""


class FitJob(PartJob):
    """The fit of one candidate; its package is measured by the search, on the data of the search alone."""

    command = "explore"

    def measured(self, package: Path) -> list[Result]:
        """Nothing; what was trained beside the network is kept, for the search to measure the package with."""
        self.weights.write(COMPRESSED_FIT, self.folder)
        return []


def fit_job(
    config: DictConfig,
    name: str,
    forms: Mapping[str, Form],
    steps: int,
    folder: Path,
    whole: Path,
    stops: Stops,
    data: L.LightningDataModule,
) -> FitJob:
    """The job that fits a network with tensors in forms.

    Args:
        config: Of the search.
        name: Of the package.
        forms: By name of the tensor.
        steps: Optimizer steps.
        folder: Of the fit.
        whole: Of the search, where the float weights lie.
        stops: Tells of signals.
        data: The data.
    """
    own = with_compression(config, compression_of(config, name, forms))
    with open_dict(own):
        own[COMPRESSED_FIT].trainer.max_epochs = None
        own[COMPRESSED_FIT].trainer.max_steps = steps
    return FitJob(own, name, folder, whole, stops, data=data)


def compression_of(config: DictConfig, name: str, forms: Mapping[str, Form]) -> dict[str, Any]:
    """The configuration `compression` that trains tensors in forms, explicit by tensor.

    Args:
        config: Of the search.
        name: Of the compression.
        forms: By name of the tensor.
    """
    methods: dict[str, Any] = {}
    for kind, configs in sections(forms).items():
        settings = OmegaConf.to_container(config.explore.methods[_KEYS[kind]], resolve=True)
        assert isinstance(settings, dict)
        target = settings.pop("_target_")
        methods[_KEYS[kind]] = {
            "_target_": target,
            "module_name_configs": {pattern: {**keys, **settings} for pattern, keys in configs.items()},
        }
    return {"name": name, "methods": methods}
