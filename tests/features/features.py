"""What Lightning can do beside a compression: every feature, in the order of the matrix's rows."""

from __future__ import annotations

from pathlib import Path

from lightning_compress.errors import CompressionError
from tests.features import (
    compiling,
    lightning_callbacks,
    loops,
    networks,
    optimizer_steps,
    restarts,
    strategies,
    teachers,
)
from tests.features.cases import METHODS, Case
from tests.features.registry import Features

FEATURES = Features()
for _part in (
    restarts,
    optimizer_steps,
    lightning_callbacks,
    compiling,
    loops,
    networks,
    teachers,
    strategies,
):
    FEATURES.update(_part.feature)


def outcome(method: str, title: str, folder: Path) -> str:
    """Run one cell: "works", or "refused: " and the reason."""
    assert method in METHODS
    try:
        FEATURES[title](Case(method, folder))
    except CompressionError as error:
        return f"refused: {error}"
    return "works"
