"""The job of `lightning-compress train`, on real data and with every shipped configuration."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image

from lightning_compress import Compression, CoreMLExport, Distillation
from lightning_compress.commands.train import TrainingJob
from lightning_compress.errors import CompressionError, ConfigurationError, DataError
from lightning_compress.methods import Method
from lightning_compress.package import inspect
from tests.commands.own import WORDS as OWN_WORDS
from tests.commands.tiny import WORDS as TINY_WORDS

CONF = Path(__import__("lightning_compress.conf", fromlist=["conf"]).__file__).parent

TINY_DETECTION = [
    "data.train_images=8",
    "data.val_images=4",
    "data.image_size=64",
    "data.batch_size=4",
    "callbacks.progress_bar=null",
    "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
]


_METHODS = {"none": 0, "prune_50_palettize_4bit": 2, "palettize_4bit_a8": 2}
"""How many methods a compression has, where that is not one."""


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def test_the_groups_of_the_contract_are_shipped():
    assert set(names("compression")) == {
        "none",
        "prune_75",
        "prune_75_global",
        "palettize_4bit",
        "palettize_4bit_a8",
        "palettize_2bit",
        "palettize_1bit",
        "palettize_vector_2bit",
        "palettize_vector_1bit",
        "quantize_w8",
        "quantize_w8a8",
        "prune_50_palettize_4bit",
        "sensitive_palettize_4bit",
        "gptq_palettize_4bit",
        "gptq_w4",
        "sparse_gpt_50",
    }
    assert set(names("trainer")) == {"default", "gpu", "mps", "ddp", "ddp_cpu"}
    assert {"resnet50", "ssd_resnet18", "segmentation", "module"} == set(names("recipe"))
    assert {"tensors", "classification", "detection", "segmentation"} == set(names("task"))
    assert set(names("data")) == {
        "coco",
        "coco_masks",
        "digits",
        "digits_detection",
        "digits_masks",
        "fashion_mnist",
        "image_folder",
        "mask_folder",
        "oxford_pet",
        "pascal_voc",
        "penn_fudan",
    }


@pytest.mark.parametrize("name", names("compression"))
def test_each_compression_is_instantiated(configure, name, tmp_path):
    config = configure(f"compression={name}")
    methods = list(instantiate(config.compression.methods, _convert_="all").values())
    assert all(isinstance(method, Method) for method in methods)
    assert len(Compression(*methods).methods) == _METHODS.get(name, 1)
    assert config.compression.name == name
    assert config.compression.module == "model"


@pytest.mark.parametrize(
    "name", [name for name in names("compression") if name.startswith(("pal", "pr", "quan"))]
)
def test_each_compression_that_is_trained_takes_a_teacher(configure, name):
    assert configure(f"compression={name}").compression.distillation is None
    config = configure(f"compression={name}", "compression.distillation={loss:cosine,weight:0.5,modules:[a]}")
    made = Compression(
        distillation=instantiate(config.compression.distillation, _convert_="all")
    ).distillation
    assert made.describe() == Distillation("cosine", weight=0.5, modules=["a"]).describe()


def test_outputs_are_named_by_their_places_in_a_word(configure):
    config = configure("compression.distillation={loss:{0:soft_labels,1:squared_error}}")
    made = Compression(
        distillation=instantiate(config.compression.distillation, _convert_="all")
    ).distillation
    assert made.describe()["loss"] == {"0": "soft_labels", "1": "squared_error"}


@pytest.mark.parametrize("name", names("trainer"))
def test_each_trainer_is_instantiated_or_refused_for_want_of_the_hardware(configure, name, tmp_path):
    config = configure(f"trainer={name}")
    needs = {
        "gpu": torch.cuda.is_available(),
        "ddp": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not needs.get(name, True):
        with pytest.raises(Exception, match="(?i)No supported gpu|MPSAccelerator"):
            instantiate(config.trainer, logger=False, default_root_dir=str(tmp_path))
        return
    assert isinstance(instantiate(config.trainer, logger=False, default_root_dir=str(tmp_path)), L.Trainer)


@pytest.mark.parametrize("name", names("logger"))
def test_each_logger_is_instantiated(configure, name, tmp_path):
    config = configure(f"logger={name}")
    if name == "none":
        assert not config.logger
    elif name == "tensorboard":
        pytest.importorskip("tensorboard", reason="TensorBoard is optional")
        instantiate(config.logger, save_dir=str(tmp_path))
    else:
        assert instantiate(config.logger, save_dir=str(tmp_path)) is not None


def test_callbacks_and_export_are_instantiated(configure, tmp_path):
    config = configure()
    assert all(isinstance(instantiate(entry), L.Callback) for entry in config.callbacks.values())
    assert isinstance(instantiate(config.export, path=str(tmp_path / "net.mlpackage")), CoreMLExport)


def test_an_application_of_ones_own_takes_the_callback_from_the_groups(tmp_path):
    from hydra import compose, initialize_config_dir

    (tmp_path / "config.yaml").write_text(
        "defaults:\n  - compression: prune_50_palettize_4bit\n  - export: default\n"
        "  - callbacks: compression\n  - _self_\n"
        "compression:\n  module: net\n  distillation:\n    weight: 0.5\n"
        f"export:\n  path: {tmp_path}/net.mlpackage\n"
        "hydra:\n  searchpath: [pkg://lightning_compress.conf]\n"
    )
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose("config")
    callback = instantiate(config.callbacks.compression, _convert_="all")
    assert isinstance(callback, Compression)
    assert len(callback.methods) == 2
    assert callback.module_path == "net"
    assert callback.export.path == f"{tmp_path}/net.mlpackage"
    assert callback.distillation.weight == 0.5


@pytest.mark.slow
def test_a_detector_is_drawn_to_its_float_weights_by_the_outputs_of_its_network(configure, tmp_path):
    config = configure(
        *TINY_DETECTION,
        "float_fit.trainer.max_steps=2",
        "compressed_fit.trainer.max_steps=2",
        "compression.distillation={loss:{0:soft_labels,1:squared_error},modules:[network.extra3]}",
        "post_training_bits=[]",
        "rehearse=false",
        "pictures.count=0",
    )
    assert TrainingJob(config, tmp_path).run()[-1].name == "palettize_2bit"
    assert "compression/distillation" in (tmp_path / "compressed_fit" / "metrics.csv").read_text()


@pytest.mark.slow
def test_the_main_job_trains_exports_and_compares(configure, tmp_path, capsys):
    config = configure(
        *TINY_DETECTION,
        "float_fit.trainer.max_steps=2",
        "compressed_fit.trainer.max_steps=2",
        "callbacks.checkpoint=null",
    )
    results = TrainingJob(config, tmp_path).run()
    assert [result.name for result in results] == [
        "float16",
        "post_training_6bit",
        "post_training_2bit",
        "palettize_2bit",
    ]
    written = json.loads((tmp_path / "results.json").read_text())
    keys = ["name", "package_bytes", "weight_bytes", "metric", "value", "package"]
    assert all(list(row) == keys for row in written)
    float16, six, two, trained = results
    # The heads of few weights stay dense, as coremltools leaves them.
    assert float16.package_bytes / six.package_bytes >= 2.5
    assert float16.package_bytes / two.package_bytes >= 7.5
    assert float16.package_bytes / trained.package_bytes >= 7.5
    for result in results:
        assert result.metric == "map"
        assert 0 <= result.value <= 1
        assert Path(result.package).is_dir()
        with Image.open(tmp_path / f"{result.name}.png") as picture:
            assert picture.width > 300
    table = (tmp_path / "results.md").read_text()
    assert all(result.name in table for result in results)
    layers = [layer for layer in inspect(trained.package).layers if layer.parameters > 2048]
    assert all(layer.distinct_values <= 4 for layer in layers if layer.technique == "palettized")
    assert sum(layer.technique == "palettized" for layer in layers) >= 30


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sensitive_palettize_4bit", "gptq_w4"])
def test_methods_that_are_driven_by_data_are_found_in_place_of_a_fit(configure, tmp_path, name, capsys):
    config = configure(
        *TINY_WORDS,
        f"compression={name}",
        "compression.samples=24",
        "post_training_bits=[]",
        "rehearse=false",
    )
    results = TrainingJob(config, tmp_path).run()
    assert [result.name for result in results] == ["float16", name]
    assert f"{name} by data, without a fit" in capsys.readouterr().out
    assert results[0].weight_bytes > 2.5 * results[1].weight_bytes
    assert not (tmp_path / "compressed_fit" / "checkpoints").exists()
    # A job that is gone on with takes it as it was found.
    again = TrainingJob(config, tmp_path, is_resumed=True).run()
    assert [result.value for result in again] == [result.value for result in results]


COCO = ["data.batch_size=2", "data.num_workers=0", "recipe.module.weights=null", "data.image_size=64"]

EXPERIMENTS = {
    "digits_ssd_palettize_2bit": ([*TINY_DETECTION], None),
    "coco_persons_ssd_palettize_2bit": (COCO, "coco_folder"),
    "coco_persons_ssd_palettize_vector_1bit": (COCO, "coco_folder"),
    "pedestrians_ssd_palettize_2bit": (["data.batch_size=2", "data.image_size=64"], "coco_folder"),
    "fashion_mnist_resnet50_palettize_4bit": (
        ["data.batch_size=4", "data.image_size=32"],
        "fashion_mnist_folder",
    ),
}
for imagenet in names("experiment"):
    if imagenet.startswith("imagenet"):
        EXPERIMENTS[imagenet] = (
            [
                "data.batch_size=2",
                "data.num_workers=0",
                "data.image_size=32",
                "data.num_classes=2",
                "recipe.module.weights=null",
                # One width is enough to see that the stage runs; exact k-means at 8 bits takes longest.
                "post_training_bits=[4]",
                # As few vectors as one bit takes; the first palettes of ResNet50 with 256 take longest.
                *(["compression.methods.palettization.n_bits=4"] if "vector" in imagenet else []),
            ],
            "image_folder",
        )


def test_each_experiment_is_known_here():
    assert set(EXPERIMENTS) == set(names("experiment"))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_each_experiment_runs_one_rehearsal(configure, tmp_path, request, name):
    overrides, folder = EXPERIMENTS[name]
    root = [] if folder is None else [f"data.root={request.getfixturevalue(folder)}"]
    config = configure(
        f"experiment={name}",
        *overrides,
        *root,
        "trainer.fast_dev_run=true",
        "trainer.accelerator=cpu",
        "callbacks.progress_bar=null",
        "trainer.log_every_n_steps=1",
    )
    results = TrainingJob(config, tmp_path).run()
    assert results[0].name == "float16"
    assert results[-1].name == config.compression.name


TAGGER = (*OWN_WORDS, "recipe.module._target_=tests.commands.own.Tagger")


class TestMistakes:
    def test_a_length_for_both_fits_at_once(self, configure, tmp_path):
        config = configure(*TINY_DETECTION, "+trainer.max_steps=5")
        with pytest.raises(
            ConfigurationError, match="set float_fit.trainer.max_steps and compressed_fit.trainer.max_steps"
        ):
            TrainingJob(config, tmp_path).run()

    def test_a_data_folder_that_is_missing(self, configure, tmp_path):
        config = configure("data=coco", f"data.root={tmp_path}/nowhere")
        with pytest.raises(DataError, match="nowhere"):
            TrainingJob(config, tmp_path).run()

    def test_a_schedule_longer_than_its_fit_is_told_before_the_float_fit(self, configure, tmp_path):
        config = configure(
            *TAGGER,
            "compression=prune_75",
            "compression.methods.pruning.scheduler.end_step=1000",
            "compression.methods.pruning.scheduler.begin_step=0",
        )
        with pytest.raises(ConfigurationError, match="ends at optimizer step 1000, but the fit has 4"):
            TrainingJob(config, tmp_path).run()
        assert not (tmp_path / "float16.mlpackage").exists()

    def test_a_target_too_low_is_told_before_the_float_fit(self, configure, tmp_path):
        config = configure(
            *TAGGER,
            "compression.methods.palettization.n_bits=3",
            "export.minimum_deployment_target=iOS16",
        )
        with pytest.raises(CompressionError, match="3 bits"):
            TrainingJob(config, tmp_path).run()
        assert not (tmp_path / "float16.mlpackage").exists()

    def test_float_weights_that_are_no_checkpoint(self, configure, tmp_path):
        config = configure(
            *TINY_DETECTION, f"float_fit.weights={tmp_path}/none.ckpt", "float_fit.enabled=false"
        )
        with pytest.raises(ConfigurationError, match="none.ckpt.*is no file"):
            TrainingJob(config, tmp_path).run()
