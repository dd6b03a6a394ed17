from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from lightning_compress.errors import ConfigurationError, DataError
from lightning_compress.recipes.data.masks import CocoMasksDataModule
from lightning_compress.recipes.data.masks.annotations import Shape, draw_mask
from lightning_compress.recipes.data.masks.run_lengths import covered_by, read_run_lengths


def rectangle(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def runs(*, as_text: bool = False) -> dict[str, Any]:
    """The right half of an image of 64 x 48."""
    covered = np.zeros((48, 64), dtype=np.uint8, order="F")
    covered[:, 32:] = 1
    if as_text:
        encoded = coco_mask.encode(covered)
        return {"size": [48, 64], "counts": encoded["counts"].decode()}
    return {"size": [48, 64], "counts": [48 * 32, 48 * 32]}


def content() -> dict[str, Any]:
    """A person of two polygons; a dog of run lengths beside a crowd of persons; nothing."""
    return {
        "images": [
            {"id": number, "file_name": f"{number}.jpg", "width": 64, "height": 48} for number in (3, 1, 2)
        ],
        "annotations": [
            {
                "id": 10,
                "image_id": 1,
                "category_id": 1,
                "segmentation": [rectangle(4, 4, 20, 20), rectangle(40, 30, 64.5, 48)],
            },
            {"id": 11, "image_id": 2, "category_id": 18, "segmentation": runs(as_text=True), "iscrowd": 0},
            {
                "id": 12,
                "image_id": 2,
                "category_id": 1,
                "segmentation": {"size": [48, 64], "counts": [0, 48 * 40, 48 * 24]},
                "iscrowd": 1,
            },
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
    }


def write(root: Path, train: Any = None) -> Path:
    for split, given_content in (("train", train), ("val", None)):
        (root / split).mkdir()
        (root / f"annotations_{split}.json").write_text(json.dumps(given_content or content()))
        for number in (1, 2, 3):
            Image.new("RGB", (64, 48), (10 * number, 100, 200)).save(root / split / f"{number}.jpg")
    return root


def module(root: Path, **settings: Any) -> CocoMasksDataModule:
    return CocoMasksDataModule(str(root), **{"num_classes": 3, "image_size": 32, "batch_size": 3, **settings})


def test_polygons_and_run_lengths_become_masks(tmp_path) -> None:
    data = module(write(tmp_path))
    images, masks = next(iter(data.val_dataloader()))
    assert images.shape == (3, 3, 32, 32)
    assert masks.shape == (3, 32, 32)
    assert data.class_names == ["background", "person", "dog"]
    person, dog, nothing = masks
    assert person.unique().tolist() == [0, 1]
    assert person[8, 4] == person[26, 28] == 1
    assert dog[:, 16:].unique().tolist() == [2]
    # A crowd is ignored, but not where an object is known.
    assert dog[:, :16].unique().tolist() == [255]
    assert nothing.unique().tolist() == [0]


def test_categories_can_be_chosen(tmp_path) -> None:
    data = module(write(tmp_path), categories=["dog"], num_classes=2)
    _, masks = next(iter(data.val_dataloader()))
    assert data.class_names == ["background", "dog"]
    assert masks[0].unique().tolist() == [0]
    assert masks[1].unique().tolist() == [0, 1]


def test_what_two_classes_claim_is_ignored() -> None:
    shapes = [
        Shape([rectangle(0, 0, 6, 10)], 1, False),
        Shape([rectangle(4, 0, 10, 10)], 2, False),
        Shape([rectangle(0, 0, 3, 10)], 1, False),
    ]
    row = draw_mask(shapes, 10, 10)[5]
    assert row.tolist() == [1, 1, 1, 1, 255, 255, 2, 2, 2, 2]


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_run_lengths_are_read_as_pycocotools_writes_them(height: int, width: int, data) -> None:
    bits = data.draw(st.lists(st.integers(0, 1), min_size=height * width, max_size=height * width))
    covered = np.array(bits, dtype=np.uint8).reshape(height, width)
    text = coco_mask.encode(np.asfortranarray(covered))["counts"].decode()
    assert np.array_equal(covered_by(read_run_lengths(text), height, width), covered)


def test_pycocotools_cannot_be_asked_yet_to_read_run_lengths() -> None:
    """Once it reads these without a warning, `run_lengths.py` is no longer needed."""
    with pytest.warns(DeprecationWarning, match="copy"):
        coco_mask.decode(coco_mask.encode(np.ones((4, 4), dtype=np.uint8, order="F")))


def _segmentation(value: Any) -> Any:
    spoilt = content()
    spoilt["annotations"][0]["segmentation"] = value
    return spoilt


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([rectangle(4, 4, 70, 20)], r"a polygon outside of the image, with 4 to 70 of 64"),
        ([rectangle(4, -9, 20, 20)], r"a polygon outside of the image, with -9 to 20 of 48"),
        ([[4, 4, 20, 20]], "no list of at least three pairs"),
        ([[4, 4, 20, 20, 8]], "no list of at least three pairs"),
        ([[4, 4, 20, 20, 8, None]], "what are no finite numbers"),
        ([[4, 4, 20, 20, 8, float("nan")]], "what are no finite numbers"),
        ([], "neither a list of polygons nor run lengths"),
        ("polygon", "neither a list of polygons nor run lengths"),
        ({"size": [64, 48], "counts": [64 * 48]}, r"run lengths of size \[64, 48\], and not \[48, 64\]"),
        ({"size": [48, 64], "counts": [10, 20]}, "run lengths of 30 pixels together"),
        ({"size": [48, 64], "counts": [-1, 48 * 64 + 1]}, "no whole numbers from 0"),
        ({"size": [48, 64], "counts": ""}, "run lengths of 0 pixels together"),
        ({"size": [48, 64], "counts": "P"}, "no whole numbers from 0"),
        ({"size": [48, 64], "counts": "ä"}, "no whole numbers from 0"),
        ({"size": [48, 64]}, "neither a list nor a text"),
    ],
)
def test_an_outline_that_cannot_be_is_named(value: Any, problem: str, tmp_path) -> None:
    write(tmp_path, _segmentation(value))
    with pytest.raises(DataError, match=rf"annotation 10 of image '1\.jpg' \(64 x 48\).*{problem}.*skip"):
        module(tmp_path).setup()


def test_outlines_that_cannot_be_can_be_left_out(tmp_path, caplog) -> None:
    write(tmp_path, _segmentation([rectangle(4, 4, 70, 20)]))
    data = module(tmp_path, invalid_shapes="skip")
    with caplog.at_level(logging.WARNING):
        data.setup()
    assert "1 objects with invalid outlines" in caplog.text
    with pytest.raises(
        ConfigurationError, match=r"data\.invalid_shapes='drop' is unknown; valid: error, skip"
    ):
        module(tmp_path, invalid_shapes="drop")


def _without(section: str, key: str) -> Any:
    spoilt = content()
    for entry in spoilt[section]:
        entry.pop(key, None)
    return spoilt


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({**content(), "annotations": []}, r"nothing to learn: no pixel of any image of .*annotations_train"),
        (_without("annotations", "segmentation"), r"annotations\[0\] lacks segmentation"),
        ({**content(), "categories": []}, "lists no categories"),
    ],
)
def test_files_that_nothing_can_be_learnt_of_are_refused(train: Any, message: str, tmp_path) -> None:
    write(tmp_path, train)
    with pytest.raises(DataError, match=message):
        module(tmp_path).setup()


def test_another_number_of_classes_is_told(tmp_path) -> None:
    with pytest.raises(DataError, match=r"num_classes=81, but the data has 3: background, person, dog"):
        module(write(tmp_path), num_classes=81).setup()


def test_an_image_of_another_size_than_its_annotations_is_told(tmp_path) -> None:
    write(tmp_path)
    Image.new("RGB", (32, 48)).save(tmp_path / "val" / "1.jpg")
    data = module(tmp_path)
    data.setup()
    with pytest.raises(DataError, match=r"1\.jpg' is 32 x 48 pixels, and its annotations are for 64 x 48"):
        next(iter(data.val_dataloader()))
