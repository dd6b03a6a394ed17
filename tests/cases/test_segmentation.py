"""Classes and masks of pixels are judged as what they are, whether they come as integers, booleans or floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_compress import Compression, CoreMLExport, LinearQuantization
from lightning_compress.coreml import Tolerance
from lightning_compress.coreml.verification import compare
from lightning_compress.coreml.verification.comparison import Rounding
from lightning_compress.errors import VerificationError
from lightning_compress.methods import Method
from tests.cases.fitting import STEPS, Training, of_shape, palettized

CLASSES = 5


class Segmentation(nn.Module):
    """Scores of each class for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, CLASSES, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class Wrapped(nn.Module):
    def __init__(self, network: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network
        self.change = change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(self.network(images))


MASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "classes": lambda scores: scores.argmax(1),
    "classes in floats": lambda scores: scores.argmax(1).float(),
    "a mask": lambda scores: scores[:, 0] > scores[:, 1],
    "a mask of floats": lambda scores: (scores[:, 0] > scores[:, 1]).float(),
    "a mask where nothing is": lambda scores: (scores[:, 0] > 1e3).float(),
}

METHODS: dict[str, Callable[[], list[Method]]] = {
    "palettized with int8 inputs": lambda: [
        palettized(),
        LinearQuantization(weight_dtype="float32", milestones=[0, 0, 2, -1]),
    ],
    "palettized": lambda: [palettized()],
    "nothing": list,
}


class Segmenting(Training):
    """Learns which of its colours is the strongest around a pixel."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, classes = batch
        return nn.functional.cross_entropy(self.model(images), classes)

    def train_dataloader(self) -> DataLoader[Any]:
        images = torch.randn(4 * STEPS, 3, 16, 16)
        classes = nn.functional.avg_pool2d(images, 3, 1, 1).argmax(1)
        return DataLoader(TensorDataset(images, classes), batch_size=4)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("methods", METHODS)
def test_a_right_package_is_taken_and_a_wrong_one_refused(fit, tmp_path, methods, mask):
    def wrap(module: nn.Module) -> nn.Module:
        return Wrapped(module, MASKS[mask])

    torch.manual_seed(0)
    training = Segmenting(Segmentation(), of_shape(3, 16, 16), steps=STEPS)
    export = CoreMLExport(tmp_path / "net.mlpackage", wrapper=wrap, card=False)
    outcome = fit.run(training, Compression(*METHODS[methods](), module="model", export=export))
    package = outcome.compression.exported.path
    right = export.compare(package, outcome.compression.finalized, training.example_input_array)
    assert right.passed
    if mask == "a mask where nothing is":
        # Zeros alone say nothing of what the output holds.
        return
    assert [output.is_labels for output in right.outputs] == [True]
    wrong = Segmentation()
    with pytest.raises(VerificationError, match=r"which holds labels, has others in \d"):
        export.compare(package, wrong, training.example_input_array).require_passed()


def judged(expected: Tensor, found: Tensor, **tolerance: float) -> Any:
    (output,) = compare([{"out": expected}], [{"out": found}], Tolerance(**tolerance))
    return output


CLASS_MAP = torch.arange(CLASSES).repeat(200)


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32])
@pytest.mark.parametrize(("others", "passes"), [(0, True), (10, True), (11, False), (1000, False)])
def test_the_share_of_other_classes_decides_and_not_how_far_they_are(dtype, others, passes):
    found = CLASS_MAP.clone()
    found[:others] = (found[:others] + 1) % CLASSES
    output = judged(CLASS_MAP.to(dtype), found.to(dtype))
    assert output.is_labels
    assert output.passed is passes
    assert output.mean == pytest.approx(others / 1000)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize(("others", "passes"), [(10, True), (11, False), (1000, False)])
def test_a_mask_of_one_value_throughout_is_judged_as_a_mask(value, others, passes):
    mask = torch.full((1000,), value)
    found = mask.clone()
    found[:others] = 1 - value
    assert judged(mask, found).passed is passes


def test_a_mask_where_nothing_is_may_be_off_where_its_module_is_when_rounded():
    mask, rounded, found = torch.zeros(3, 1000)
    rounded[:20] = 1
    found[-60:] = 1
    (output,) = compare(
        [{"out": mask}], [{"out": found}], Tolerance(), rounding=Rounding([{"out": mask}], [{"out": rounded}])
    )
    assert output.is_labels
    assert output.passed


def test_an_amount_that_is_the_same_throughout_is_no_mask():
    count = torch.full((1000,), 300.0)
    output = judged(count, count + 1)
    assert not output.is_labels
    assert output.passed


def test_amounts_that_happen_to_be_whole_are_no_labels():
    count = torch.tensor([3000.0, 2999.0])
    output = judged(count, count + 1)
    assert not output.is_labels
    assert output.passed


def test_a_mask_that_the_package_gives_as_shares_is_judged_by_distance():
    mask = torch.zeros(1000)
    output = judged(mask, mask + 0.005)
    assert not output.is_labels
    assert not output.passed
