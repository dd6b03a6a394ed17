from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
from PIL import Image

from lightning_compress.recipes.data.boxes.digits_on_photographs import DigitScenes

_PEDESTRIANS = Path(__file__).resolve().parents[2] / "../shared/data/pedestrians"
"""Frames of an outdoor camera, tried too where somebody has laid them beside the repository."""


@pytest.fixture
def trainer() -> Callable[..., L.Trainer]:
    """A quiet trainer on the CPU."""

    def build(**settings: Any) -> L.Trainer:
        return L.Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **settings,
        )

    return build


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs with handwritten digits in COCO format: 12 to train, 6 to validate, from scikit-learn's own."""
    root = tmp_path_factory.mktemp("scenes")
    for split, count in (("train", 12), ("val", 6)):
        (root / split).mkdir()
        drawn = DigitScenes(split, count, side=128, seed=7, transform=None)
        images, annotations = [], []
        for index in range(count):
            pixels, objects = drawn.load(index)
            name = f"{index:04d}.jpg"
            Image.fromarray(np.asarray(pixels).transpose(1, 2, 0)).save(root / split / name, quality=86)
            images.append({"id": index, "file_name": name, "width": 128, "height": 128})
            for left, top, right, bottom in objects.boxes.tolist():
                box = [left, top, right - left, bottom - top]
                annotation = {"id": len(annotations), "image_id": index, "category_id": 1, "bbox": box}
                annotations.append({**annotation, "area": box[2] * box[3], "iscrowd": 0})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "digit"}]}
        (root / f"annotations_{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(
    params=[
        "scenes",
        pytest.param(
            "pedestrians",
            marks=pytest.mark.skipif(
                not _PEDESTRIANS.is_dir(), reason="an addition to the scenes: frames that are not distributed"
            ),
        ),
    ]
)
def photographs(request: pytest.FixtureRequest) -> Path:
    """The folder of a small data set of photographs in COCO format."""
    return request.getfixturevalue("scenes") if request.param == "scenes" else _PEDESTRIANS
