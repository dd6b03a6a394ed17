from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_compress.errors import ConfigurationError, DataError
from lightning_compress.recipes.data.boxes import CocoDataModule
from lightning_compress.recipes.data.boxes.annotations import read_coco


def content() -> dict[str, Any]:
    """Three images of 64 x 48: a person and a crowd, a person and a dog, nothing."""
    return {
        "images": [
            {"id": number, "file_name": f"{number}.jpg", "width": 64, "height": 48} for number in (3, 1, 2)
        ],
        "annotations": [
            {"id": 10, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 30], "iscrowd": 0},
            {"id": 11, "image_id": 1, "category_id": 1, "bbox": [30, 4, 34, 40], "iscrowd": 1},
            {"id": 12, "image_id": 2, "category_id": 18, "bbox": [10.5, 20, 30, 20]},
            {"id": 13, "image_id": 2, "category_id": 1, "bbox": [0, 0, 10, 48.5]},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
    }


def write(root: Path, train: Any = None, val: Any = None, *, layout: str = "short") -> Path:
    names = {
        "short": {"train": ("annotations_train.json", "train"), "val": ("annotations_val.json", "val")},
        "coco": {
            "train": ("annotations/instances_train2017.json", "train2017"),
            "val": ("annotations/instances_val2017.json", "val2017"),
        },
    }[layout]
    for split, given in (("train", train), ("val", val)):
        file, folder = (root / name for name in names[split])
        file.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content() if given is None else given))
        for number in (1, 2, 3):
            Image.new("RGB", (64, 48), (10 * number, 100, 200)).save(folder / f"{number}.jpg")
    return root


def module(root: Path, **settings: Any) -> CocoDataModule:
    return CocoDataModule(str(root), **{"num_classes": 2, "image_size": 32, "batch_size": 2, **settings})


@pytest.mark.parametrize("layout", ["short", "coco"])
def test_both_layouts_are_found(layout: str, tmp_path) -> None:
    data = module(write(tmp_path, layout=layout))
    images, targets = next(iter(data.train_dataloader()))
    assert images.shape == (2, 3, 32, 32)
    assert images.dtype == torch.float32
    assert data.class_names == ["person", "dog"]
    assert len(targets) == 2


def test_paths_can_be_given(tmp_path) -> None:
    write(tmp_path)
    (tmp_path / "annotations_train.json").rename(tmp_path / "other.json")
    (tmp_path / "train").rename(tmp_path / "pictures")
    data = module(tmp_path, train_annotations="other.json", train_images=str(tmp_path / "pictures"))
    data.setup()
    assert len(data.train_dataloader().dataset) == 2


def test_boxes_become_corners_in_pixels_of_the_resized_image(tmp_path) -> None:
    data = module(write(tmp_path))
    (_, (first, second)) = next(iter(data.val_dataloader()))
    torch.testing.assert_close(first["boxes"][0], torch.tensor([2.0, 4 * 32 / 48, 12, 34 * 32 / 48]))
    assert first["labels"].tolist() == [1, 1]
    assert first["iscrowd"].tolist() == [0, 1]
    assert second["labels"].tolist() == [2, 1]
    # Half a pixel out of the image is rounding, and is cut.
    assert second["boxes"][1].tolist() == [0, 0, 5, 32]


def test_training_learns_no_crowds_and_leaves_out_images_without_objects(tmp_path, caplog) -> None:
    data = module(write(tmp_path), smallest_crop=1.0)
    with caplog.at_level(logging.INFO):
        data.setup()
    samples = data.train_dataloader().dataset
    assert [len(samples[index][1]["labels"]) for index in range(len(samples))] == [1, 2]
    assert "1 of 3 training images show no object" in caplog.text
    assert len(data.val_dataloader().dataset) == 3


def test_categories_can_be_chosen(tmp_path) -> None:
    data = module(write(tmp_path), num_classes=1, categories=["dog"])
    (_, targets) = next(iter(data.train_dataloader()))
    assert [target["labels"].tolist() for target in targets] == [[1]]
    assert data.class_names == ["dog"]


def test_an_unknown_category_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match=r"'persons'.*did you mean 'person'.*person, dog"):
        module(write(tmp_path), categories=["persons"]).setup()


def test_more_classes_than_configured_are_refused(tmp_path) -> None:
    with pytest.raises(DataError, match=r"data\.num_classes=1, but the data has 2: person, dog"):
        module(write(tmp_path), num_classes=1).setup()


def test_splits_of_different_categories_are_refused(tmp_path) -> None:
    other = content()
    other["categories"][0]["name"] = "cat"
    with pytest.raises(DataError, match=r"'person', 'dog'.*in training.*'person', 'cat'"):
        module(write(tmp_path, val=other)).setup()


def test_augmented_boxes_stay_inside(tmp_path) -> None:
    torch.manual_seed(0)
    data = module(write(tmp_path), brightness=0.5)
    data.setup()
    samples = data.train_dataloader().dataset
    for _ in range(30):
        image, target = samples[1]
        assert image.shape == (3, 32, 32)
        assert 0 <= image.min() <= image.max() <= 1
        assert (target["boxes"] >= 0).all()
        assert (target["boxes"] <= 32).all()
        assert len(target["boxes"]) == len(target["labels"])


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    annotations = content()
    change(annotations)
    return annotations


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ([1], "not in COCO format: an object with images, annotations, categories"),
        (
            changed(lambda c: c.pop("images")),
            r"the list 'images' is missing; it has \['annotations', 'categories'\]",
        ),
        (changed(lambda c: c["annotations"][2].pop("bbox")), r"annotations\[2\] lacks bbox"),
        (changed(lambda c: c["images"].clear()), "lists no images"),
        (changed(lambda c: c["categories"].clear()), "lists no categories"),
        (
            changed(lambda c: c["annotations"][0].update(image_id=9)),
            "annotation 10 is of image 9, which is not listed",
        ),
        (changed(lambda c: c["annotations"][0].update(image_id=[1])), r"annotations\[0\] has image_id \[1\]"),
        (changed(lambda c: c["images"][0].update(id=1)), r"images of the same id: \[1\]"),
        (changed(lambda c: c["images"][0].update(width=0)), "image 3 has width 0 and height 48"),
        (
            changed(lambda c: c["annotations"][0].update(category_id=5)),
            r"annotation 10 is of category 5.*\[1, 18\]",
        ),
    ],
)
def test_annotations_that_are_not_coco_are_refused(annotations: Any, message: str, tmp_path) -> None:
    with pytest.raises(DataError, match=rf"annotations_train\.json.*{message}"):
        module(write(tmp_path, train=annotations)).setup()


@pytest.mark.parametrize(
    ("box", "fault"),
    [
        ([60, 4, 20, 20], "reaches out of the image"),
        ([-5, 4, 20, 20], "reaches out of the image"),
        ([-0.9, 4, 0.5, 20], "reaches out of the image"),
        ([4, 4, 0, 20], "has no area"),
        ([4, 4, 20, -3], "has no area"),
        ([4, 4, 20], "four finite numbers"),
        (["a", 4, 5, 20], "finite"),
        ([float("nan"), 4, 5, 20], "finite"),
    ],
)
def test_a_box_that_cannot_be_is_named_with_file_annotation_and_image(
    box: list, fault: str, tmp_path
) -> None:
    annotations = changed(lambda c: c["annotations"][2].update(bbox=box))
    with pytest.raises(
        DataError, match=rf"annotations_val\.json: annotation 12 of image '2\.jpg' \(64 x 48\).*{fault}"
    ):
        module(write(tmp_path, val=annotations)).setup()


def test_such_boxes_can_be_left_out(tmp_path, caplog) -> None:
    annotations = changed(lambda c: c["annotations"][2].update(bbox=[4, 4, 0, 20]))
    data = module(write(tmp_path, val=annotations), invalid_boxes="skip")
    data.setup()
    assert "1 boxes without area" in caplog.text
    assert next(iter(data.val_dataloader()))[1][1]["labels"].tolist() == [1]


def test_invalid_boxes_has_two_values() -> None:
    with pytest.raises(ConfigurationError, match=r"data\.invalid_boxes='drop'.*error, skip"):
        CocoDataModule("x", invalid_boxes="drop")


def test_a_file_that_is_not_json_is_refused(tmp_path) -> None:
    write(tmp_path)
    (tmp_path / "annotations_val.json").write_text("<xml>")
    with pytest.raises(DataError, match=r"annotations_val\.json is not JSON"):
        module(tmp_path).setup()


@pytest.mark.parametrize("text", ["", "\n"])
def test_an_empty_file_is_named(text, tmp_path) -> None:
    write(tmp_path)
    (tmp_path / "annotations_train.json").write_text(text)
    with pytest.raises(DataError, match=r"Annotation file .*annotations_train\.json' is empty; a COCO file"):
        module(tmp_path).setup()


def test_a_file_without_objects_to_learn_from_is_named(tmp_path) -> None:
    write(tmp_path, train={**content(), "annotations": content()["annotations"][1:2]})
    with pytest.raises(
        DataError, match=r"annotations_train\.json has no object to learn from in any of 3 images"
    ):
        module(tmp_path).setup()
    with pytest.raises(DataError, match=r"no object of data\.categories=\['person'\] to learn from"):
        module(tmp_path, categories=["person"], num_classes=1).setup()


def test_missing_images_are_named(tmp_path) -> None:
    (write(tmp_path) / "val" / "2.jpg").unlink()
    with pytest.raises(
        DataError, match=r"Of the 3 images that .*annotations_val\.json lists, 1 cannot be found in .*2\.jpg"
    ):
        module(tmp_path).setup()


def test_a_missing_image_folder_is_named(tmp_path) -> None:
    (write(tmp_path) / "val").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"Image folder .*val' .*does not exist"):
        module(tmp_path).setup()


def test_a_missing_root_is_named(tmp_path) -> None:
    with pytest.raises(DataError, match=r"data\.root=.*nowhere"):
        module(tmp_path / "nowhere").setup()


def test_a_root_without_annotations_says_where_they_were_looked_for(tmp_path) -> None:
    with pytest.raises(
        DataError, match=r"annotations_train\.json or .*instances_train2017\.json.*data\.train_annot"
    ):
        module(tmp_path).setup()
    with pytest.raises(DataError, match=r"mine\.json; data"):
        module(tmp_path, train_annotations="mine.json").setup()


def test_an_image_that_cannot_be_read_is_named(tmp_path) -> None:
    (write(tmp_path) / "val" / "1.jpg").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"1\.jpg.*cannot be read"):
        next(iter(module(tmp_path).val_dataloader()))


def test_photographs_and_their_boxes_are_read(photographs) -> None:
    annotations = read_coco(photographs / "annotations_val.json", photographs / "val")
    written = json.loads((photographs / "annotations_val.json").read_text())
    assert annotations.class_names == [category["name"] for category in written["categories"]]
    assert len(annotations.images) == len(written["images"])
    for image, described in zip(annotations.images, written["images"], strict=True):
        assert image.path == photographs / "val" / described["file_name"]
        boxes = [entry["bbox"] for entry in written["annotations"] if entry["image_id"] == described["id"]]
        corners = [[left, top, left + width, top + height] for left, top, width, height in boxes]
        np.testing.assert_array_equal(image.objects.boxes, np.array(corners, np.float32))
        assert image.objects.labels.tolist() == [1] * len(boxes)


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "a/../../secret.jpg", "/etc/passwd", "", "nul\0.jpg", 7, None]
)
def test_a_file_name_that_leaves_its_folder_is_refused(name: Any, tmp_path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "secret.jpg")
    outside = content()
    outside["images"][0]["file_name"] = name
    with pytest.raises(DataError, match=r"image 3 has file_name .*valid is a path below the image folder"):
        module(write(tmp_path, outside)).setup()


def test_a_file_name_may_name_a_folder_below(tmp_path) -> None:
    inside = content()
    inside["images"][0]["file_name"] = "more/3.jpg"
    write(tmp_path, inside)
    (tmp_path / "train" / "more").mkdir()
    (tmp_path / "train" / "3.jpg").rename(tmp_path / "train" / "more" / "3.jpg")
    module(tmp_path).setup()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0].update(iscrowd="x"), "has iscrowd 'x'; valid are 0 and 1"),
        (
            lambda c: c["annotations"][0].update(bbox=[0, 0, 10**400, 5]),
            "is not a list of four finite numbers",
        ),
        (lambda c: c["images"][0].update(width=10**400), "valid are pixels, more than 0"),
    ],
)
def test_numbers_and_marks_of_another_kind_are_refused(change: Any, message: str, tmp_path) -> None:
    damaged = content()
    change(damaged)
    with pytest.raises(DataError, match=message):
        module(write(tmp_path, damaged)).setup()


def test_ids_may_be_numbers_and_texts(tmp_path) -> None:
    mixed = content()
    mixed["images"][0]["id"] = "three"
    mixed["categories"][0]["id"] = mixed["annotations"][2]["category_id"] = "dog"
    data = module(write(tmp_path, mixed, mixed))
    data.setup()
    assert data.class_names == ["person", "dog"]


def test_annotations_nested_too_deeply_are_no_json(tmp_path) -> None:
    write(tmp_path)
    (tmp_path / "annotations_train.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="is not JSON"):
        module(tmp_path).setup()
