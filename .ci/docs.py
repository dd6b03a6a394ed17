"""The API reference, from the docstrings, as web pages: `python .ci/docs.py [FOLDER]`. Any warning is an error."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path

AREAS = (
    "lightning_compress",
    "lightning_compress.methods",
    "lightning_compress.coreml",
    "lightning_compress.runtime",
    "lightning_compress.package",
    "lightning_compress.dkm",
    "lightning_compress.tasks",
    "lightning_compress.recipes.data.boxes",
    "lightning_compress.recipes.data.labels",
    "lightning_compress.recipes.data.masks",
    "lightning_compress.recipes.resnet50",
    "lightning_compress.recipes.segmentation",
    "lightning_compress.recipes.ssd_resnet18",
)
"""What each names in its `__all__` is public, and shown."""


def main(folder: Path) -> None:
    """Write the pages, one an area."""
    import pdoc

    for area in AREAS:
        module = importlib.import_module(area)
        for name in module.__all__:
            # Some are looked up when they are asked for, and pdoc does not ask.
            vars(module).setdefault(name, getattr(module, name))
    warnings.filterwarnings("error", category=UserWarning)
    warnings.filterwarnings("error", category=RuntimeWarning)
    pdoc.render.configure(docformat="google")
    pdoc.pdoc(*AREAS, output_directory=folder)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "site"))
