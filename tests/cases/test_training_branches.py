"""Networks that do in training what they do not do in evaluation: the package computes what `eval()` does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import DropBlock2d, StochasticDepth

from lightning_compress import LinearQuantization, MagnitudePruning
from lightning_compress.methods import Method
from tests.cases.fitting import Fitting, Outcome, int8_weights, of_shape, palettized

METHODS: dict[str, Callable[[], Method]] = {
    "palettes": palettized,
    "pruning": lambda: MagnitudePruning(target_sparsity=0.5),
    "int8 weights": int8_weights,
    "int8 weights and activations": LinearQuantization,
}


def check_right(outcome: Outcome) -> None:
    # A value between two steps of an activation falls to either by any rounding.
    quantized = "quantize" in outcome.operations
    outcome.check_right(finalized=2e-2 if quantized else 1e-3, package=5e-2 if quantized else 3e-2)


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> Method:
    return METHODS[request.param]()


class Branching(nn.Module):
    """Two linear layers with something between them or behind."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.last = nn.Linear(64, 64)


class DecodingHead(Branching):
    """Raw in training, decoded otherwise, as the heads of detectors are."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(torch.relu(self.first(x)))
        return y if self.training else torch.sigmoid(y) * 100


class AuxiliaryHead(Branching):
    """Two outputs in training, one otherwise."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = torch.relu(self.first(x))
        return (self.last(y), y) if self.training else self.last(y)


class LayerOfTrainingOnly(Branching):
    """A layer that evaluation does not pass through."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        return self.last(self.extra(y) if self.training else y)


class Noise(Branching):
    """Noise on the hidden values in training."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        return self.last(y + 0.1 * torch.randn_like(y) if self.training else y)


class FunctionalDropout(Branching):
    """Dropout by a function that is told of training."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.dropout(torch.relu(self.first(x)), 0.5, self.training))


class Stochastic(Branching):
    """torchvision's stochastic depth, which calls a function with its flag."""

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__()
        self.depth = StochasticDepth(probability, "row")

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.depth(torch.relu(self.first(x))))


class RareStochastic(Stochastic):
    """A probability that no single look at the outputs finds."""

    def __init__(self) -> None:
        super().__init__(0.05)


class AttentionDropout(Branching):
    """Dropout inside scaled dot product attention."""

    def forward(self, x: Tensor) -> Tensor:
        query = self.first(x).unsqueeze(1)
        probability = 0.5 if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, query, query, dropout_p=probability)
        return self.last(attended.squeeze(1))


class DropPath(nn.Module):
    """Drops whole samples, with arithmetic on the shape, as in timm."""

    def forward(self, x: Tensor) -> Tensor:
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        return x * x.new_empty(shape).bernoulli_(0.9) if self.training else x


class DroppedPath(Branching):
    """A residual that is dropped at times."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = DropPath()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.drop(self.first(x)))


@pytest.mark.parametrize(
    "network",
    [
        DecodingHead,
        AuxiliaryHead,
        LayerOfTrainingOnly,
        Noise,
        FunctionalDropout,
        Stochastic,
        RareStochastic,
        AttentionDropout,
        DroppedPath,
    ],
)
def test_the_package_computes_what_evaluation_does(fit, network, method):
    outcome = fit(network(), of_shape(64), method)
    check_right(outcome)
    assert all(layer.technique != "dense" for layer in outcome.layers)


@pytest.mark.parametrize("depth", [StochasticDepth(0.5, "batch"), DropBlock2d(0.5, 3), nn.Dropout2d(0.5)])
def test_convolutions_with_random_depth_are_quantized_and_right(fit, depth):
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 32, 3)
            self.body = nn.Conv2d(32, 32, 3, padding=1)
            self.depth = depth
            self.head = nn.Linear(32, 16)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = x + self.depth(self.body(x).relu())
            return self.head(x.mean((2, 3)))

    outcome = fit(Network(), of_shape(3, 16, 16), LinearQuantization())
    check_right(outcome)
    outcome.check_stored("quantized", bits=8)
    assert outcome.operations["quantize"] > 0


class Checkpointed(nn.Module):
    """The middle is computed again in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.first = nn.Linear(64, 64)
        self.middle = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
        self.last = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = checkpoint(self.middle, self.first(x), use_reentrant=self.reentrant)  # type: ignore[assignment]
        return self.last(hidden)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_changes_nothing(fit, reentrant, method):
    outcome = fit(Checkpointed(reentrant), of_shape(64), method)
    check_right(outcome)
    assert all(layer.technique != "dense" for layer in outcome.layers)


class Direct(Checkpointed):
    """The same without."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x)))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_what_is_trained_with_checkpointing_is_what_is_trained_without(fit: Fitting, reentrant, method):
    weights = []
    for kind in (Checkpointed, Direct):
        torch.manual_seed(0)
        network = kind(reentrant)
        torch.manual_seed(1)
        outcome = fit(network, of_shape(64), method)
        weights.append(outcome.compression.finalized.middle[0].weight)
    assert torch.equal(weights[0], weights[1])


class KeepsTensor(Branching):
    """Keeps a tensor of its forward for the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x))
        self.kept = hidden.pow(2).mean()
        return self.last(hidden)


class KeepsTensors(KeepsTensor):
    """Keeps them in a list and a dictionary."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x))
        self.maps, self.named = [hidden, hidden * 2], {"hidden": (hidden,)}
        return self.last(hidden)


@pytest.mark.parametrize("network", [KeepsTensor, KeepsTensors])
def test_a_module_may_keep_tensors_of_its_forward(fit, network, method):
    outcome = fit(network(), of_shape(64), method)
    check_right(outcome)
    assert all(layer.technique != "dense" for layer in outcome.layers)


def test_a_module_may_keep_tensors_of_its_forward_without_any_method(fit):
    fit(KeepsTensor(), of_shape(64)).check_right()
