"""Which of our calls falls where among Lightning's: an executable specification of the order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightning_compress import Compression, CoreMLExport, DKMPalettization
from lightning_compress.methods import PreparedModule
from tests.features.cases import Digits, make_trainer

# Lightning names each callback of the checkpoint that the resuming Trainer lacks.
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")


class Recorded(Compression):
    """Writes down when the module is prepared, stepped, finalized and exported."""

    def __init__(self, calls: list[str], export: CoreMLExport | None = None) -> None:
        super().__init__(DKMPalettization(n_bits=2), module="model", export=export)
        self.calls = calls

    def _prepare(self, pl_module: L.LightningModule) -> None:
        fresh = self._prepared is None
        super()._prepare(pl_module)
        if fresh:
            self.calls.append("PREPARE")
            record(self._require(), self.calls)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.calls.append("LOAD PROGRESS")
        super().load_state_dict(state_dict)

    def state_dict(self) -> dict[str, Any]:
        self.calls.append("SAVE PROGRESS")
        return super().state_dict()


def record(prepared: PreparedModule, calls: list[str]) -> None:
    """Write down the calls of a prepared module's methods before they are made."""
    for name in ("resolve_schedule", "start_training", "step", "finalize"):
        method = getattr(prepared, name)

        def called(*arguments: Any, name: str = name, method: Any = method, **settings: Any) -> Any:
            calls.append(name.replace("_", " ").upper())
            return method(*arguments, **settings)

        setattr(prepared, name, called)


class Watching(Digits):
    """Writes down Lightning's own hooks."""

    def __init__(self, calls: list[str]) -> None:
        super().__init__()
        self.__dict__["calls"] = calls

    def load_state_dict(self, *arguments: Any, **settings: Any) -> Any:
        self.calls.append("load weights")
        return super().load_state_dict(*arguments, **settings)

    def configure_optimizers(self) -> Any:
        self.calls.append("configure_optimizers")
        return super().configure_optimizers()

    def optimizer_step(self, *arguments: Any, **settings: Any) -> None:
        super().optimizer_step(*arguments, **settings)
        self.calls.append("optimizer step")


for hook in (
    "setup",
    "on_fit_start",
    "on_train_start",
    "on_validation_start",
    "on_validation_end",
    "on_test_start",
    "on_test_end",
    "on_train_end",
    "on_fit_end",
    "teardown",
):

    def watched(self: Watching, *_: Any, hook: str = hook, **__: Any) -> None:
        self.calls.append(hook)

    setattr(Watching, hook, watched)


def run(folder: Path, calls: list[str], compression: Compression, **settings: Any) -> L.Trainer:
    """A Trainer of two batches, one validation and one checkpoint."""
    defaults: dict[str, Any] = {
        "max_epochs": 1,
        "limit_train_batches": 2,
        "limit_val_batches": 1,
        "limit_test_batches": 1,
        "enable_checkpointing": True,
        "log_every_n_steps": 100,
    }
    saving = ModelCheckpoint(folder, save_last=True, save_top_k=0)
    return make_trainer(folder, [compression, saving], **{**defaults, **settings})


FIT = [
    "PREPARE",
    "setup",
    "configure_optimizers",
    "RESOLVE SCHEDULE",
    "on_fit_start",
    "RESOLVE SCHEDULE",
    "START TRAINING",
    "on_train_start",
    *["optimizer step", "STEP"] * 2,
    "on_validation_start",
    "on_validation_end",
    "SAVE PROGRESS",
    "on_train_end",
    "FINALIZE",
    "on_fit_end",
    "teardown",
]


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
class TestOrder:
    def test_of_a_fit(self, tmp_path, calls):
        run(tmp_path, calls, Recorded(calls)).fit(Watching(calls))
        assert calls == FIT

    def test_of_a_fit_with_a_sanity_check(self, tmp_path, calls):
        run(tmp_path, calls, Recorded(calls), num_sanity_val_steps=1).fit(Watching(calls))
        start = calls.index("on_fit_start")
        assert calls[start + 1 : calls.index("START TRAINING")] == [
            *["on_validation_start", "on_validation_end"],
            "RESOLVE SCHEDULE",
        ]

    def test_of_a_resumed_fit(self, tmp_path, calls):
        run(tmp_path, calls, Recorded(calls)).fit(Watching(calls))
        calls.clear()
        run(tmp_path, calls, Recorded(calls), max_epochs=2).fit(
            Watching(calls), ckpt_path=tmp_path / "last.ckpt"
        )
        # Structure, then weights, then progress, and only then what holds the parameters.
        assert calls[: calls.index("on_train_start") + 1] == [
            "PREPARE",
            "setup",
            "load weights",
            "LOAD PROGRESS",
            "configure_optimizers",
            "on_fit_start",
            "RESOLVE SCHEDULE",
            "START TRAINING",
            "on_train_start",
        ]
        assert calls[-6:] == FIT[-6:]

    def test_of_validation_and_test_in_the_same_process(self, tmp_path, calls):
        trainer = run(tmp_path, calls, Recorded(calls))
        module = Watching(calls)
        trainer.fit(module)
        calls.clear()
        trainer.validate(module, verbose=False)
        assert calls == ["setup", "on_validation_start", "on_validation_end", "teardown"]
        calls.clear()
        trainer.test(module, ckpt_path="last", verbose=False)
        assert calls == [
            *["setup", "load weights", "LOAD PROGRESS"],
            *["on_test_start", "on_test_end", "teardown"],
        ]

    def test_of_a_test_in_a_fresh_process(self, tmp_path, calls):
        run(tmp_path, calls, Recorded(calls)).fit(Watching(calls))
        calls.clear()
        run(tmp_path, calls, Recorded(calls)).test(
            Watching(calls), ckpt_path=tmp_path / "last.ckpt", verbose=False
        )
        # Prepared because the weights that are about to be loaded are those of a prepared module.
        assert calls == [
            *["setup", "load weights", "PREPARE", "LOAD PROGRESS"],
            *["on_test_start", "on_test_end", "teardown"],
        ]

    def test_of_a_test_of_weights_without_compression(self, tmp_path, calls):
        make_trainer(tmp_path, [ModelCheckpoint(tmp_path, save_last=True)], enable_checkpointing=True).fit(
            Digits()
        )
        run(tmp_path, calls, Recorded(calls)).test(
            Watching(calls), ckpt_path=tmp_path / "last.ckpt", verbose=False
        )
        assert "PREPARE" not in calls

    def test_of_an_exception(self, tmp_path, calls):
        class Failing(Watching):
            def validation_step(self, batch: Any, batch_idx: int) -> None:
                raise RuntimeError("stopped while validating")

        module = Failing(calls)
        compression = Recorded(calls)
        with pytest.raises(RuntimeError, match="stopped while validating"):
            run(tmp_path, calls, compression).fit(module)
        # Nothing is finalized, and the module keeps no hook of ours.
        assert calls[-1] == "on_validation_start"
        assert compression.finalized is None
        assert not module._load_state_dict_pre_hooks
        assert not module.model._forward_pre_hooks


@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
def test_the_export_is_made_from_the_finalized_module_after_training(tmp_path, calls):
    def wrap(module: nn.Module) -> nn.Module:
        calls.append("EXPORT")
        return module

    export = CoreMLExport(tmp_path / "net.mlpackage", wrapper=wrap)
    run(tmp_path, calls, Recorded(calls, export)).fit(Watching(calls))
    told = [
        call for call in calls if call in ("on_fit_start", "on_train_end", "FINALIZE", "EXPORT", "on_fit_end")
    ]
    # First in rehearsal, where the package is compared with the finalized module too; then for good: once to convert
    # and twice to compare with what was trained.
    assert told == [
        *["FINALIZE", *["EXPORT"] * 4, "on_fit_start"],
        *["on_train_end", "FINALIZE", "EXPORT", "EXPORT", "EXPORT", "on_fit_end"],
    ]
