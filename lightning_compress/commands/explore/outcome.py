"""What a search leaves for people: the package, a configuration that `train` takes, and the report."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

from omegaconf import OmegaConf

from lightning_compress.commands.explore.fit import compression_of
from lightning_compress.commands.explore.subject import RecipeSubject
from lightning_compress.commands.jobs.building import Building
from lightning_compress.coreml.card import METRICS
from lightning_compress.coreml.metadata import add_metadata
from lightning_compress.explore.making import parsed
from lightning_compress.explore.record import Candidate, Exploration, write_record
from lightning_compress.explore.searching import RECORD, Search
from lightning_compress.nice_to_have import nice_to_have
from lightning_compress.package.save import write_whole

NAME = "explored"
"""Of the package and of the compression that a search leaves."""


def leave_outcome(
    building: Building, subject: RecipeSubject, search: Search, exploration: Exploration, folder: Path
) -> None:
    """Write the package that was chosen, verified, and what goes with it.

    Args:
        building: Of the job.
        subject: What was searched.
        search: Has made the candidates.
        exploration: What was found.
        folder: Where all goes.

    Raises:
        CompressionError: The package does not compute what the network does.
    """
    from lightning_compress.explore.report import write_report

    name = exploration.chosen
    if name is not None:
        _write_package(building, subject, search, exploration, folder)
        _write_compression(building, exploration.candidate(name), folder)
        exploration = dataclasses.replace(exploration, delivered=building.package(NAME).name)
        write_record(exploration, folder / RECORD)
    with nice_to_have("the report"):
        write_report(exploration, folder)


def _write_package(
    building: Building, subject: RecipeSubject, search: Search, exploration: Exploration, folder: Path
) -> None:
    assert exploration.chosen is not None
    chosen = exploration.candidate(exploration.chosen)
    path = building.package(NAME)
    compressed = search.compressed(chosen)
    if compressed is not None:
        subject.export(compressed, path, verifies=True)
    else:
        # A fit has verified its package at its end.
        if path.exists():
            shutil.rmtree(path)
        shutil.copytree(search.candidates.path(chosen), path)
    verdict = exploration.verdict
    if verdict is not None:
        metric = exploration.question.metric.rpartition("/")[2]
        metadata = {"compression": NAME, METRICS: json.dumps({metric: verdict.value})}
        add_metadata(path, metadata, card=bool(building.config.export.card))


def _write_compression(building: Building, chosen: Candidate, folder: Path) -> None:
    """A choice of the group `compression`, explicit by weight."""
    content = {
        **compression_of(building.config, NAME, parsed(chosen.forms)),
        "module": "${oc.select:recipe.network,null}",
    }
    head = (
        f"# What `lightning-compress explore` chose: {chosen.package_bytes:,} bytes. To train it again, or further:\n"
        f"#   lightning-compress train --config-dir {folder.name} compression={NAME} ...\n"
    )
    path = folder / "compression" / f"{NAME}.yaml"
    path.parent.mkdir(exist_ok=True)
    write_whole(path, (head + OmegaConf.to_yaml(OmegaConf.create(content))).encode())
