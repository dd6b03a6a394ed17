"""What a package can hold is right; what it cannot is told before the first step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_compress import LinearQuantization, MagnitudePruning
from lightning_compress.methods import Method
from tests.cases.fitting import of_shape, palettized, tokens

METHODS: dict[str, Callable[[], list[Method]]] = {
    "no method": list,
    "palettized": lambda: [palettized()],
    "pruned": lambda: [MagnitudePruning(target_sparsity=0.5)],
}


@pytest.fixture(params=METHODS)
def methods(request: pytest.FixtureRequest) -> list[Method]:
    return METHODS[request.param]()


class Wrapped(nn.Module):
    """What an export wraps around a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class Indices(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).argmax(1)


class Mask(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) > 0


class IndicesAndValues(Wrapped):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.network(x)
        return y.argmax(1), y


class Best(Wrapped):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.topk(self.network(x), 3, dim=1))


@pytest.mark.parametrize("wrapper", [Indices, Mask, IndicesAndValues, Best])
def test_indices_and_masks_are_right_or_refused_before_training(fit, wrapper, methods):
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 21, 1),
    )
    outcome = fit.outcome_or_refusal(network, of_shape(3, 32, 32), *methods, wrapper=wrapper)
    if not isinstance(outcome, str) and wrapper is not Best:
        outcome.check_right()


class OneLayer(nn.Module):
    """A layer, and what a subclass does with its output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(32, 32)


class NewOnes(OneLayer):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y * y.new_ones((y.shape[0], 1))


class NewOnesOfIntegers(OneLayer):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y + y.new_ones(y.shape, dtype=torch.int64).cumsum(1)


class Diff(OneLayer):
    def forward(self, x: Tensor) -> Tensor:
        return torch.diff(self.layer(x), dim=-1)


class DiffOfFirstDimensions(OneLayer):
    def forward(self, x: Tensor) -> Tensor:
        return torch.diff(self.layer(x).view(-1, 4, 8), dim=1)


class DiffPrepended(OneLayer):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return torch.diff(y, dim=-1, prepend=y[:, :1])


class Pool3d(OneLayer):
    def __init__(self, size: int | tuple[int | None, ...] = 1) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool3d(size)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.layer(x).view(-1, 2, 4, 2, 2))


class Pool3dToHalf(Pool3d):
    def __init__(self) -> None:
        super().__init__((2, 1, 2))


@pytest.mark.parametrize(
    "network",
    [NewOnes, NewOnesOfIntegers, Diff, DiffOfFirstDimensions, DiffPrepended, Pool3d, Pool3dToHalf],
)
def test_ops_that_coremltools_lacks_are_converted(fit, network, methods):
    fit(network(), of_shape(32), *methods).check_right()


@pytest.mark.parametrize("network", [NewOnes, Diff, Pool3d])
def test_ops_that_coremltools_lacks_are_converted_with_int8_inputs(fit, network):
    outcome = fit(network(), of_shape(32), LinearQuantization())
    outcome.check_right(finalized=2e-2, package=5e-2)
    outcome.check_stored("quantized", bits=8)


class Named(dict):
    """A dictionary of outputs, as transformers returns it."""


class DictionaryOfEvaluation(OneLayer):
    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        y = self.layer(x)
        return y if self.training else {"out": y, "aux": y * 2}


class DictionaryAlways(OneLayer):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return Named(out=self.layer(x))


class Bag(OneLayer):
    """An op without a converter."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(64, 32)

    def forward(self, ids: Tensor) -> Tensor:
        return self.layer(self.bag(ids))


class Scripted(OneLayer):
    """A part is compiled already."""

    def __init__(self) -> None:
        super().__init__()
        self.part = torch.jit.script(nn.Sequential(nn.Linear(32, 32), nn.ReLU()))

    def forward(self, x: Tensor) -> Tensor:
        return self.part(self.layer(x))


class Traced(Scripted):
    """A part was traced before."""

    def __init__(self) -> None:
        super().__init__()
        self.part = torch.jit.trace(nn.Sequential(nn.Linear(32, 32), nn.ReLU()), torch.zeros(1, 32))


class MaskOfInfinities(OneLayer):
    """A Parameter that holds infinities and is not trained."""

    def __init__(self) -> None:
        super().__init__()
        mask = torch.full((32, 32), float("-inf")).triu(1)
        self.mask = nn.Parameter(mask, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.layer(x).unsqueeze(1) + self.mask, -1)


class ChoosingByValue(OneLayer):
    """Takes another course for other values, which a trace cannot follow."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y if bool(x.sum() > 0) else y * 2


class OutputOfText(OneLayer):
    """Returns what is no tensor in evaluation."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, str]:
        y = self.layer(x)
        return y if self.training else (y, "raw")


@pytest.mark.parametrize(
    ("network", "inputs"),
    [
        (DictionaryOfEvaluation, of_shape(32)),
        (DictionaryAlways, of_shape(32)),
        (Bag, tokens(64)),
        (Scripted, of_shape(32)),
        (Traced, of_shape(32)),
        (MaskOfInfinities, of_shape(32)),
        (OutputOfText, of_shape(32)),
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:The .grad attribute of a Tensor that is not a leaf")
def test_what_no_package_can_hold_is_told_before_the_first_step(fit, network, inputs, methods):
    outcome = fit.outcome_or_refusal(network(), inputs, *methods)
    if isinstance(outcome, str):
        assert len(outcome) > 40
    else:
        outcome.check_right()


def test_a_course_that_depends_on_values_is_told_or_right(fit, methods):
    outcome = fit.outcome_or_refusal(ChoosingByValue(), lambda count: torch.rand(count, 32), *methods)
    if not isinstance(outcome, str):
        outcome.check_right()


@pytest.mark.parametrize(
    ("network", "names"), [(DictionaryOfEvaluation, ["out", "aux"]), (DictionaryAlways, ["out"])]
)
def test_a_dictionary_is_exported_with_its_keys_as_names(fit, network, names):
    outcome = fit(network(), of_shape(32), palettized())
    outcome.check_right()
    assert [feature.name for feature in outcome.compression.exported.report.outputs] == names
