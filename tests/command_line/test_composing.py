"""What is unknown in a command's words is answered with the nearest name."""

from __future__ import annotations

import pytest

from lightning_compress.command_line.composing import compose_command, leaves
from lightning_compress.errors import ConfigurationError


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("train", ["compresion=none"], "the key compresion is unknown; did you mean compression"),
        (
            "train",
            ["compression=palettize_2bits"],
            "compression=palettize_2bits is unknown; did you mean 'palettize_2bit'",
        ),
        ("train", ["data=resnet50"], r"data=resnet50 is unknown\. There is recipe=resnet50"),
        (
            "train",
            ["recipe=5"],
            "names no choice of recipe; give recipe=… with one of module, resnet50, segmentation, ssd_resnet18",
        ),
        ("train", ["logger=null"], "with one of csv, none, tensorboard"),
        ("train", ["~recipe"], "names no choice of recipe"),
        (
            "train",
            ["float_fit.trainer.max_step=3"],
            r"did you mean float_fit\.trainer\.max_steps\? Valid in float_fit\.trainer",
        ),
        ("train", ["n_bits=3"], r"did you mean compression\.methods\.palettization\.n_bits\?"),
        (
            "train",
            ["trainer.profiler=simple"],
            r"Other arguments of Trainer are added with \+trainer\.profiler=…",
        ),
        ("train", ["seed.x=3"], "the key seed.x is unknown. seed has no keys"),
        ("train", ["data=coco,digits"], "add --multirun"),
        (
            "export",
            ["logger=csv"],
            "logger is no group of lightning-compress export; its groups are recipe, export, task, data",
        ),
        ("inspect", ["recipe=resnet50"], "recipe is no group of lightning-compress inspect; it has none"),
        ("verify", ["recipe.name=x"], "recipe.name cannot be set, because no recipe is chosen"),
        ("train", ["hydra.foo=3"], "Could not override 'hydra.foo'"),
    ],
)
def test_an_unknown_name_is_answered_with_what_is_valid(command, words, message):
    with pytest.raises(ConfigurationError, match=message):
        compose_command(command, words)


def test_what_is_added_on_purpose_is_not_refused():
    config = compose_command("train", ["+trainer.profiler=simple", "recipe=resnet50"]).config
    assert config.trainer.profiler == "simple"


def test_keys_that_are_numbers_are_walked_as_others():
    words = ["compression.distillation={loss:{0:soft_labels,1:squared_error}}"]
    found = {key: (node, name) for key, node, name in leaves(compose_command("train", words).config)}
    for place, loss in enumerate(("soft_labels", "squared_error")):
        node, name = found[f"compression.distillation.loss.{place}"]
        assert node[name] == loss


def test_a_composition_knows_what_was_chosen_and_what_there_was_to_choose():
    composition = compose_command("train", ["recipe=resnet50", "seed=3"])
    assert composition.choices["recipe"] == "resnet50"
    assert composition.choices["experiment"] is None
    assert set(composition.options["recipe"]) == {"module", "resnet50", "segmentation", "ssd_resnet18"}
    assert (composition.config.seed, composition.unchanged.seed) == (3, 1)
    assert not any(key.startswith("hydra.") for key, _, _ in leaves(composition.config))


LENGTHS = [
    (["recipe=resnet50"], (10, -1)),
    (["recipe=resnet50", "float_fit.trainer.max_steps=7"], (-1, 7)),
    (["recipe=resnet50", "float_fit.trainer.max_epochs=3"], (3, -1)),
    ([], (None, 300)),
    (["float_fit.trainer.max_epochs=3"], (3, -1)),
    (["float_fit.trainer.max_steps=7"], (None, 7)),
    (["float_fit.trainer.max_steps=7", "float_fit.trainer.max_epochs=3"], (3, 7)),
    (["experiment=coco_persons_ssd_palettize_2bit", "data.root=x"], (60, -1)),
    (["experiment=coco_persons_ssd_palettize_2bit", "data.root=x", "float_fit.trainer.max_steps=7"], (-1, 7)),
    (["experiment=pedestrians_ssd_palettize_2bit", "data.root=x", "float_fit.trainer.max_epochs=3"], (3, -1)),
]


@pytest.mark.parametrize(("words", "lengths"), LENGTHS)
def test_a_length_that_is_given_takes_the_place_of_the_other(words, lengths):
    trainer = compose_command("train", words).config.float_fit.trainer
    assert (trainer.max_epochs, trainer.max_steps) == lengths
