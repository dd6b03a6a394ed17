"""LSTM, GRU and RNN, whose weights stand in a list that their function reads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor, nn

from lightning_compress import LinearQuantization, MagnitudePruning
from lightning_compress.methods import Method
from tests.cases.fitting import int8_weights, of_shape, palettized

METHODS: dict[str, Callable[[], Method]] = {
    "palettized": palettized,
    "pruned": lambda: MagnitudePruning(target_sparsity=0.75),
    "quantized": int8_weights,
}


@pytest.fixture(params=METHODS)
def technique(request: pytest.FixtureRequest) -> str:
    return request.param


class Recurrent(nn.Module):
    """A recurrent layer and a projection of each of its outputs."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer
        width = layer.hidden_size * (2 if layer.bidirectional else 1)
        self.out = nn.Linear(width, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x)[0])


LAYERS: dict[str, Callable[[], nn.RNNBase]] = {
    "LSTM": lambda: nn.LSTM(16, 32, batch_first=True),
    "LSTM of two layers": lambda: nn.LSTM(16, 32, num_layers=2, batch_first=True),
    "LSTM both ways": lambda: nn.LSTM(16, 32, bidirectional=True, batch_first=True),
    "LSTM without bias": lambda: nn.LSTM(16, 32, bias=False, batch_first=True),
    "GRU": lambda: nn.GRU(16, 32, batch_first=True),
    "RNN": lambda: nn.RNN(16, 32, batch_first=True),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_the_weights_of_a_recurrent_layer_are_compressed(fit, layer, technique):
    outcome = fit(Recurrent(LAYERS[layer]()), of_shape(6, 16), METHODS[technique]())
    outcome.check_right()
    weights = [one for one in outcome.layers if technique in one.technique]
    dense = [one for one in outcome.layers if technique not in one.technique]
    assert sum(one.parameters for one in dense) < 0.1 * sum(one.parameters for one in outcome.layers), dense
    assert len(weights) >= 3
    if technique == "pruned":
        assert all(one.sparsity == pytest.approx(0.75, abs=0.03) for one in weights)


@pytest.mark.parametrize("layer", ["LSTM", "GRU"])
def test_recurrent_weights_are_pruned_and_palettized(fit, layer):
    methods = (MagnitudePruning(target_sparsity=0.5), palettized())
    outcome = fit(Recurrent(LAYERS[layer]()), of_shape(6, 16), *methods)
    outcome.check_right()
    assert all("palettized" in one.technique and one.distinct_values <= 16 for one in outcome.layers)
    assert all(one.sparsity > 0.45 for one in outcome.layers)


@pytest.mark.parametrize("layer", ["LSTM", "GRU"])
def test_int8_activations_beside_a_recurrent_layer_are_right(fit, layer):
    outcome = fit(Recurrent(LAYERS[layer]()), of_shape(6, 16), LinearQuantization())
    outcome.check_right(finalized=2e-2, package=5e-2)
    assert outcome.operations["quantize"] > 0
    assert all("quantized" in one.technique for one in outcome.layers)


class ConvolutionAndRecurrent(nn.Module):
    """Goes up by a transposed convolution, then through time."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(1, 32, 4, 4)
        self.recurrent = nn.LSTM(32, 64, batch_first=True)
        self.out = nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.recurrent(self.up(x).mean(2).transpose(1, 2))[0])


def test_nothing_stays_dense_between_a_transposed_convolution_and_a_recurrent_layer(fit, technique):
    outcome = fit(ConvolutionAndRecurrent(), of_shape(1, 4, 8), METHODS[technique]())
    outcome.check_right()
    outcome.check_stored(technique)


class CalledTwice(nn.Module):
    """One LSTM goes over two sequences, the second from the state of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(16, 32, batch_first=True)
        self.out = nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        _, state = self.recurrent(x)
        return self.out(self.recurrent(x.flip(1), state)[0])


def test_a_recurrent_layer_may_be_called_twice(fit, technique):
    outcome = fit.outcome_or_refusal(CalledTwice(), of_shape(6, 16), METHODS[technique]())
    assert not isinstance(outcome, str), outcome
    outcome.check_right()


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell])
def test_cells_are_compressed_or_told_to_be_dense(fit, cell, technique, capsys):
    class Unrolled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = cell(16, 32)
            self.out = nn.Linear(32, 16)

        def forward(self, x: Tensor) -> Tensor:
            state = None
            for step in range(3):
                state = self.cell(x[:, step], state)
            return self.out(state[0] if isinstance(state, tuple) else state)

    outcome = fit.outcome_or_refusal(Unrolled(), of_shape(3, 16), METHODS[technique]())
    if not isinstance(outcome, str):
        outcome.check_right()
        if any(layer.technique == "dense" for layer in outcome.layers):
            assert "cell" in capsys.readouterr().out
