"""Recurrent layers: plain, gated and long short-term memory.

Where coremltools' documentation leaves things open, these do what its tests expect of Core ML: a layer in reverse gives
its states in the order in which it made them, `clip` bounds the cell state, and both scales of the scaled tanh are 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_compress.runtime.registry import register

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "linear": lambda x: x,
    "hard_sigmoid": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
    "sigmoid_hard": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
    "scaled_tanh": torch.tanh,
}


@register("rnn", tensors="x initial_h weight_ih weight_hh bias")
def rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """A plain recurrent layer over `x` [steps, batch, inputs]: all or the last hidden states, and the last one."""
    activate = _ACTIVATIONS[activation]
    h, states = initial_h, []
    for inputs in F.linear(_in_order(x, direction), weight_ih, bias):
        h = activate(inputs + F.linear(h, weight_hh))
        states.append(h)
    return _sequence(states, output_sequence), h


@register("gru", tensors="x initial_h weight_ih weight_hh bias input_bias")
def gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    input_bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
) -> tuple[Tensor, Tensor]:
    """A gated recurrent unit over `x` [steps, batch, inputs], gates in the order reset, output, update.

    The reset gate scales the hidden state before its weights; with `reset_after`, what they give, bias included, as in
    PyTorch. `bias` is that of the hidden weights, and where it stands alone that of both.
    """
    gate, activate = _ACTIVATIONS[recurrent_activation], _ACTIVATIONS[activation]
    size = weight_hh.shape[1]
    h, states = initial_h, []
    for inputs in F.linear(_in_order(x, direction), weight_ih, input_bias):
        r_in, o_in, z_in = torch.split(inputs, size, -1)
        r_hidden, o_hidden, z_hidden = torch.split(F.linear(h, weight_hh, bias), size, -1)
        r, z = gate(r_in + r_hidden), gate(z_in + z_hidden)
        if not reset_after:
            o_hidden = F.linear(
                r * h, weight_hh[size : 2 * size], None if bias is None else bias[size : 2 * size]
            )
        o = activate(o_in + (r * o_hidden if reset_after else o_hidden))
        h = (1 - z) * o + z * h
        states.append(h)
    return _sequence(states, output_sequence), h


@register(
    "lstm",
    tensors="x initial_h initial_c weight_ih weight_hh bias peephole "
    "weight_ih_back weight_hh_back bias_back peephole_back",
)
def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Long short-term memory over `x` [steps, batch, inputs], gates in the order input, forget, output, cell.

    Returns:
        All or the last hidden states, the last hidden state and the last cell state; both directions side by side.
    """
    functions = (recurrent_activation, cell_activation, activation)
    if direction != "bidirectional":
        weights = (weight_ih, weight_hh, bias, peephole)
        return _lstm(x, initial_h, initial_c, weights, direction, output_sequence, functions, clip)
    assert weight_ih_back is not None
    assert weight_hh_back is not None
    size = weight_hh.shape[1]
    forward = _lstm(
        x,
        initial_h[:, :size],
        initial_c[:, :size],
        (weight_ih, weight_hh, bias, peephole),
        "forward",
        output_sequence,
        functions,
        clip,
    )
    backward = _lstm(
        x,
        initial_h[:, size:],
        initial_c[:, size:],
        (weight_ih_back, weight_hh_back, bias_back, peephole_back),
        "reverse",
        output_sequence,
        functions,
        clip,
    )
    # Side by side, both directions are in the order of the inputs.
    aligned = (backward[0].flip(0), *backward[1:])
    sequence, h, c = (torch.cat(pair, -1) for pair in zip(forward, aligned, strict=True))
    return sequence, h, c


def _lstm(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    direction: str,
    output_sequence: bool,
    functions: tuple[str, str, str],
    clip: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    weight_ih, weight_hh, bias, peephole = weights
    gate, cell, activate = (_ACTIVATIONS[name] for name in functions)
    size = weight_hh.shape[1]
    peep_i, peep_f, peep_o = torch.split(peephole, size) if peephole is not None else (None, None, None)
    states = []
    for inputs in F.linear(_in_order(x, direction), weight_ih, bias):
        i, f, o, z = torch.split(inputs + F.linear(h, weight_hh), size, -1)
        if peep_i is not None and peep_f is not None:
            i, f = i + peep_i * c, f + peep_f * c
        c = gate(f) * c + gate(i) * cell(z)
        if clip is not None:
            c = c.clamp(-clip, clip)
        if peep_o is not None:
            o = o + peep_o * c
        h = gate(o) * activate(c)
        states.append(h)
    return _sequence(states, output_sequence), h, c


def _in_order(x: Tensor, direction: str) -> Tensor:
    return x.flip(0) if direction == "reverse" else x


def _sequence(states: list[Tensor], output_sequence: bool) -> Tensor:
    return torch.stack(states) if output_sequence else states[-1].unsqueeze(0)
