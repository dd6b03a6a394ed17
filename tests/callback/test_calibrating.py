"""Methods that are driven by data in a fit, after one, and without any."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from lightning_compress import (
    GPTQ,
    Compression,
    CoreMLExport,
    DKMPalettization,
    GPTQPalettization,
    LinearQuantization,
    MagnitudePruning,
    SensitivePalettization,
    SparseGPT,
)
from lightning_compress.callback.calibration import training_batches
from lightning_compress.errors import CompressionError, ConfigurationError
from lightning_compress.methods import Method, calibrate, squared_gradients
from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.mechanism.tensors import find_tensors
from lightning_compress.runtime import load
from tests.faults.jobs import Job, differing_tensors, package_bytes, run_apart
from tests.features.cases import Digits, make_trainer

pytestmark = [
    # What `torch.jit.trace` and coremltools' converter of torch 2.14 programs say of themselves.
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

SENSITIVE: list[Method] = [SensitivePalettization(n_bits=2, bias_correction=True)]


def lit() -> Digits:
    torch.manual_seed(0)
    return Digits()


def test_a_fit_calibrates_at_its_end_by_what_it_trained_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = lit()
    compression = Compression(*SENSITIVE, calibration_samples=16)
    make_trainer(tmp_path, [compression]).fit(module)
    assert compression.finalized is not None
    assert len(compression.finalized.conv.weight.unique()) == 4
    assert "Calibrated by 16 samples at most" in capsys.readouterr().out
    images = next(iter(module.val_dataloader()))[0]
    # What was trained stays, and evaluates as the package will.
    torch.testing.assert_close(module.eval()(images), compression.finalized(images), rtol=1e-4, atol=1e-5)
    assert len(module.model.conv.parametrizations.weight.original.unique()) > 4


def test_without_a_fit_it_is_what_calibrate_gives_by_the_same_samples() -> None:
    module = lit()
    compression = Compression(GPTQ(), calibration_samples=64)
    batches = [next(iter(module.val_dataloader()))]
    compression.calibrate(module, batches)
    found = compression.finalize()
    prepared = PreparedModule(lit().model, [GPTQ()])
    calibrate(prepared, batches=[batches[0][0]])
    assert torch.equal(prepared.finalize().conv.weight, found.conv.weight)
    assert prepared.capabilities == compression._require().capabilities


def test_importance_is_that_of_the_training_step_on_single_samples() -> None:
    module = lit().eval()
    batch = next(iter(module.val_dataloader()))
    singles = list(zip(batch[0].split(1), batch[1].split(1), strict=True))
    compression = Compression(SensitivePalettization(n_bits=2), calibration_samples=64)
    compression.calibrate(module, singles)
    plain = lit().eval()
    importance = squared_gradients(find_tensors(plain.model), plain.loss, singles)
    prepared = PreparedModule(plain.model, [SensitivePalettization(n_bits=2)])
    calibrate(prepared, importance=importance)
    torch.testing.assert_close(compression.finalize().conv.weight, prepared.finalize().conv.weight)


def test_a_checkpoint_after_the_fit_holds_what_was_found_and_one_within_it_asks_for_data(
    tmp_path: Path,
) -> None:
    module = lit()
    compression = Compression(GPTQ(), calibration_samples=16)
    trainer = make_trainer(tmp_path, [compression], enable_checkpointing=True)
    trainer.fit(module)
    within = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    assert compression.finalized is not None
    again = Compression.load_from_checkpoint(tmp_path / "after.ckpt", lit())
    assert torch.equal(again.finalize().conv.weight, compression.finalized.conv.weight)
    fresh = lit()
    early = Compression.load_from_checkpoint(within, fresh)
    with pytest.raises(CompressionError, match="call Compression.calibrate with data"):
        early.finalize()
    early.calibrate(fresh, fresh.train_dataloader())
    assert len(early.finalize().conv.weight.unique()) > 4


def test_a_further_fit_trains_the_weights_and_not_what_was_found(tmp_path: Path) -> None:
    module = lit()
    compression = Compression(GPTQ(), calibration_samples=16)
    make_trainer(tmp_path, [compression]).fit(module)
    assert compression.finalized is not None
    before = compression.finalized.conv.weight
    trained = module.model.conv.parametrizations.weight.original.detach().clone()
    make_trainer(tmp_path, [compression]).fit(module)
    assert not torch.equal(module.model.conv.parametrizations.weight.original, trained)
    assert not torch.equal(compression.finalized.conv.weight, before)


def test_what_is_trained_joins_what_is_found(tmp_path: Path) -> None:
    pruning = MagnitudePruning(target_sparsity=0.5, scheduler={"begin_step": 0})
    inputs = LinearQuantization(weight_dtype="float32")
    compression = Compression(pruning, GPTQPalettization(n_bits=4), inputs, calibration_samples=16)
    make_trainer(tmp_path, [compression]).fit(lit())
    assert compression.finalized is not None
    weight = compression.finalized.conv.weight
    assert float((weight == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert len(weight.unique()) == 16


def bfloat16(tmp_path: Path, compression: Compression) -> Digits:
    module = lit()
    make_trainer(tmp_path, [compression], precision="bf16-true").fit(module)
    return module


def compiled_network(tmp_path: Path, compression: Compression) -> Digits:
    module = lit()
    module.model = torch.compile(module.model, backend="eager")  # type: ignore[assignment]
    make_trainer(tmp_path, [compression]).fit(module)
    return module


def compiled_module(tmp_path: Path, compression: Compression) -> Digits:
    module = lit()
    make_trainer(tmp_path, [compression]).fit(torch.compile(module, backend="eager"))  # type: ignore[arg-type]
    return module


def reentrant_checkpointing(tmp_path: Path, compression: Compression) -> Digits:
    class Again(Digits):
        def loss(self, batch: list[Tensor]) -> Tensor:
            images = batch[0].requires_grad_()
            logits = torch.utils.checkpoint.checkpoint(self.model, images, use_reentrant=True)
            return nn.functional.cross_entropy(logits, batch[1])

    torch.manual_seed(0)
    module = Again()
    make_trainer(tmp_path, [compression]).fit(module)
    return module


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("fit", [bfloat16, compiled_network, compiled_module, reentrant_checkpointing])
def test_it_goes_with(tmp_path: Path, fit: Callable[[Path, Compression], Digits]) -> None:
    compression = Compression(*SENSITIVE, calibration_samples=16)
    module = fit(tmp_path, compression)
    assert compression.finalized is not None
    assert len(compression.finalized.conv.weight.unique()) == 4
    images = next(iter(module.val_dataloader()))[0]
    trained = module.eval().model(images.to(next(module.parameters()).dtype)).float()
    torch.testing.assert_close(trained, compression.finalized(images), rtol=0.1, atol=0.1)


def test_a_module_that_optimizes_by_hand_is_refused_before_its_first_step(tmp_path: Path) -> None:
    module = lit()
    module.automatic_optimization = False
    with pytest.raises(ConfigurationError, match="optimizes by hand"):
        make_trainer(tmp_path, [Compression(GPTQ())]).fit(module)
    assert module.trainer.global_step == 0


def test_a_step_may_call_a_method_of_the_network_and_hold_parts_of_it(tmp_path: Path) -> None:
    class Methodical(Digits):
        def __init__(self) -> None:
            super().__init__()
            self.ending = self.model.head

        def forward(self, images: Tensor) -> Tensor:
            assert self.training or not torch.is_grad_enabled()
            network = self.model
            features = network.pool(network.relu(network.norm(network.conv(images)))).flatten(1)
            return self.ending(features)

    torch.manual_seed(0)
    module = Methodical()
    compression = Compression(GPTQ(), module="model", calibration_samples=16)
    compression.calibrate(module, module.train_dataloader())
    prepared = PreparedModule(lit().model, [GPTQ()])
    batches = [batch[0] for batch in module.train_dataloader()]
    calibrate(prepared, batches=batches[:1])
    assert compression.finalize().head.weight.shape == prepared.finalize().head.weight.shape
    assert module.training
    assert module.ending is module.model.head


def test_a_network_that_gives_its_loss_in_training_alone_is_calibrated_in_training() -> None:
    class Losing(Digits):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            assert self.model.training
            assert not self.model.norm.training
            return self.loss(batch)

    torch.manual_seed(0)
    module = Losing()
    compression = Compression(GPTQ(), calibration_samples=16)
    compression.calibrate(module, module.train_dataloader())
    assert module.model.norm.training
    assert len(compression.finalize().head.weight.unique()) > 16


def test_a_step_that_goes_backward_itself_is_run_with_gradients() -> None:
    class Backward(Digits):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            self.loss(batch).backward()
            self.zero_grad()
            return self.loss(batch)

    torch.manual_seed(0)
    module = Backward()
    compression = Compression(GPTQ(), calibration_samples=16)
    compression.calibrate(module, module.train_dataloader())
    assert len(compression.finalize().head.weight.unique()) > 16


def test_several_loaders_are_read_together_and_anew_each_time(tmp_path: Path) -> None:
    class Two(Digits):
        def train_dataloader(self) -> Any:
            return {"first": super().train_dataloader(), "second": super().train_dataloader()}

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.loss(batch["first"]) + self.loss(batch["second"])

    torch.manual_seed(0)
    compression = Compression(*SENSITIVE, calibration_samples=4)
    make_trainer(tmp_path, [compression]).fit(Two())
    assert compression.finalized is not None
    assert len(compression.finalized.conv.weight.unique()) == 4


@pytest.mark.slow
def test_processes_of_a_fit_find_the_same_and_resumed_ones_what_straight_ones_do(tmp_path: Path) -> None:
    name = "palettization by data"
    together = Job(name, str(tmp_path / "two"), world_size=2)
    straight = Job(name, str(tmp_path / "straight"))
    stopped = Job(name, str(tmp_path / "stopped"), stop_after=3)
    resumed = dataclasses.replace(stopped, stop_after=None)
    assert run_apart(together, straight, stopped, resumed) == [[0, 0], [0], [1], [0]]
    assert package_bytes(resumed.package) == package_bytes(straight.package)
    assert differing_tensors(together) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "methods",
    [
        SENSITIVE,
        [GPTQ(bias_correction=True)],
        [GPTQ(weight_dtype="uint8", quantization_scheme="affine", module_name_configs={"conv": None})],
        [GPTQPalettization(n_bits=4, granularity="per_grouped_channel", group_size=2), SparseGPT()],
        [GPTQPalettization(n_bits=4, cluster_dim=2, enable_per_channel_scale=True)],
        [SparseGPT(n_m_ratio=[2, 4], module_name_configs={"conv": None})],
        [GPTQ(weight_dtype="int8"), SparseGPT(), LinearQuantization(weight_dtype="float32")],
    ],
)
def test_packages_hold_what_was_found_and_compute_it(tmp_path: Path, methods: list[Method]) -> None:
    module = lit()
    export = CoreMLExport(tmp_path / "net.mlpackage", compute_precision="float32")
    compression = Compression(*methods, export=export, calibration_samples=32)
    make_trainer(tmp_path, [compression]).fit(module)
    assert compression.exported is not None
    assert compression.finalized is not None
    images = next(iter(module.val_dataloader()))[0][:1]
    (found,) = load(compression.exported.path)(images).values()
    torch.testing.assert_close(found, compression.finalized(images).detach(), rtol=1e-3, atol=1e-3)
    assert any(layer.technique != "dense" for layer in compression.exported.report.layers)


class _Unfit(Digits):
    """Trains by something else than its network."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"used": nn.Linear(64, 10), "unused": nn.Linear(64, 10)})

    def forward(self, images: Tensor) -> Tensor:
        return self.model["used"](images.flatten(1))


def test_a_step_that_never_calls_the_module_and_data_that_are_none_are_told() -> None:
    module = _Unfit()
    compression = Compression(GPTQ(), module="model.unused")
    with pytest.raises(
        CompressionError, match="no layer that is compressed by what comes into it was called"
    ):
        compression.calibrate(module, module.val_dataloader())
    with pytest.raises(ConfigurationError, match="data is a Tensor; valid is a LightningDataModule"):
        compression.calibrate(module, torch.zeros(1))
    with pytest.raises(ConfigurationError, match="none of .'DKMPalettization'. is driven by data"):
        Compression(DKMPalettization(n_bits=1)).calibrate(lit(), [])
    with pytest.raises(ConfigurationError, match="calibration_samples=0"):
        Compression(GPTQ(), calibration_samples=0)


def test_a_data_module_is_asked_for_its_training_data() -> None:
    class Data(L.LightningDataModule):
        def setup(self, stage: str) -> None:
            self.stage = stage

        def train_dataloader(self) -> Any:
            return [self.stage]

    data = Data()
    assert training_batches(data) == (["fit"], data)
