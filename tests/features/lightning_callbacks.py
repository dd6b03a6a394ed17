"""Lightning's own callbacks beside a compression."""

from __future__ import annotations

import warnings

import lightning as L
import torch
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import Tensor

from tests.features.cases import STEPS, Case, Digits, steps_of, weight
from tests.features.registry import Features

feature = Features()


@feature("`WeightAveraging` and `EMAWeightAveraging`")
def weight_averaging(case: Case) -> None:
    for callback in (WeightAveraging(), EMAWeightAveraging(decay=0.9), WeightAveraging(use_buffers=False)):
        fresh = Case(case.method, case.folder)
        last: list[Tensor] = []
        module = Digits()
        module.on_train_batch_end = lambda *_, last=last, fresh=fresh: last.append(weight(fresh).clone())
        fresh.fit(callback, module=module, limit_val_batches=1, num_sanity_val_steps=1)
        assert not torch.equal(last[-1], weight(fresh))
        # Masks and palettes are those of the training, so the averaged weights are compressed as asked.
        fresh.check()


@feature("`StochasticWeightAveraging`")
def stochastic_weight_averaging(case: Case) -> None:
    case.fit(StochasticWeightAveraging(swa_lrs=1e-3, swa_epoch_start=0.5))
    case.check()


@feature("`ModelCheckpoint`, best and last")
def model_checkpoint(case: Case) -> None:
    saving = ModelCheckpoint(case.folder, monitor="loss", save_last=True)
    trainer = case.fit(saving, enable_checkpointing=True, limit_val_batches=1)
    case.check()
    for path in ("best", "last"):
        assert trainer.test(ckpt_path=path, verbose=False)


@feature("`EarlyStopping`")
def early_stopping(case: Case) -> None:
    stopping = EarlyStopping("loss", patience=0, stopping_threshold=1e9)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = case.fit(stopping, limit_val_batches=1)
    assert trainer.global_step == STEPS // 2
    unfinished = [
        str(entry.message) for entry in caught if "before the compression did" in str(entry.message)
    ]
    assert bool(unfinished) == bool(case.compression._require().unfinished())


@feature("`LearningRateFinder`")
def learning_rate_finder(case: Case) -> None:
    module = Digits()
    finder = LearningRateFinder(num_training_steps=6, early_stop_threshold=None, attr_name="learning_rate")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Failed to compute suggestion")
        trainer = case.fit(
            finder, module=module, max_epochs=4, limit_train_batches=2, enable_checkpointing=False
        )
    assert steps_of(case) == STEPS
    assert held_by(trainer) == {id(parameter) for parameter in module.parameters() if parameter.requires_grad}
    case.check()


@feature("`BatchSizeFinder`")
def batch_size_finder(case: Case) -> None:
    module = Digits()
    module.batch_size = 8
    trainer = case.fit(
        BatchSizeFinder(max_trials=2, init_val=8, steps_per_trial=2, batch_arg_name="batch_size"),
        module=module,
    )
    assert module.batch_size > 8
    assert steps_of(case) == trainer.global_step == trainer.estimated_stepping_batches
    assert held_by(trainer) == {id(parameter) for parameter in module.parameters() if parameter.requires_grad}
    case.check()


def held_by(trainer: L.Trainer) -> set[int]:
    """The parameters in the optimizer, by identity."""
    return {id(parameter) for group in trainer.optimizers[0].param_groups for parameter in group["params"]}
