from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_compress.errors import ConfigurationError, DataError
from lightning_compress.recipes.data.boxes import PennFudanDataModule
from lightning_compress.recipes.data.boxes.penn_fudan import read_penn_fudan

ANNOTATION = """# Compatible with PASCAL Annotation Version 1.00
Image filename : "PennFudanPed/PNGImages/{name}.png"
Image size (X x Y x C) : 80 x 60 x 3
Objects with ground truth : 2 {{ "PASpersonWalking" "PASpersonWalking" }}

# Details for pedestrian 1 ("PASpersonWalking")
Original label for object 1 "PASpersonWalking" : "PennFudanPed"
Bounding box for object 1 "PASpersonWalking" (Xmin, Ymin) - (Xmax, Ymax) : (11, 6) - (30, 55)
Pixel mask for object 1 "PASpersonWalking" : "PennFudanPed/PedMasks/{name}_mask.png"

# Details for pedestrian 2 ("PASpersonWalking")
Bounding box for object 2 "PASpersonWalking" (Xmin, Ymin) - (Xmax, Ymax) : (41, 11) - (80, 60)
"""


def write(root: Path, *, count: int = 10) -> Path:
    for folder in ("PNGImages", "Annotation", "PedMasks"):
        (root / folder).mkdir(parents=True)
    mask = np.zeros((60, 80), dtype=np.uint8)
    mask[5:55, 10:30] = 1
    mask[10:60, 40:80] = 2
    for number in range(count):
        name = f"FudanPed{number:05d}"
        Image.new("RGB", (80, 60)).save(root / "PNGImages" / f"{name}.png")
        Image.fromarray(mask).save(root / "PedMasks" / f"{name}_mask.png")
        (root / "Annotation" / f"{name}.txt").write_text(ANNOTATION.format(name=name))
    return root


def test_texts_and_masks_give_the_same_boxes(tmp_path) -> None:
    from_texts = read_penn_fudan(write(tmp_path))
    (tmp_path / "Annotation").rename(tmp_path / "elsewhere")
    from_masks = read_penn_fudan(tmp_path)
    assert from_texts[0].objects.boxes.tolist() == [[10, 5, 30, 55], [40, 10, 80, 60]]
    for one, other in zip(from_texts, from_masks, strict=True):
        assert np.array_equal(one.objects.boxes, other.objects.boxes)


def test_a_share_of_the_images_validates(tmp_path) -> None:
    data = PennFudanDataModule(str(write(tmp_path)), image_size=32, batch_size=2, val_fraction=0.3)
    images, targets = next(iter(data.train_dataloader()))
    assert images.shape == (2, 3, 32, 32)
    assert len(targets) == 2
    train, val = data.train_dataloader().dataset, data.val_dataloader().dataset
    assert (len(train), len(val)) == (7, 3)
    assert not {image.path for image in train.images} & {image.path for image in val.images}
    assert data.class_names == ["person"]


def test_a_root_of_another_layout_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match=r"not in Penn-Fudan's layout.*PNGImages"):
        PennFudanDataModule(str(tmp_path)).setup()
    (tmp_path / "PNGImages").mkdir()
    with pytest.raises(DataError, match=r"holds no \.png"):
        PennFudanDataModule(str(tmp_path)).setup()
    Image.new("RGB", (8, 8)).save(tmp_path / "PNGImages" / "a.png")
    with pytest.raises(DataError, match="neither Annotation/ nor PedMasks/"):
        PennFudanDataModule(str(tmp_path)).setup()


def test_an_image_without_annotation_is_named(tmp_path) -> None:
    (write(tmp_path) / "Annotation" / "FudanPed00003.txt").unlink()
    with pytest.raises(DataError, match=r"FudanPed00003\.png' has no annotation"):
        PennFudanDataModule(str(tmp_path)).setup()


def test_an_annotation_without_boxes_is_named(tmp_path) -> None:
    (write(tmp_path) / "Annotation" / "FudanPed00003.txt").write_text("nothing")
    with pytest.raises(DataError, match=r"FudanPed00003\.txt' holds no bounding box"):
        PennFudanDataModule(str(tmp_path)).setup()


def test_a_box_outside_its_image_is_named(tmp_path) -> None:
    text = write(tmp_path) / "Annotation" / "FudanPed00003.txt"
    text.write_text(text.read_text().replace("(80, 60)", "(90, 60)"))
    with pytest.raises(DataError, match=r"FudanPed00003\.txt': object 2.*\(90, 60\).*80 x 60"):
        PennFudanDataModule(str(tmp_path)).setup()


def test_a_fraction_outside_its_range_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"data\.val_fraction=1\.5"):
        PennFudanDataModule("x", val_fraction=1.5)
