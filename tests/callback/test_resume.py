"""A fit that was stopped and resumed ends like one that never was."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from lightning_compress import (
    Compression,
    CoreMLExport,
    DKMPalettization,
    LinearQuantization,
    MagnitudePruning,
)
from lightning_compress.callback.checkpoints import compression_states
from lightning_compress.errors import ConfigurationError
from tests.faults.jobs import JOBS, Job, package_bytes, run_apart
from tests.features.cases import METHODS as CASES
from tests.features.cases import Case, Digits, equal
from tests.features.cases import make_trainer as make_case_trainer

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


QUICK = ("palettization", "pruning_and_quantization")
"""Palettes, masks and ranges; the others are slow."""


@pytest.mark.parametrize(
    "stop", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in sorted(METHODS)],
)
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


class TestWithinAnEpoch:
    """Real processes that stop at a step, and go on from a checkpoint that was written there."""

    @pytest.fixture
    def resumes(self, tmp_path):
        def run(name: str, steps: list[int]) -> dict[int, bool]:
            straight = Job(name, str(tmp_path / "straight"))
            stopped = [Job(name, str(tmp_path / f"stop{step}"), stop_after=step) for step in steps]
            resumed = [dataclasses.replace(job, stop_after=None) for job in stopped]
            codes = run_apart(straight, *stopped, *resumed)
            assert codes == [[0]] + [[1]] * len(steps) + [[0]] * len(steps)
            expected = package_bytes(straight.package)
            return {
                step: package_bytes(job.package) == expected for step, job in zip(steps, resumed, strict=True)
            }

        return run

    @pytest.mark.parametrize(
        "name",
        [pytest.param(name, marks=pytest.mark.slow) for name in JOBS],
    )
    def test_a_fit_resumed_at_any_step_ends_with_the_same_package(self, resumes, name):
        assert resumes(name, [1, 4, 6]) == dict.fromkeys([1, 4, 6], True)


@pytest.mark.slow
def test_a_fit_resumed_again_and_again_counts_its_epochs_right(tmp_path):
    """Lightning 2.6 does not, after a checkpoint at the last batch of an epoch: see `fit.complete_resume`."""
    straight = Job("pruning", str(tmp_path / "straight"))
    stops = [Job("pruning", str(tmp_path / "stopped"), stop_after=step) for step in (4, 6)]
    resumed = dataclasses.replace(stops[0], stop_after=None)
    assert run_apart(straight, *stops, resumed, resumed) == [[0], [1], [1], [0], [0]]
    assert package_bytes(resumed.package) == package_bytes(straight.package)


class TestCheckpoint:
    @pytest.fixture
    def written(self, tmp_path):
        def fit(name: str) -> tuple[Case, Path]:
            case = Case(name, tmp_path)
            case.fit(ModelCheckpoint(tmp_path, save_last=True), enable_checkpointing=True)
            return case, tmp_path / "last.ckpt"

        return fit

    @pytest.mark.parametrize("name", sorted(CASES))
    def test_it_loads_with_weights_only_and_holds_plain_types(self, written, name):
        _, path = written(name)
        checkpoint = torch.load(path, weights_only=True)
        (state,) = compression_states(checkpoint)
        assert json.loads(json.dumps(state)) == state

    @pytest.mark.parametrize("name", sorted(CASES))
    def test_safetensors_can_hold_the_weights(self, written, name, tmp_path):
        case, path = written(name)
        state = torch.load(path, weights_only=True)["state_dict"]
        # Layers that share an observer share its tensors, which the format does not know.
        save_file({key: value.clone() for key, value in state.items()}, tmp_path / "weights.safetensors")
        loaded = Compression.load_from_checkpoint(path, Digits())
        prepared = loaded._require().module
        with torch.no_grad():
            for parameter in prepared.parameters():
                parameter.zero_()
        back = {
            key.removeprefix("model."): value
            for key, value in load_file(tmp_path / "weights.safetensors").items()
        }
        prepared.load_state_dict(back)
        assert equal(case.compression.finalized.state_dict(), loaded.finalize().state_dict())

    def test_another_version_of_the_state_is_refused(self, written):
        _, path = written("pruning")
        checkpoint = torch.load(path, weights_only=True)
        next(iter(checkpoint["callbacks"].values()))["compression_version"] = 7
        torch.save(checkpoint, path)
        with pytest.raises(ConfigurationError, match="of version 7; valid is 2"):
            Compression.load_from_checkpoint(path, Digits())

    def test_a_checkpoint_that_is_missing_or_something_else_is_refused(self, tmp_path):
        with pytest.raises(ConfigurationError, match="there is no checkpoint at"):
            Compression.load_from_checkpoint(tmp_path / "none.ckpt", Digits())
        (tmp_path / "text.ckpt").write_text("no checkpoint")
        with pytest.raises(ConfigurationError, match="cannot be read as a checkpoint"):
            Compression.load_from_checkpoint(tmp_path / "text.ckpt", Digits())
        torch.save({"state_dict": {}, "callbacks": {}}, tmp_path / "float.ckpt")
        with pytest.raises(ConfigurationError, match="holds no state of Compression"):
            Compression.load_from_checkpoint(tmp_path / "float.ckpt", Digits())

    def test_one_written_before_the_end_of_the_schedule_warns_when_it_is_loaded(self, tmp_path):
        case = Case("pruning", tmp_path)
        case.fit(ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1), enable_checkpointing=True)
        with pytest.warns(
            UserWarning, match="written before the compression ended: pruning stands at step 2 of 4"
        ):
            Compression.load_from_checkpoint(tmp_path / "epoch=0-step=2.ckpt", Digits())

    def test_a_best_one_from_before_the_end_of_the_schedule_is_warned_of(self, tmp_path):
        class Worsens(Digits):
            def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
                self.log("loss", float(self.trainer.global_step), batch_size=1)

        case = Case("palettization", tmp_path)
        case.compression = Compression(DKMPalettization(n_bits=2, milestone=0.8), module="model")
        saving = ModelCheckpoint(tmp_path, monitor="loss")
        with pytest.warns(
            UserWarning, match="the best checkpoint by 'loss'.*before the compression was complete"
        ):
            case.fit(saving, module=Worsens(), enable_checkpointing=True, limit_val_batches=1)

    def test_a_module_named_or_found_is_the_same_one(self, tmp_path):
        case = Case("pruning", tmp_path)
        case.fit(ModelCheckpoint(tmp_path, save_last=True), enable_checkpointing=True)
        unnamed = Case("pruning", tmp_path)
        unnamed.compression = Compression(*CASES["pruning"]())
        trainer = make_case_trainer(tmp_path, [unnamed.compression], max_epochs=4)
        trainer.fit(Digits(), ckpt_path=tmp_path / "last.ckpt")
        assert unnamed.compression.state_dict()["progress"]["steps"] == 16


def test_weights_without_compression_cannot_be_resumed_with_it(tmp_path):
    saving = ModelCheckpoint(tmp_path, save_last=True)
    make_case_trainer(tmp_path, [saving], enable_checkpointing=True, max_epochs=1).fit(Digits())
    with pytest.raises(
        ConfigurationError, match="written without Compression.*load its weights before the fit"
    ):
        make_case_trainer(tmp_path, [Compression(MagnitudePruning())]).fit(
            Digits(), ckpt_path=tmp_path / "last.ckpt"
        )


def test_another_technique_is_named_and_not_a_list_of_tensors(tmp_path):
    case = Case("pruning", tmp_path)
    case.fit(ModelCheckpoint(tmp_path, save_last=True), enable_checkpointing=True)
    with pytest.raises(
        ConfigurationError, match="technique was 'MagnitudePruning' and is 'DKMPalettization'"
    ):
        make_case_trainer(tmp_path, [Compression(DKMPalettization())]).fit(
            Digits(), ckpt_path=tmp_path / "last.ckpt"
        )


@pytest.mark.parametrize(
    "name", ["pruning + palettization", pytest.param("quantization", marks=pytest.mark.slow)]
)
def test_a_fresh_process_has_only_the_checkpoint(tmp_path, name):
    case = Case(name, tmp_path)
    case.fit(ModelCheckpoint(tmp_path, save_last=True), enable_checkpointing=True)
    torch.save(case.compression.finalized.state_dict(), tmp_path / "expected.pt")
    script = (
        "import sys, torch, lightning as L\n"
        "from lightning_compress import Compression\n"
        "from tests.features.cases import Digits, make_trainer\n"
        "from tests.features.cases import equal\n"
        "folder = sys.argv[1]\n"
        "lit = Digits()\n"
        "compression = Compression.load_from_checkpoint(folder + '/last.ckpt', lit)\n"
        "expected = torch.load(folder + '/expected.pt', weights_only=False)\n"
        "assert equal(expected, compression.finalize().state_dict())\n"
        "trainer = make_trainer(folder, [compression])\n"
        "for run in (trainer.test, trainer.validate):\n"
        "    print(run(lit, ckpt_path=folder + '/last.ckpt', verbose=False))\n"
        "print(len(trainer.predict(lit, lit.val_dataloader(), ckpt_path=folder + '/last.ckpt')))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr[-3000:]


def test_slurms_signal_writes_a_checkpoint_from_which_the_job_goes_on(tmp_path, monkeypatch):
    """Pre-emption by Lightning's own plugin; there is no scheduler here to requeue the job, which it says."""
    for key, value in {
        "SLURM_JOB_ID": "17",
        "SLURM_NTASKS": "1",
        "SLURM_JOB_NAME": "train",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_PROCID": "0",
    }.items():
        monkeypatch.setenv(key, value)

    class Preempted(Digits):
        def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
            if self.trainer.global_step == 3 and not list(tmp_path.glob("hpc_ckpt_*")):
                signal.raise_signal(signal.SIGUSR1)
                self.trainer.should_stop = True

    def fit(case: Case, module: Digits) -> L.Trainer:
        return case.fit(
            module=module, plugins=[SLURMEnvironment(auto_requeue=True)], limit_train_batches=4, max_epochs=2
        )

    first = Case("pruning + palettization", tmp_path)
    fit(first, Preempted())
    assert (tmp_path / "hpc_ckpt_1.ckpt").is_file()
    again = Case("pruning + palettization", tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "You're resuming from a checkpoint that ended before the epoch ended"
        )
        trainer = fit(again, Preempted())
    assert trainer.global_step == again.compression.state_dict()["progress"]["steps"] == 8
    again.check()
