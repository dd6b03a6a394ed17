"""The gradient of a step is that of the loss and the weighted term."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_compress import Distillation
from tests.callback.distillation.fits import (
    WEIGHT,
    Fixed,
    Gradients,
    assert_close,
    batches,
    by_hand,
    compression,
    fit,
    soft_labels,
)
from tests.conftest import DigitNetwork

pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")


class TestTheGradient:
    """Of the step is that of the loss and the weighted term, computed by hand."""

    @pytest.mark.parametrize("accumulated", [1, 2])
    def test_with_soft_labels_and_accumulation(self, tmp_path, accumulated):
        module, seen = Fixed(), Gradients()
        teacher = copy.deepcopy(module.model).eval()
        fit(
            tmp_path,
            module,
            compression(Distillation(weight=WEIGHT)),
            seen,
            accumulate_grad_batches=accumulated,
        )

        def loss(model: nn.Module) -> Tensor:
            total = torch.zeros(())
            for images, labels in batches()[:accumulated]:
                logits = model(images)
                with torch.no_grad():
                    theirs = teacher(images)
                plain = nn.functional.cross_entropy(logits, labels)
                total = total + (plain + WEIGHT * soft_labels(logits, theirs)) / accumulated
            return total

        assert_close(seen.found, by_hand(seen.before, loss))
        plain = Gradients()
        fit(tmp_path, Fixed(), compression(None), plain, accumulate_grad_batches=accumulated)
        assert not torch.allclose(plain.found["head.weight"], seen.found["head.weight"], rtol=1e-2)

    def test_with_bfloat16(self, tmp_path):
        module, seen = Fixed(), Gradients()
        teacher = copy.deepcopy(module.model).eval()
        fit(tmp_path, module, compression(Distillation(weight=WEIGHT)), seen, precision="bf16-mixed")

        def loss(model: nn.Module) -> Tensor:
            images, labels = batches()[0]
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(images)
                with torch.no_grad():
                    theirs = teacher(images)
                assert theirs.dtype is torch.bfloat16
                plain = nn.functional.cross_entropy(logits, labels)
                return plain + WEIGHT * soft_labels(logits.float(), theirs.float())

        assert_close(seen.found, by_hand(seen.before, loss), 1e-2)

    def test_with_inner_modules_by_squared_error(self, tmp_path):
        module, seen = Fixed(), Gradients()
        teacher = copy.deepcopy(module.model).eval()
        options = Distillation("cosine", weight=WEIGHT, modules=[r"features\.[14]"])
        fit(tmp_path, module, compression(options), seen)

        def norms(model: Any, images: Tensor) -> list[Tensor]:
            """What both batch norms return; the ReLU that follows works on a copy."""
            first = model.features[1](model.features[0](images))
            second = model.features[4](model.features[3](first.relu()))
            return [first, second, model.head(model.features[6](second.relu()).flatten(1))]

        def loss(model: nn.Module) -> Tensor:
            images, labels = batches()[0]
            *inner, logits = norms(model, images)
            with torch.no_grad():
                *their_inner, theirs = norms(teacher, images)
            error = [
                ((own - other) ** 2).mean() / other.var(correction=0)
                for own, other in zip(inner, their_inner, strict=True)
            ]
            angle = 1 - nn.functional.cosine_similarity(logits, theirs).mean()
            return nn.functional.cross_entropy(logits, labels) + WEIGHT * (angle + sum(error) / 2)

        assert_close(seen.found, by_hand(seen.before, loss), 1e-4)

    def test_with_two_calls_a_step_each_beside_the_teachers(self, tmp_path):
        class Twice(Fixed):
            def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
                images, labels = batch
                with torch.no_grad():
                    self.model(images * 7)
                first, second = self.model(images), self.model(images.flip(-1))
                return nn.functional.cross_entropy(first + second, labels)

        module, seen = Twice(), Gradients()
        teacher = copy.deepcopy(module.model).eval()
        fit(tmp_path, module, compression(Distillation(weight=WEIGHT)), seen)

        def loss(model: nn.Module) -> Tensor:
            images, labels = batches()[0]
            views = [images, images.flip(-1)]
            own = [model(view) for view in views]
            with torch.no_grad():
                theirs = [teacher(view) for view in views]
            term = sum(soft_labels(a, b) for a, b in zip(own, theirs, strict=True)) / 2
            return nn.functional.cross_entropy(own[0] + own[1], labels) + WEIGHT * term

        assert_close(seen.found, by_hand(seen.before, loss))

    def test_of_the_part_with_all_parameters_where_training_calls_that_alone(self, tmp_path):
        class Scaled(nn.Module):
            """Scales images before a network, and makes probabilities of what it returns."""

            def __init__(self) -> None:
                super().__init__()
                self.scale = nn.Hardtanh(0, 0.5)
                self.network = nn.Sequential(DigitNetwork())

            def forward(self, images: Tensor) -> Tensor:
                return self.network(self.scale(images)).softmax(1)

        class Fits(Fixed):
            def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
                logits = self.model.network(self.model.scale(batch[0]))
                return nn.functional.cross_entropy(logits, batch[1])

        module, seen = Fits(Scaled), Gradients()
        teacher = copy.deepcopy(module.model).eval()
        options = Distillation(weight=WEIGHT)
        fit(tmp_path, module, compression(options, head="network.0.head"), seen)

        def loss(model: Any) -> Tensor:
            images, labels = batches()[0]
            logits = model.network(model.scale(images))
            with torch.no_grad():
                theirs = teacher.network(teacher.scale(images))
            return nn.functional.cross_entropy(logits, labels) + WEIGHT * soft_labels(logits, theirs)

        assert_close(seen.found, by_hand(seen.before, loss))

    def test_with_a_function_of_the_users_and_a_loss_of_each_output(self, tmp_path):
        class Both(DigitNetwork):
            def forward(self, images: Tensor) -> dict[str, Any]:
                hidden = self.features(images).flatten(1)
                logits = self.head(hidden)
                return {"logits": logits, "found": (hidden, logits.argmax(1))}

        class Fits(Fixed):
            def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
                return nn.functional.cross_entropy(self.model(batch[0])["logits"], batch[1])

        def distance(student: Any, teacher: Any) -> Tensor:
            return (student["found"][0] - teacher["found"][0]).abs().mean()

        def of_tensor(student: Tensor, teacher: Tensor) -> Tensor:
            return (student - teacher).abs().mean()

        for given in (distance, {r"found\.0": of_tensor}):
            module, seen = Fits(Both), Gradients()
            teacher = copy.deepcopy(module.model).eval()
            fit(tmp_path, module, compression(Distillation(given, weight=WEIGHT)), seen)

            def loss(model: nn.Module, teacher: nn.Module = teacher) -> Tensor:
                images, labels = batches()[0]
                own = model(images)
                with torch.no_grad():
                    theirs = teacher(images)
                plain = nn.functional.cross_entropy(own["logits"], labels)
                return plain + WEIGHT * distance(own, theirs)

            assert_close(seen.found, by_hand(seen.before, loss))
