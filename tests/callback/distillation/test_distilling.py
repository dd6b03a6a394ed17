"""A teacher in a fit, whatever else the fit does."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_compress import Compression, Distillation, DKMPalettization
from lightning_compress.errors import ConfigurationError
from tests.callback.distillation.fits import (
    WEIGHT,
    Fixed,
    Gradients,
    assert_close,
    batches,
    by_hand,
    compression,
    fit,
    same,
    soft_labels,
    weights_after,
)
from tests.conftest import DigitNetwork
from tests.features.cases import digits

pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")


class TestTheTrainingStep:
    def test_may_return_a_dictionary(self, tmp_path):
        outputs = []

        class Dictionary(Fixed):
            def training_step(self, batch: list[Tensor], batch_idx: int) -> dict[str, Any]:
                return {"loss": super().training_step(batch, batch_idx), "count": len(batch[1])}

            def on_train_batch_end(self, given: Any, batch: Any, batch_idx: int) -> None:
                outputs.append(given)

        options = Distillation(weight=1.0)
        expected = weights_after(tmp_path, Fixed(), options)
        assert same(expected, weights_after(tmp_path, Dictionary(), options))
        assert [given["count"] for given in outputs] == [16] * 4
        assert not same(expected, weights_after(tmp_path, Fixed(), None))

    def test_is_left_as_it_was_after_a_fit_and_after_an_error(self, tmp_path):
        module = Fixed()
        trainer = fit(tmp_path, module, compression(Distillation(modules=["features.1"])))
        assert "training_step" not in vars(module)
        assert "training_step" not in vars(trainer.strategy)
        parts = list(module.model.modules())
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in parts)

        class Failing(Fixed):
            def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
                self.model(batch[0])
                raise RuntimeError("stopped")

        failing = Failing()
        with pytest.raises(RuntimeError, match="stopped"):
            fit(tmp_path, failing, compression(Distillation(modules=["features.1"])))
        assert "training_step" not in vars(failing)
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in failing.model.modules())

    def test_may_be_one_that_was_put_on_the_instance(self, tmp_path):
        module = Fixed()
        original = module.training_step

        def put(batch: list[Tensor], batch_idx: int) -> Tensor:
            return original(batch, batch_idx)

        module.training_step = put
        options = Distillation(weight=1.0)
        assert same(weights_after(tmp_path, module, options), weights_after(tmp_path, Fixed(), options))
        assert vars(module)["training_step"] is put

    def test_may_leave_steps_out_without_the_module(self, tmp_path):
        class Sometimes(Fixed):
            def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
                if batch_idx == 1:
                    return None
                if batch_idx == 2:
                    return self.model.head.weight.square().mean()
                return super().training_step(batch, batch_idx)

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`training_step` returned `None`")
            trainer = fit(tmp_path, Sometimes(), compression(Distillation()))
        assert trainer.global_step == 4

    @pytest.mark.slow
    def test_is_the_same_when_compiled(self, tmp_path):
        options = Distillation(weight=1.0, modules=["features.4"])
        plain = weights_after(tmp_path, Fixed(), options)
        module = Fixed()
        module.model = torch.compile(module.model, backend="eager")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Dynamo")
            # torch.compile looks at the gradient of compressed weights, which are no leaves.
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
            fit(tmp_path, module, compression(options))
            found = module.model._orig_mod.state_dict()
            assert same(plain, found)
            whole = Fixed()
            fit(tmp_path, torch.compile(whole, backend="eager"), compression(options))
        assert same(plain, whole.model.state_dict())

    @pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
    def test_may_compute_the_module_again_in_the_backward_pass(self, tmp_path):
        class Again(Fixed):
            reentrant = False

            def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
                logits: Any = checkpoint(self.model, batch[0], use_reentrant=self.reentrant)
                return nn.functional.cross_entropy(logits, batch[1])

        class Reentrant(Again):
            reentrant = True

        class Plain(nn.Module):
            """Has no batch norm, whose running means would move twice."""

            def __init__(self) -> None:
                super().__init__()
                self.hidden = nn.Linear(64, 128)
                self.head = nn.Linear(128, 10)

            def forward(self, images: Tensor) -> Tensor:
                return self.head(self.hidden(images.flatten(1)).relu())

        options = Distillation(weight=1.0, modules=["hidden"])
        expected = weights_after(tmp_path, Fixed(Plain), options)
        # Gradients are summed in another order.
        assert_close(weights_after(tmp_path, Again(Plain), options), expected)
        with pytest.raises(ConfigurationError, match="without gradients alone.*use_reentrant=False"):
            fit(tmp_path, Reentrant(Plain), compression(options))

    def test_is_the_same_where_modules_change_their_inputs_in_place(self, tmp_path):
        class InPlace(DigitNetwork):
            def __init__(self) -> None:
                super().__init__()
                for index in (2, 5):
                    self.features[index] = nn.ReLU(inplace=True)

            def forward(self, images: Tensor) -> Tensor:
                return super().forward(images.mul_(2))

        class Double(DigitNetwork):
            def forward(self, images: Tensor) -> Tensor:
                return super().forward(images * 2)

        class AddsToOutput(Fixed):
            def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
                logits = self.model(batch[0].clone())
                logits.add_(1)
                return nn.functional.cross_entropy(logits, batch[1])

        class Adds(Fixed):
            def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
                return nn.functional.cross_entropy(self.model(batch[0]) + 1, batch[1])

        options = Distillation("cosine", weight=1.0, modules=["features.1"])
        assert same(
            weights_after(tmp_path, Adds(Double), options),
            weights_after(tmp_path, AddsToOutput(InPlace), options),
        )

    def test_shows_hooks_of_the_users_the_module_alone(self, tmp_path):
        module = Fixed()
        seen: list[bool] = []
        module.model.features[1].register_forward_hook(
            lambda part, _, output: seen.append(output.requires_grad)
        )
        fit(tmp_path, module, compression(Distillation()))
        # At the end of the fit the finalized copy is compared.
        assert seen[:4] == [True] * 4


class TestTheTeacher:
    def test_is_the_module_as_it_was_and_the_fit_comes_nearer_to_it(self, tmp_path):
        start = Fixed(learning_rate=0.1)
        fit(tmp_path, start, max_epochs=20)
        images = digits(0, 64).tensors[0]

        def distance(options: Distillation | None) -> float:
            module = Fixed(learning_rate=0.02)
            module.load_state_dict(start.state_dict())
            callback = Compression(DKMPalettization(n_bits=1), module="model", distillation=options)
            fit(tmp_path, module, callback, max_epochs=10)
            with torch.no_grad():
                return float(soft_labels(callback.finalized(images), start.model.eval()(images)))

        alone, taught = distance(None), distance(Distillation(weight=3.0))
        assert 0 < taught < 0.7 * alone

    def test_may_be_another_module_which_stays_as_it_is(self, tmp_path):
        class Wide(nn.Sequential):
            def __init__(self) -> None:
                super().__init__(nn.Flatten(), nn.Linear(64, 256), nn.Dropout(0.5), nn.Linear(256, 10))

        torch.manual_seed(3)
        teacher = Wide()
        before = copy.deepcopy(teacher.state_dict())
        module, seen = Fixed(), Gradients()
        fit(tmp_path, module, compression(Distillation(weight=WEIGHT, teacher=teacher)), seen)
        assert teacher.training
        assert all(parameter.requires_grad for parameter in teacher.parameters())
        assert same(before, teacher.state_dict())
        copied = copy.deepcopy(teacher).eval()

        def loss(model: nn.Module) -> Tensor:
            images, labels = batches()[0]
            logits = model(images)
            return nn.functional.cross_entropy(logits, labels) + WEIGHT * soft_labels(
                logits, copied(images).detach()
            )

        assert_close(seen.found, by_hand(seen.before, loss))

    def test_is_no_part_of_the_module_its_optimizer_or_what_is_finalized(self, tmp_path):
        module = Fixed()
        callback = compression(Distillation())
        trainer = fit(tmp_path, module, callback)
        held = [p for group in trainer.optimizers[0].param_groups for p in group["params"]]
        assert {id(p) for p in held} == {id(p) for p in module.parameters()}
        plain, finalized = compression(None), callback.finalized
        fit(tmp_path, Fixed(), plain)
        assert finalized.state_dict().keys() == plain.finalized.state_dict().keys()

    def test_is_asked_in_the_trial_steps_of_lightnings_finders_too(self, tmp_path):
        calls = []
        teacher = DigitNetwork()
        teacher.register_forward_pre_hook(lambda part, _: calls.append(part.training))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Failed to compute suggestion")
            fit(
                tmp_path,
                Fixed(),
                compression(Distillation(teacher=teacher)),
                LearningRateFinder(
                    num_training_steps=6, early_stop_threshold=None, attr_name="learning_rate"
                ),
                max_epochs=2,
            )
        assert len(calls) > 8
        assert not any(calls)

    def test_of_a_further_fit_is_the_first_ones(self, tmp_path):
        module, callback = Fixed(), compression(Distillation())
        fit(tmp_path, module, callback)
        first = callback.state_dict()["distillation"]
        fit(tmp_path, module, callback)
        assert callback.state_dict()["distillation"] == first


def test_the_weight_grows_linearly_over_steps_or_a_share_of_the_fit(tmp_path):
    for warm_up in (4, 0.5):
        found: list[float] = []

        class Watching(L.Callback):
            def __init__(self, callback: Compression, found: list[float] = found) -> None:
                self.callback, self.found = callback, found

            def on_train_batch_start(self, *_: Any) -> None:
                self.found.append(self.callback._distilling.weight())

        callback = compression(Distillation(weight=2.0, warm_up=warm_up))
        fit(tmp_path, Fixed(), callback, Watching(callback), max_epochs=2)
        assert found == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0]


def test_the_distance_is_logged_before_it_is_weighted(tmp_path):
    module = Fixed()
    callback = compression(Distillation("squared_error", weight=1e-6))
    trainer = fit(tmp_path, module, callback, log_every_n_steps=1, limit_train_batches=1)
    assert "compression/distillation" not in trainer.progress_bar_metrics
    assert float(trainer.callback_metrics["compression/distillation"]) > 1e-3


def test_outputs_that_are_no_floating_point_numbers_are_left_alone_and_that_is_said_once(tmp_path):
    class Labels(DigitNetwork):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            logits = super().forward(images)
            return logits, logits.argmax(1)

    class Fits(Fixed):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self.model(batch[0])[0], batch[1])

    with pytest.warns(UserWarning, match="the distillation leaves '1' of the output alone") as caught:
        fit(tmp_path, Fits(Labels), compression(Distillation()))
    assert len([entry for entry in caught if "leaves" in str(entry.message)]) == 1


def test_an_inner_module_that_cannot_be_trained_is_told(tmp_path):
    module = Fixed()
    module.model.features[0].requires_grad_(False)
    with pytest.warns(UserWarning, match=r"distillation of the output of 'features.0' trains nothing"):
        fit(tmp_path, module, compression(Distillation(modules=["features.0"])))


def test_two_compressions_may_each_have_a_teacher(tmp_path):
    parts = [
        Compression(
            DKMPalettization(n_bits=2),
            module=name,
            example_inputs=inputs,
            distillation=Distillation("cosine"),
        )
        for name, inputs in (("model.features", torch.zeros(1, 1, 8, 8)), ("model.head", torch.zeros(1, 512)))
    ]
    module = Fixed()
    trainer = fit(tmp_path, module, *parts)
    assert all(float(part._distilling.distance) > 0 for part in parts)
    assert "training_step" not in vars(trainer.strategy)
    assert "training_step" not in vars(module)
