from __future__ import annotations

import json

import pytest

from lightning_compress.commands.training_record import training_record


@pytest.mark.parametrize("root", ["/home/jane/secret/fashion", "~/secret/fashion", "~secret/fashion"])
def test_the_metadata_says_how_a_package_was_trained_and_names_no_folder_of_the_machine(configure, root):
    config = configure("recipe=resnet50", "data=fashion_mnist", f"data.root='{root}'", "seed=7")
    record = training_record(config)
    assert record["seed"] == 7
    assert record["data"]["root"] == "fashion"
    assert record["recipe"]["module"]["optimizer"] == "adamw"
    assert "secret" not in json.dumps(record)
