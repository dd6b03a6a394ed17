"""A fit that was stopped and resumed ends like one that never was."""

from __future__ import annotations

import copy
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from lightning_compress import (
    Compression,
    CoreMLExport,
    DKMPalettization,
    LinearQuantization,
    MagnitudePruning,
)
from lightning_compress.errors import ConfigurationError

METHODS = {
    "pruning": lambda: [
        MagnitudePruning(target_sparsity=0.89, scheduler={"begin_step": 0.1, "end_step": 0.7})
    ],
    "pruning_n_m": lambda: [MagnitudePruning(n_m_ratio=[3, 4], module_name_configs={"features.0": None})],
    "palettization": lambda: [DKMPalettization(n_bits=2)],
    "palettization_milestone": lambda: [
        DKMPalettization(n_bits=4, milestone=0.5, enable_per_channel_scale=True)
    ],
    "palettization_groups": lambda: [
        DKMPalettization(
            n_bits=2, granularity="per_grouped_channel", group_size=8, module_name_configs={"head": None}
        )
    ],
    "weights": lambda: [LinearQuantization(activation_dtype="float32", milestones=[0, 0.2, 0.6, 0.7])],
    "weights_and_activations": lambda: [LinearQuantization(milestones=[0, 0.2, 0.4, 0.45])],
    "learnable": lambda: [LinearQuantization(algorithm="learnable", milestones=[0, 0.1, 0.2, 0.8])],
    "pruning_and_palettization": lambda: [
        MagnitudePruning(scheduler={"begin_step": 0.1, "end_step": 0.7}),
        DKMPalettization(n_bits=2),
    ],
    "pruning_and_quantization": lambda: [
        MagnitudePruning(scheduler={"begin_step": 0.1, "end_step": 0.7}),
        LinearQuantization(milestones=[0, 0.2, 0.6, 0.7]),
    ],
}


@pytest.fixture
def ordered_data(digit_data):
    """Batches whose order follows from the epoch alone, as a distributed sampler's does."""

    def train_dataloader() -> DataLoader[list[Tensor]]:
        sampler = DistributedSampler(digit_data.train_set, num_replicas=1, rank=0, seed=3)
        return DataLoader(digit_data.train_set, batch_size=32, sampler=sampler)

    digit_data.train_dataloader = train_dataloader
    return digit_data


class StopAfter(L.Callback):
    """Ends the process's interest in a fit after an epoch, as a kill would."""

    class KilledError(RuntimeError):
        pass

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            raise self.KilledError


# Lightning names each callback of the checkpoint that the resuming Trainer lacks.
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")


@pytest.mark.parametrize(
    "stop", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_resumed_fit_ends_with_the_same_package(
    digit_module, ordered_data, make_trainer, tmp_path, name, stop
):
    fresh = copy.deepcopy(digit_module)

    def package(path: Path) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in path.rglob("weight.bin")}

    straight = Compression(*METHODS[name](), export=CoreMLExport(tmp_path / "straight.mlpackage"))
    make_trainer(straight, max_epochs=4).fit(digit_module, datamodule=ordered_data)

    stopped = Compression(*METHODS[name](), export=CoreMLExport(tmp_path / "resumed.mlpackage"))
    saving = ModelCheckpoint(dirpath=tmp_path / "checkpoints", save_last=True)
    with pytest.raises(StopAfter.KilledError):
        make_trainer(stopped, saving, StopAfter(stop), max_epochs=4, enable_checkpointing=True).fit(
            copy.deepcopy(fresh), datamodule=ordered_data
        )

    resumed_module = copy.deepcopy(fresh)
    resumed = Compression(*METHODS[name](), export=CoreMLExport(tmp_path / "resumed.mlpackage"))
    trainer = make_trainer(resumed, max_epochs=4)
    trainer.fit(
        resumed_module, datamodule=ordered_data, ckpt_path=str(tmp_path / "checkpoints" / "last.ckpt")
    )

    expected, actual = digit_module.state_dict(), resumed_module.state_dict()
    assert expected.keys() == actual.keys()
    different = [key for key in expected if not torch.equal(expected[key], actual[key])]
    assert not different
    assert package(tmp_path / "straight.mlpackage") == package(tmp_path / "resumed.mlpackage")
    held = {id(parameter) for group in trainer.optimizers[0].param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in resumed_module.parameters()}


def test_resuming_with_another_compression_says_what_differs(
    digit_module, ordered_data, make_trainer, tmp_path
):
    saving = ModelCheckpoint(dirpath=tmp_path, save_last=True)
    make_trainer(
        Compression(DKMPalettization(n_bits=2)), saving, max_epochs=1, enable_checkpointing=True
    ).fit(digit_module, datamodule=ordered_data)
    other = Compression(DKMPalettization(n_bits=2, milestone=3))
    with pytest.raises(
        ConfigurationError, match=r"compression\[0\].global_config.milestone was None and is 3"
    ):
        make_trainer(other).fit(
            type(digit_module)(), datamodule=ordered_data, ckpt_path=str(tmp_path / "last.ckpt")
        )


def test_a_checkpoint_is_tested_in_the_same_process_and_in_a_fresh_one(
    digit_module, ordered_data, make_trainer, tmp_path
):
    saving = ModelCheckpoint(dirpath=tmp_path, save_last=True, monitor="accuracy", mode="max")
    trainer = make_trainer(
        Compression(DKMPalettization(n_bits=2)), saving, max_epochs=2, enable_checkpointing=True
    )
    trainer.fit(digit_module, datamodule=ordered_data)
    path = str(tmp_path / "last.ckpt")
    same = trainer.test(digit_module, datamodule=ordered_data, ckpt_path=path, verbose=False)
    fresh = make_trainer(Compression(DKMPalettization(n_bits=2))).test(
        type(digit_module)(), datamodule=ordered_data, ckpt_path=path, verbose=False
    )
    assert same == fresh
    assert trainer.test(ckpt_path="best", datamodule=ordered_data, verbose=False)
