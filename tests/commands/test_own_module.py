"""`recipe=module`: any LightningModule with any LightningDataModule."""

from __future__ import annotations

import json

import lightning as L
import pytest
import torch

from lightning_compress.commands import export, train, verify
from lightning_compress.commands.recipe import Recipe
from lightning_compress.errors import CompressionError, ConfigurationError
from lightning_compress.package.inspection import inspect
from tests.commands import own
from tests.commands.own import WORDS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning"),
]


def words(module: str, *more: str) -> list[str]:
    return [*WORDS, f"recipe.module._target_=tests.commands.own.{module}", *more]


@pytest.fixture(scope="module")
def job(configure, tmp_path_factory):
    """A finished job of a module, a part of which stands outside of the network."""
    folder = tmp_path_factory.mktemp("own")
    config = configure(
        *words("Scaled", "recipe.network=network", "task=classification"), f"hydra.run.dir={folder}"
    )
    return folder, train.TrainingJob(config, folder).run()


def test_each_package_is_measured_by_the_modules_own_validation(job):
    folder, results = job
    assert [result.name for result in results] == ["float16", "post_training_2bit", "palettize_2bit"]
    module = own.Scaled()
    module.load_state_dict(torch.load(folder / "float_fit" / "weights.ckpt", weights_only=True)["state_dict"])
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    (found,) = trainer.validate(module, own.Digits(), verbose=False)
    assert results[0].value == pytest.approx(found["val/f1"], abs=0.01)


def test_what_stands_outside_of_the_network_is_that_of_the_fit(job):
    folder, _ = job
    kept = torch.load(folder / "compressed_fit" / "outside_of_network.pt", weights_only=True)["state_dict"]
    assert not [name for name in kept if name.startswith("network.")]
    before = torch.load(folder / "float_fit" / "weights.ckpt", weights_only=True)["state_dict"]
    assert not torch.equal(kept["temperature.weight"], before["temperature.weight"])


def test_verify_and_export_take_it_too(job, configure, tmp_path):
    folder, _ = job
    checkpoint = folder / "compressed_fit" / "checkpoints" / "last.ckpt"
    own_words = (
        "recipe=module",
        "recipe.module._target_=tests.commands.own.Scaled",
        "data._target_=tests.commands.own.Digits",
        "recipe.metric=val/f1",
        "recipe.network=network",
        "task=classification",
    )
    result = tmp_path / "result.json"
    verify.run(
        configure(
            *own_words, f"package={folder / 'palettize_2bit.mlpackage'}", f"checkpoint={checkpoint}", f"json={result}",
            "metric_tolerance=0.02", command="verify",
        )
    )  # fmt: skip
    verified = json.loads(result.read_text())
    assert verified["passed"]
    assert verified["metric"]["name"] == "val/f1"
    exported = export.run(
        configure(*own_words, f"ckpt={checkpoint}", f"path={tmp_path / 'a.mlpackage'}", command="export")
    )
    layers = inspect(folder / "palettize_2bit.mlpackage").layers
    assert [layer.bits for layer in exported.report.layers] == [layer.bits for layer in layers]


def test_the_only_child_with_parameters_is_the_network(configure):
    recipe = Recipe(configure(*words("Tagger")))
    assert recipe.network_path(recipe.module()) == "model"
    several = Recipe(configure(*words("Scaled")))
    with pytest.raises(ConfigurationError, match=r"Those of Scaled: network, temperature"):
        several.module()


MISTAKES = {
    "WithoutExample": r"WithoutExample has no example_input_array.*set it in __init__",
    "WithoutLoss": r"training_step of WithoutLoss returns nothing",
    "ReachesPast": r"validation asks the network for its part 0, which a package cannot give",
    "ReachesByName": r"validation calls 'first', which is 'model.0' of the network",
    "WithoutValidation": r"WithoutValidation cannot be measured: it needs a validation_step",
}


@pytest.mark.parametrize("module", MISTAKES)
def test_a_module_that_cannot_be_compressed_is_told_before_the_first_step(module, configure, tmp_path):
    config = configure(*words(module, f"hydra.run.dir={tmp_path}"))
    with pytest.raises(CompressionError, match=MISTAKES[module]):
        train.TrainingJob(config, tmp_path).run()
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            "recipe.metric=train/loss",
            r"'train/loss' is not among what Tagger logs.*Logged are val/f1, val/loss",
        ),
        ("recipe.network=modle", r"no module of Tagger; did you mean 'model'\?"),
        ("recipe.module._target_=torch.nn.Identity", r"makes a Identity; a LightningModule is needed"),
        ("data._target_=torch.nn.Identity", r"makes a Identity; a LightningDataModule is needed"),
    ],
)
def test_a_wrong_key_is_told_before_the_first_step(changed, told, configure, tmp_path):
    config = configure(*words("Tagger", changed, f"hydra.run.dir={tmp_path}"))
    with pytest.raises(ConfigurationError, match=told):
        train.TrainingJob(config, tmp_path).run()


@pytest.mark.parametrize("form", ["checkpoint", "state dict", "network", "prefixed network", "safetensors"])
def test_weights_are_taken_from_whatever_holds_them(form, configure, tmp_path):
    trained = own.Tagger()
    file = tmp_path / "weights.pt"
    network = trained.model.state_dict()
    if form == "safetensors":
        from safetensors.torch import save_file

        file = tmp_path / "weights.safetensors"
        save_file(network, file)
    else:
        contents = {
            "checkpoint": {"state_dict": trained.state_dict(), "epoch": 3},
            "state dict": trained.state_dict(),
            "network": network,
            "prefixed network": {"model": {f"module.{name}": value for name, value in network.items()}},
        }
        torch.save(contents[form], file)
    config = configure(*words("Tagger", "float_fit.enabled=false", f"float_fit.weights='{file}'"))
    module = train.TrainingJob(config, tmp_path).building.float_module()
    assert torch.equal(module.model[0].weight, trained.model[0].weight)


def test_weights_of_another_network_are_told(configure, tmp_path):
    torch.save(own.Tagger(width=8).state_dict(), tmp_path / "other.ckpt")
    config = configure(*words("Tagger", f"float_fit.weights='{tmp_path / 'other.ckpt'}'"))
    with pytest.raises(
        ConfigurationError, match=r"fits neither Tagger \(3 of another shape.*nor its network 'model'"
    ):
        train.TrainingJob(config, tmp_path).building.float_module()
