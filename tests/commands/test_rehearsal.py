"""What a job finds out before its first step."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import pytest
import torch

from lightning_compress.commands.train import TrainingJob
from lightning_compress.errors import CompressionError, ConfigurationError
from tests.commands.tiny import WORDS, Classifier


@pytest.fixture
def refusal(configure, tmp_path):
    """What a job is refused for; no step was trained and nothing was exported."""

    def run(*words: str, error: type[CompressionError] = ConfigurationError) -> str:
        job = TrainingJob(configure(*WORDS, *words), tmp_path / "job")
        with pytest.raises(error) as refused:
            job.run()
        assert job.results == []
        assert not list((tmp_path / "job").rglob("*.ckpt"))
        assert not list((tmp_path / "job").rglob("*.mlpackage"))
        return str(refused.value)

    return run


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """What a float fit leaves, without having trained."""
    path = tmp_path / "float.ckpt"
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(Classifier(10, 32))
    trainer.save_checkpoint(path, weights_only=True)
    return path


@pytest.fixture
def failing_conversion() -> Iterator[None]:
    """coremltools leaves a folder open where a conversion fails; it must not be found in a later test."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Implicitly cleaning up", ResourceWarning)
        yield
        gc.collect()


def truncated(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:2000])
    return path


def test_widths_that_are_none(refusal):
    assert "post_training_bits=[5]: palettize=5 is no width" in refusal("post_training_bits=[5]")
    assert "post_training_bits=4 is no list" in refusal("post_training_bits=4")


def test_a_teacher_that_cannot_be_followed(refusal):
    told = refusal("compression.distillation={modules:[features.9]}", error=CompressionError)
    assert "modules of Distillation: 'features.9' matches no module" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["compression.distillation={wieght:1}"],
            "distillation has no argument 'wieght'; did you mean 'weight'",
        ),
        (
            ["compression=gptq_w4", "+compression.distillation={weight:1}"],
            "gptq_w4 is found from data without",
        ),
    ],
)
def test_a_teacher_without_a_fit_or_with_an_argument_that_is_unknown(configure, tmp_path, words, message):
    with pytest.raises(ConfigurationError, match=message):
        TrainingJob(configure(*WORDS, *words), tmp_path)


def test_a_network_that_is_no_module_with_the_nearest_name(refusal):
    told = refusal("recipe.network=modell")
    assert "recipe.network='modell' is no module of Classifier; did you mean 'model'?" in told


@pytest.mark.parametrize("key", ["float_fit.ckpt_path", "compressed_fit.ckpt_path", "float_fit.weights"])
def test_a_file_to_begin_with_that_is_missing(refusal, key):
    told = refusal(f"{key}=nowhere.ckpt")
    assert key in told
    assert "nowhere.ckpt" in told


@pytest.mark.parametrize("key", ["float_fit.ckpt_path", "compressed_fit.ckpt_path", "float_fit.weights"])
def test_a_file_to_begin_with_that_was_cut_short(refusal, checkpoint, tmp_path, key):
    path = truncated(checkpoint).rename(tmp_path / "short.bin")
    told = refusal(f"{key}={path}")
    assert key in told
    assert "short.bin" in told


def test_weights_alone_that_a_fit_should_go_on_from(refusal, checkpoint, tmp_path):
    path = checkpoint.rename(tmp_path / "weights.bin")
    assert "holds weights alone" in refusal(f"float_fit.ckpt_path={path}")


def test_weights_of_another_network(refusal, tmp_path):
    path = tmp_path / "other.bin"
    torch.save({"state_dict": {"model.0.weight": torch.zeros(3)}}, path)
    told = refusal(f"float_fit.weights={path}")
    assert "fits neither Classifier (" in told
    assert "missing: model.network.0" in told


def test_a_metric_that_is_not_logged(refusal):
    told = refusal("recipe.metric=val/acuracy")
    assert "recipe.metric='val/acuracy' is not among what Classifier logs" in told
    assert "did you mean 'val/accuracy'" in told


@pytest.mark.usefixtures("failing_conversion")
def test_a_network_that_no_package_can_hold(refusal):
    refusal("recipe.module._target_=tests.commands.tiny.Unexportable", error=CompressionError)


@pytest.mark.usefixtures("failing_conversion")
def test_without_a_rehearsal_nothing_is_converted_before_the_first_step(configure, tmp_path, capsys):
    config = configure(
        *WORDS,
        "recipe.module._target_=tests.commands.tiny.Unexportable",
        "rehearse=false",
        "compression=none",
    )
    with pytest.raises(CompressionError):
        TrainingJob(config, tmp_path).run()
    assert (tmp_path / "float_fit" / "weights.ckpt").exists()


@pytest.mark.slow
def test_a_checkpoint_that_was_made_with_another_compression(configure, tmp_path):
    first = configure(*WORDS, "compression=palettize_4bit", "post_training_bits=[]")
    TrainingJob(first, tmp_path / "first").run()
    path = tmp_path / "first" / "compressed_fit" / "checkpoints" / "last.ckpt"
    second = configure(*WORDS, f"compressed_fit.ckpt_path='{path}'")
    with pytest.raises(ConfigurationError, match="compressed_fit.ckpt_path=.*n_bits"):
        TrainingJob(second, tmp_path / "second").run()
    assert not list((tmp_path / "second").rglob("*.ckpt"))
