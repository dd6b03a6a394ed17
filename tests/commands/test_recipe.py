from __future__ import annotations

import json
from pathlib import Path

import lightning as L
import pytest

from lightning_compress.commands.recipe import TRAINING, recipe_export


class Classes(L.LightningDataModule):
    class_names = ("shirt", "shoe")


@pytest.mark.parametrize("root", ["/home/jane/secret/fashion", "~/secret/fashion", "~secret/fashion"])
def test_the_metadata_says_how_a_package_was_trained_and_names_no_folder_of_the_machine(configure, root):
    config = configure("recipe=resnet50", "data=fashion_mnist", f"data.root='{root}'", "seed=7")
    export = recipe_export(config, Classes(), Path("net.mlpackage"))
    training = json.loads(export.user_metadata[TRAINING])
    assert training["seed"] == 7
    assert training["data"]["root"] == "fashion"
    assert training["recipe"]["module"]["optimizer"] == "adamw"
    assert "secret" not in json.dumps(export.user_metadata)
