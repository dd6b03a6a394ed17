"""What cannot be distilled is told before the first optimizer step."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
from torch import Tensor, nn

from lightning_compress import Distillation
from lightning_compress.errors import ConfigurationError, ModuleNotFoundInModelError
from tests.callback.distillation.fits import (
    Fixed,
    compression,
    fit,
)
from tests.conftest import DigitNetwork

pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")


class TestRefusals:
    """Each comes before the first optimizer step."""

    @pytest.fixture
    def refusal(self, tmp_path):
        def run(
            options: Distillation,
            module: L.LightningModule | None = None,
            error: Any = ConfigurationError,
            head: str = "head",
        ) -> str:
            def fail(*arguments: Any, **keywords: Any) -> None:
                raise AssertionError("a step was taken")

            module = Fixed() if module is None else module
            module.optimizer_zero_grad = fail
            with pytest.raises(error) as refused:
                fit(tmp_path, module, compression(options, head))
            return str(refused.value)

        return run

    def test_manual_optimization(self, refusal):
        module = Fixed()
        module.automatic_optimization = False
        assert "Fixed optimizes by hand" in refusal(Distillation(), module)

    def test_inner_modules_that_are_not_there(self, refusal):
        message = refusal(Distillation(modules=["featres.1"]), error=ModuleNotFoundInModelError)
        assert "'featres.1' matches no module" in message
        assert "features.1" in message

    def test_inner_modules_that_another_teacher_lacks(self, refusal):
        options = Distillation(modules=["features.1"], teacher=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
        assert "which the teacher, Sequential, does not have" in refusal(
            options, error=ModuleNotFoundInModelError
        )

    def test_another_teacher_of_other_shapes(self, refusal):
        teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 11))
        assert "is (16, 10), and of its teacher (16, 11)" in refusal(Distillation(teacher=teacher))

    def test_a_module_that_returns_other_things_in_training(self, refusal):
        class Losses(DigitNetwork):
            def forward(self, images: Tensor) -> Any:
                logits = super().forward(images)
                return {"logits": logits} if self.training else [logits]

        class Fits(Fixed):
            def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
                return nn.functional.cross_entropy(self.model(batch[0])["logits"], batch[1])

        message = refusal(Distillation(), Fits(Losses))
        assert "in training is 'logits': (16, 10), and of its teacher in evaluation '0': (16, 10)" in message

    def test_a_place_that_is_not_there(self, refusal):
        assert "names 'boxes', which is no place" in refusal(Distillation({"boxes": "cosine"}))

    def test_a_module_of_which_only_parts_are_called(self, refusal):
        class Parts(Fixed):
            def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
                logits = self.model.head(self.model.features(batch[0]).flatten(1))
                return nn.functional.cross_entropy(logits, batch[1])

        assert "did not call the compressed module" in refusal(Distillation(), Parts())

    def test_a_teacher_without_the_part_that_training_calls(self, refusal):
        class Around(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.Linear(128, 10))

            def forward(self, images: Tensor) -> Tensor:
                return self.network(images)

        class Part(Fixed):
            def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
                return nn.functional.cross_entropy(self.model.network(batch[0]), batch[1])

        message = refusal(Distillation(teacher=DigitNetwork()), Part(Around), head="network.2")
        assert (
            "calls the part 'network' of the compressed module alone, which the teacher, DigitNetwork"
            in message
        )

    def test_an_inner_module_that_is_not_called(self, refusal):
        class Unused(DigitNetwork):
            def __init__(self) -> None:
                super().__init__()
                self.spare = nn.Linear(2, 2)

        message = refusal(Distillation(modules=["spare"]), Fixed(Unused))
        assert "'spare' was called 0 times" in message

    def test_a_function_that_returns_no_scalar(self, refusal):
        message = refusal(Distillation(lambda student, teacher: student - teacher))
        assert "returned a tensor of shape (16, 10); a scalar tensor is needed" in message

    def test_a_share_of_a_fit_of_unknown_length(self, tmp_path):
        callback = compression(Distillation(warm_up=0.5))
        with pytest.raises(ConfigurationError, match="warm_up of Distillation is 0.5, a fraction"):
            fit(tmp_path, Fixed(), callback, max_epochs=-1, max_time={"seconds": 5})
