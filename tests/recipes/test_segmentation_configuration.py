from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from lightning_compress.recipes.data import masks
from lightning_compress.recipes.segmentation import ImageSegmenter

CONF = Path(__file__).resolve().parents[2] / "conf"


def configured(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=["recipe=segmentation", *overrides])


def test_the_recipe_brings_its_module_and_its_data() -> None:
    config = configured("data.image_size=64")
    built = instantiate(config.recipe.module)
    assert isinstance(built, ImageSegmenter)
    assert built.example_input_array.shape == (1, 3, 64, 64)
    assert getattr(built, config.recipe.network) is built.model
    data = instantiate(config.data)
    assert isinstance(data, masks.DigitsMasksDataModule)
    assert built.hparams["num_classes"] == data.num_classes == 11


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ("digits_masks", masks.DigitsMasksDataModule),
        ("mask_folder", masks.MaskFolderDataModule),
        ("pascal_voc", masks.PascalVOCDataModule),
        ("coco_masks", masks.CocoMasksDataModule),
        ("oxford_pet", masks.OxfordPetDataModule),
    ],
)
def test_each_data_set_is_built_with_plain_settings(data: str, kind: type, tmp_path) -> None:
    root = [] if data == "digits_masks" else [f"data.root={tmp_path}"]
    classes = ["data.num_classes=4"] if data == "mask_folder" else []
    config = configured(f"data={data}", *root, *classes)
    built = instantiate(config.data)
    assert type(built) is kind
    assert built.task == "segmentation"
    assert config.recipe.module.num_classes == built.num_classes
    assert config.recipe.module.image_size == built.image_size
