from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import OxfordIIITPet

from lightning_compress.errors import ConfigurationError, DataError
from lightning_compress.recipes.data.masks import OxfordPetDataModule

BREEDS = (("Abyssinian_1", 1, 1), ("beagle_7", 2, 2), ("Abyssinian_2", 1, 1))


def write(root: Path) -> Path:
    """Three pets in the layout of the archives: a cat, a dog, a cat, each with a pet, its border and its background."""
    folder = root / "oxford-iiit-pet"
    for name in ("images", "annotations/trimaps"):
        (folder / name).mkdir(parents=True)
    for name, _, _ in BREEDS:
        Image.new("RGB", (60, 40), (200, 100, 50)).save(folder / "images" / f"{name}.jpg")
        trimap = np.full((40, 60), 2, dtype=np.uint8)
        trimap[:, :20], trimap[:, 20:30] = 1, 3
        Image.fromarray(trimap).save(folder / "annotations" / "trimaps" / f"{name}.png")
    for split in ("trainval", "test"):
        lines = [f"{name} {breed} {species} 1" for name, breed, species in BREEDS]
        (folder / "annotations" / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return folder


def pets(root: Path, **settings: Any) -> OxfordPetDataModule:
    return OxfordPetDataModule(str(root), **{"image_size": 32, "batch_size": 3, **settings})


@pytest.mark.parametrize(
    ("classes", "names", "labels"),
    [
        ("pet", ["pet"], [1, 1, 1]),
        ("species", ["Cat", "Dog"], [1, 2, 1]),
        ("breed", ["Abyssinian", "Beagle"], [1, 2, 1]),
    ],
)
def test_trimaps_become_masks_of_pets_species_or_breeds(classes, names, labels, tmp_path) -> None:
    write(tmp_path)
    data = pets(tmp_path, classes=classes, num_classes=1 + len(names))
    images, masks = next(iter(data.val_dataloader()))
    assert images.shape == (3, 3, 32, 32)
    assert data.class_names == ["background", *names]
    assert masks[:, 16, 2].tolist() == labels
    assert (masks[:, :, 12:15] == 255).all()
    assert (masks[:, :, 20:] == 0).all()


def test_files_that_are_not_there_are_asked_for(tmp_path) -> None:
    with pytest.raises(DataError, match=r"oxford-iiit-pet/ with images/.*trainval\.txt.*data\.download=true"):
        pets(tmp_path).setup()


def _damage(folder: Path, name: str, values: np.ndarray) -> None:
    Image.fromarray(values).save(folder / "annotations" / "trimaps" / f"{name}.png")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: (folder / "images" / "Abyssinian_1.jpg").unlink(),
            r"oxford-iiit-pet' cannot be read.*Abyssinian_1\.jpg",
        ),
        (
            lambda folder: _damage(folder, "Abyssinian_1", np.full((40, 60), 7, dtype=np.uint8)),
            r"Trimap 0 of .* has the values \[7\].*valid are 1, 2 and 3",
        ),
        (
            lambda folder: _damage(folder, "Abyssinian_1", np.ones((40, 50), dtype=np.uint8)),
            r"shape \(40, 50\).*its image's \(40, 60\)",
        ),
        (
            lambda folder: (folder / "annotations" / "test.txt").write_text("Abyssinian_1\n"),
            r"annotations/test\.txt is needed",
        ),
    ],
)
def test_damaged_files_are_told_before_the_first_step(spoil, message: str, tmp_path) -> None:
    spoil(write(tmp_path))
    with pytest.raises(DataError, match=message):
        pets(tmp_path).setup()


def test_a_download_without_a_network_is_a_clear_error(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", (("http://127.0.0.1:9/images.tar.gz", "0" * 32),))
    with pytest.raises(
        DataError, match=r"could not be downloaded into data\.root=(.|\n)*annotations\.tar\.gz"
    ):
        pets(tmp_path, download=True).prepare_data()
    pets(tmp_path).prepare_data()


def test_an_unknown_way_to_tell_classes_is_refused(tmp_path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"data\.classes='breeds' is unknown.*Valid: pet, species, breed"
    ):
        pets(tmp_path, classes="breeds")
