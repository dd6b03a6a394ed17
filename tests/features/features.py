"""What Lightning can do beside a compression: each feature is one function, which fits and asserts.

A function that returns says that the feature works; a `CompressionError` says that it is refused, and why.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_compress import Compression
from lightning_compress.callback.strategies import check_strategy
from lightning_compress.errors import CompressionError
from tests.faults.jobs import Job, differing_tensors, package_bytes, run_apart
from tests.features.cases import METHODS, STEPS, Case, Digits, Network, digits, make_trainer

FEATURES: dict[str, Callable[[Case], None]] = {}


def feature(title: str) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Enter a function into the matrix."""

    def register(function: Callable[[Case], None]) -> Callable[[Case], None]:
        FEATURES[title] = function
        return function

    return register


def steps_of(case: Case) -> int:
    """Optimizer steps that the compression counted."""
    return int(case.compression.state_dict()["progress"]["steps"])


@feature("resume from a checkpoint within an epoch and at its end: the same package")
def resume(case: Case) -> None:
    straight = Job(case.method, str(case.folder / "straight"))
    stopped = [Job(case.method, str(case.folder / str(step)), stop_after=step) for step in (3, 4)]
    resumed = [dataclasses.replace(job, stop_after=None) for job in stopped]
    assert run_apart(straight, *stopped, *resumed) == [[0], [1], [1], [0], [0]]
    assert all(package_bytes(job.package) == package_bytes(straight.package) for job in resumed)


@feature("DDP on two and three processes: the same tensors on all after every epoch")
def ddp(case: Case) -> None:
    jobs = [Job(case.method, str(case.folder / str(count)), world_size=count) for count in (2, 3)]
    assert run_apart(*jobs) == [[0, 0], [0, 0, 0]]
    assert [differing_tensors(job) for job in jobs] == [[], []]


@feature("`load_from_checkpoint`")
def load_from_checkpoint(case: Case) -> None:
    saving = ModelCheckpoint(case.folder, save_last=True)
    case.fit(saving, enable_checkpointing=True)
    loaded = Compression.load_from_checkpoint(case.folder / "last.ckpt", Digits())
    expected, actual = case.compression.finalized, loaded.finalize()
    assert expected is not None
    assert equal(expected.state_dict(), actual.state_dict())


@feature("`accumulate_grad_batches`")
def gradient_accumulation(case: Case) -> None:
    case.fit(accumulate_grad_batches=2, max_epochs=4)
    assert steps_of(case) == STEPS
    case.check()


@feature("`gradient_clip_val`, by norm and by value")
def gradient_clipping(case: Case) -> None:
    for algorithm in ("norm", "value"):
        fresh = Case(case.method, case.folder)
        fresh.fit(gradient_clip_val=0.1, gradient_clip_algorithm=algorithm)
        fresh.check()


@feature('`precision="16-mixed"` (on a CPU, where Lightning makes it bf16-mixed)')
def half_mixed(case: Case) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You passed `Trainer\\(accelerator='cpu', precision='16-mixed'\\)`")
        case.fit(precision="16-mixed")
    case.check()


@feature('`precision="bf16-mixed"`')
def bfloat16_mixed(case: Case) -> None:
    case.fit(precision="bf16-mixed")
    case.check()


@feature('`precision="bf16-true"`')
def bfloat16_true(case: Case) -> None:
    case.fit(precision="bf16-true")
    case.check(tolerance=0.1)


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


def weight(case: Case) -> Tensor:
    """The weight of the convolution, in training."""
    parameters = case.compression._require().module.parameters()
    return next(parameter.detach() for parameter in parameters if parameter.dim() == 4)


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


@feature("`torch.compile` of the module or the LightningModule, before the fit")
def compiled_before(case: Case) -> None:
    module = Digits()
    module.model = torch.compile(module.model, backend="eager")
    case.fit(module=module)
    case.check()
    whole = Case(case.method, case.folder)
    whole.fit(module=torch.compile(Digits(), backend="eager"))
    whole.check()


@feature("`torch.compile` after the fit")
def compiled_after(case: Case) -> None:
    case.fit()
    finalized = case.compression.finalized
    assert finalized is not None
    compiled = torch.compile(finalized, backend="eager")
    images = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), finalized(images))


@feature("`limit_train_batches`")
def limit_train_batches(case: Case) -> None:
    case.fit(limit_train_batches=2, max_epochs=4)
    assert steps_of(case) == STEPS
    case.check()


@feature("`fast_dev_run`")
def fast_dev_run(case: Case) -> None:
    case.fit(fast_dev_run=True)
    assert case.compression.finalized is not None


@feature("`overfit_batches`")
def overfit_batches(case: Case) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You requested to overfit but enabled")
        case.fit(overfit_batches=2, max_epochs=4)
    assert steps_of(case) == STEPS
    case.check()


@feature("`max_time`")
def max_time(case: Case) -> None:
    module = Digits()
    module.on_train_batch_end = lambda *arguments: time.sleep(0.2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = case.fit(module=module, max_epochs=1000, max_time={"seconds": 1})
    assert 0 < trainer.global_step < 4000
    assert any("before the compression did" in str(entry.message) for entry in caught)


@feature("a fit called twice")
def fit_twice(case: Case) -> None:
    module = Digits()
    case.fit(module=module)
    case.check()
    case.fit(module=module)
    assert steps_of(case) == 2 * STEPS
    case.check()


@feature("manual optimization")
def manual_optimization(case: Case) -> None:
    class Manual(Digits):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    case.fit(module=Manual())
    assert steps_of(case) == STEPS
    case.check()


@feature("several optimizers")
def several_optimizers(case: Case) -> None:
    class Two(Digits):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self) -> Any:
            parameters = list(self.parameters())
            return [torch.optim.SGD(half, lr=0.01) for half in (parameters[:2], parameters[2:])]

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            first, second = self.optimizers()
            first.zero_grad()
            second.zero_grad()
            self.manual_backward(self.loss(batch))
            first.step()
            second.step()

    for settings in ({}, {"max_epochs": -1, "max_steps": 2 * STEPS}):
        fresh = Case(case.method, case.folder)
        trainer = fresh.fit(module=Two(), **settings)
        assert trainer.global_step == 2 * STEPS
        assert steps_of(fresh) == STEPS
        fresh.check()


@feature("frozen layers")
def frozen_layers(case: Case) -> None:
    module = Digits()
    module.model.conv.requires_grad_(False)
    before = module.model.conv.weight.clone()
    case.fit(module=module)
    assert torch.equal(weight(case).flatten(), before.flatten())
    case.check()


@feature("shared weights")
def shared_weights(case: Case) -> None:
    class Tied(Network):
        def __init__(self) -> None:
            super().__init__()
            self.narrow = nn.Linear(64, 64)
            self.again = nn.Linear(64, 64)
            self.again.weight = self.narrow.weight
            self.head = nn.Linear(64, 10)

        def forward(self, images: Tensor) -> Tensor:
            values = self.pool(self.relu(self.norm(self.conv(images)))).flatten(1)[:, :64]
            return self.head(self.again(torch.relu(self.narrow(values))))

    module = Digits(Tied)
    case.fit(module=module)
    case.check()
    finalized: Any = case.compression.finalized
    narrow, again = (finalized.get_submodule(name) for name in ("narrow", "again"))
    torch.testing.assert_close(dense(narrow), dense(again))


def dense(layer: Any) -> Tensor:
    """The weight of a layer, float or quantized."""
    value = layer.weight() if callable(layer.weight) else layer.weight
    return value.dequantize() if value.is_quantized else value.detach()


@feature("activation checkpointing, both kinds: the same tensors as without")
def activation_checkpointing(case: Case) -> None:
    class Again(Network):
        reentrant: bool | None = None

        def forward(self, images: Tensor) -> Tensor:
            hidden = self.norm(self.conv(images))
            if self.reentrant is None:
                return self.rest(hidden)
            logits: Tensor = checkpoint(self.rest, hidden, use_reentrant=self.reentrant)  # type: ignore[assignment]
            return logits

        def rest(self, hidden: Tensor) -> Tensor:
            return self.head(torch.relu(self.deep(self.pool(self.relu(hidden)).flatten(1))))

        def __init__(self) -> None:
            super().__init__()
            self.deep = nn.Linear(256, 256)

    assert_same_fits(
        case, [lambda reentrant=kind: Digits(again(Again, reentrant)) for kind in (None, False, True)]
    )


@feature("two passes a step, evaluation in between: the same tensors as without")
def several_passes(case: Case) -> None:
    class Twice(Digits):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            loss = self.loss(batch)
            # Batch norm would learn from the second pass, with or without a compression.
            learning = [part for part in self.modules() if isinstance(part, nn.BatchNorm2d) and part.training]
            for part in learning:
                part.eval()
            self.loss([batch[0].flip(0) * 3, batch[1]]).backward()
            self.model.eval()
            with torch.no_grad():
                self.loss(batch)
            self.model.train()
            self.zero_grad()
            return loss

    assert_same_fits(case, [Digits, Twice])


def again(kind: type[nn.Module], reentrant: bool | None) -> Callable[[], nn.Module]:
    """Builds a network that computes its end again in the backward pass, or does not."""

    def build() -> nn.Module:
        network = kind()
        network.reentrant = reentrant  # type: ignore[assignment]
        return network

    return build


@torch.no_grad()
def outputs_are_near(first: nn.Module, others: list[nn.Module]) -> bool:
    """Whether modules compute the same but for what a few weights rounded to the other side change."""
    images = digits(1400, 1500).tensors[0]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "None of the inputs have requires_grad")
        expected, *found = (module(images) for module in (first, *others))
    allowed = 1e-2 * float(expected.std())
    return all(float((expected - outputs).abs().mean()) <= allowed for outputs in found)


def assert_same_fits(case: Case, modules: list[Callable[[], L.LightningModule]]) -> None:
    """Fit each module from the same start, and assert that all tensors are those of the first fit."""
    found = []
    for build in modules:
        fresh = Case(case.method, case.folder)
        with warnings.catch_warnings():
            # What is computed again under no_grad, where nothing has a gradient, is told of by torch.
            warnings.filterwarnings("ignore", "None of the inputs have requires_grad")
            fresh.fit(module=build())
            fresh.check()
        finalized = fresh.compression.finalized
        assert finalized is not None
        found.append(finalized)
    if not case.method.startswith("learnable"):
        assert all(equal(found[0].state_dict(), other.state_dict()) for other in found[1:])
        return
    # Autograd sums the many parts of a learned scale's gradient in the order in which they come: the last bits differ,
    # and weights that lie between two integers fall to the other.
    assert outputs_are_near(found[0], found[1:])


@feature("a module built in `configure_model`")
def configure_model(case: Case) -> None:
    class Late(Digits):
        def __init__(self) -> None:
            super().__init__()
            self.model = None

        def configure_model(self) -> None:
            if self.model is None:
                self.model = Network()

    case.fit(module=Late())
    case.check()


@feature("`ddp_spawn`, `ddp_fork`, `ddp_notebook`")
def ddp_spawn(case: Case) -> None:
    check_strategy(make_trainer(case.folder, [], strategy="ddp_spawn", devices=2))


@feature("FSDP")
def fsdp(case: Case) -> None:
    # Lightning builds no such Trainer without a GPU.
    check_strategy(SimpleNamespace(strategy=FSDPStrategy()))  # type: ignore[arg-type]


@feature("DeepSpeed")
def deepspeed(case: Case) -> None:
    # Nor such a strategy without the library.
    check_strategy(SimpleNamespace(strategy=DeepSpeedStrategy.__new__(DeepSpeedStrategy)))  # type: ignore[arg-type]


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two state dicts are the same bit by bit."""
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) if isinstance(value, Tensor) else value == second[key]
        for key, value in first.items()
    )


def outcome(method: str, title: str, folder: Path) -> str:
    """Run one cell: "works", or "refused: " and the reason."""
    assert method in METHODS
    try:
        FEATURES[title](Case(method, folder))
    except CompressionError as error:
        return f"refused: {error}"
    return "works"
