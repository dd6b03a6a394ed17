"""Checkpoints hold no teacher, and a fit goes on from them towards the same one alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_compress import Compression, Distillation
from lightning_compress.callback.checkpoints import compression_states
from lightning_compress.errors import ConfigurationError
from tests.callback.distillation.fits import Fixed, compression, fit

pytestmark = [
    pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning"),
    # Lightning names each callback of the checkpoint that the resuming Trainer lacks.
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning"),
]

OPTIONS: dict[str, Any] = {"weight": 1.0, "modules": ["features.4"], "warm_up": 0.75}


def saved(folder: Path, options: dict[str, Any] | None, epochs: int = 2) -> tuple[Fixed, Path]:
    """A module after a fit of some epochs out of four, and its checkpoint."""
    module = Fixed()
    saving = ModelCheckpoint(folder, save_last=True)

    class Stop(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if trainer.current_epoch == epochs:
                raise InterruptedError

    callback = compression(None if options is None else Distillation(**options))
    settings: dict[str, Any] = {"max_epochs": 4, "enable_checkpointing": True}
    if epochs == 4:
        fit(folder, module, callback, saving, **settings)
    else:
        with pytest.raises(InterruptedError):
            fit(folder, module, callback, saving, Stop(), **settings)
    return module, folder / "last.ckpt"


def go_on(folder: Path, path: Path, module: Fixed, options: dict[str, Any] | None) -> None:
    """Resume a fit of four epochs as a fresh process does."""
    callback = compression(None if options is None else Distillation(**options))
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=4,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=folder,
        callbacks=[callback],
    )
    trainer.fit(module, ckpt_path=path, weights_only=True)


def tensors(value: Any, path: str = "") -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors in a checkpoint, by where they are."""
    if isinstance(value, Tensor):
        return {path: tuple(value.shape)}
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in tensors(part, f"{path}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, part in enumerate(value) for k, v in tensors(part, f"{path}/{i}").items()}
    return {}


def test_a_resumed_fit_ends_like_one_that_never_stopped(tmp_path):
    straight, _ = saved(tmp_path / "straight", OPTIONS, epochs=4)
    _, path = saved(tmp_path / "stopped", OPTIONS)
    resumed = Fixed()
    go_on(tmp_path, path, resumed, OPTIONS)
    expected, actual = straight.state_dict(), resumed.state_dict()
    assert expected.keys() == actual.keys()
    assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []
    plain, _ = saved(tmp_path / "plain", None, epochs=4)
    assert not torch.equal(plain.model.head.weight, resumed.model.head.weight)


def test_a_checkpoint_holds_the_tensors_that_it_holds_without_a_teacher(tmp_path):
    _, taught = saved(tmp_path / "taught", OPTIONS)
    _, plain = saved(tmp_path / "plain", None)
    # All of it is in plain types.
    checkpoint = torch.load(taught, weights_only=True)
    assert tensors(checkpoint) == tensors(torch.load(plain, weights_only=True))
    (state,) = compression_states(checkpoint)
    assert state["distillation"]["weight"] == 1.0
    assert len(state["distillation"]["teacher"]) == 32


def other_weights() -> Fixed:
    module = Fixed()
    with torch.no_grad():
        module.model.head.bias[0] += 1e-7
    return module


@pytest.mark.parametrize(
    ("options", "make", "message"),
    [
        (
            OPTIONS,
            other_weights,
            "towards a teacher with the digest .*load the same float weights as at the beginning",
        ),
        ({**OPTIONS, "weight": 2.0}, Fixed, "distillation.weight was 1.0 and is 2.0"),
        (
            {**OPTIONS, "modules": []},
            Fixed,
            "distillation.modules was {'features.4': 'squared_error'} and is {}",
        ),
        (None, Fixed, "was written with distillation, and this fit is without one"),
    ],
)
def test_a_fit_does_not_go_on_with_another_distillation(tmp_path, options, make, message):
    _, path = saved(tmp_path, OPTIONS, epochs=1)
    with pytest.raises(ConfigurationError, match=message):
        go_on(tmp_path, path, make(), options)


def test_a_fit_without_a_teacher_does_not_go_on_with_one(tmp_path):
    _, path = saved(tmp_path, None, epochs=1)
    with pytest.raises(
        ConfigurationError, match="was written without distillation, and this fit is with one"
    ):
        go_on(tmp_path, path, Fixed(), OPTIONS)


def test_the_float_weights_may_be_given_as_the_teacher(tmp_path):
    straight, _ = saved(tmp_path / "straight", OPTIONS, epochs=4)
    _, path = saved(tmp_path / "stopped", OPTIONS)
    resumed = other_weights()
    go_on(tmp_path, path, resumed, {**OPTIONS, "teacher": Fixed().model})
    assert torch.equal(straight.model.head.weight, resumed.model.head.weight)


def test_a_checkpoint_is_tested_and_loaded_without_its_teacher(tmp_path):
    _, path = saved(tmp_path, OPTIONS, epochs=1)
    loaded = Compression.load_from_checkpoint(path, other_weights())
    assert loaded.distillation is None
    assert loaded.finalize() is loaded.finalized


def test_a_module_that_was_prepared_before_the_fit_has_no_float_weights_to_be_drawn_to(tmp_path):
    _, path = saved(tmp_path, OPTIONS, epochs=1)
    callback = Compression.load_from_checkpoint(path, module := Fixed())
    callback.distillation = Distillation()
    with pytest.raises(ConfigurationError, match=r"'model' was prepared for compression before this fit"):
        fit(tmp_path, module, callback)
    callback.distillation = Distillation(teacher=Fixed().model)
    fit(tmp_path, module, callback)
    assert callback.state_dict()["distillation"]["teacher"] is not None
