from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from lightning_compress.coreml import CoreMLExport
from lightning_compress.recipes import resnet50, ssd_resnet18
from lightning_compress.recipes.data import boxes, labels
from lightning_compress.recipes.data.datamodule import RecipeDataModule

APPLICATION = """
defaults:
  - recipe: resnet50
  - _self_
  - experiment: null
hydra:
  searchpath: [pkg://lightning_compress.conf]
"""

EXPERIMENT = """
# @package _global_
defaults:
  - override /recipe: ssd_resnet18
  - override /data: coco
data:
  image_size: 96
"""


@pytest.fixture
def configured(tmp_path: Path):
    """A user's own Hydra application on the shipped groups."""
    (tmp_path / "config.yaml").write_text(APPLICATION)
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text(EXPERIMENT)

    def build(*overrides: str) -> DictConfig:
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            return compose("config", overrides=list(overrides))

    return build


@pytest.mark.parametrize(
    ("recipe", "module", "data"),
    [
        ("resnet50", resnet50.ImageClassifier, labels.DigitsDataModule),
        ("ssd_resnet18", ssd_resnet18.ObjectDetector, boxes.DigitsDetectionDataModule),
    ],
)
def test_a_recipe_brings_its_module_its_data_and_its_export(configured, recipe, module, data) -> None:
    config = configured(f"recipe={recipe}", "data.image_size=64")
    built = instantiate(config.recipe.module)
    assert isinstance(built, module)
    assert built.example_input_array.shape == (1, 3, 64, 64)
    assert isinstance(instantiate(config.data), data)
    task = instantiate(config.recipe.task)
    assert task.name == instantiate(config.data).task
    export = task.interface(CoreMLExport("net.mlpackage"), ["a"])
    outputs = export.wrapped(built.model.eval())(torch.rand(1, 3, 64, 64))
    assert len(outputs) == len(export.output_names or outputs)


@pytest.mark.parametrize(
    "data", ["digits", "fashion_mnist", "image_folder", "digits_detection", "coco", "penn_fudan"]
)
def test_each_data_set_is_built_with_plain_settings(configured, data: str, tmp_path) -> None:
    detection = data in ("digits_detection", "coco", "penn_fudan")
    root = [f"data.root={tmp_path}"] if data in ("image_folder", "coco", "penn_fudan") else []
    config = configured(f"recipe={'ssd_resnet18' if detection else 'resnet50'}", f"data={data}", *root)
    built = instantiate(config.data)
    assert isinstance(built, RecipeDataModule)
    assert built.task == instantiate(config.recipe.task).name
    assert config.recipe.module.num_classes == built.num_classes
    assert config.recipe.module.image_size == built.image_size


def test_an_experiment_chooses_recipe_and_data(configured) -> None:
    config = configured("experiment=own", "data.root=somewhere", "data.categories=[person]")
    assert config.recipe.name == "ssd_resnet18"
    assert config.recipe.module.image_size == 96
    assert instantiate(config.data).categories == ["person"]


def test_the_command_line_has_the_last_word(configured) -> None:
    config = configured("experiment=own", "data=penn_fudan", "data.root=somewhere")
    assert isinstance(instantiate(config.data), boxes.PennFudanDataModule)


def test_hyperparameters_are_plain_types(configured) -> None:
    built = instantiate(configured("recipe=ssd_resnet18").recipe.module)
    assert type(built.hparams["scales"]) is list
    assert type(built.hparams["aspect_ratios"][0]) is list
