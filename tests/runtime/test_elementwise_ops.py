"""Elementwise ops and activations against coremltools' own value inference: random shapes, values and attributes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.drawn import examples, normal, seeds, shapes

FEW = examples(12)

UNARY_DOMAINS = {
    "abs": (-3, 3),
    "acos": (-0.9, 0.9),
    "asin": (-0.9, 0.9),
    "atan": (-3, 3),
    "atanh": (-0.9, 0.9),
    "ceil": (-3, 3),
    "cos": (-3, 3),
    "cosh": (-3, 3),
    "erf": (-3, 3),
    "exp": (-3, 3),
    "exp2": (-3, 3),
    "floor": (-3, 3),
    "inverse": (0.5, 3),
    "log": (0.1, 3),
    "relu": (-3, 3),
    "relu6": (-3, 9),
    "round": (-3, 3),
    "rsqrt": (0.1, 3),
    "sigmoid": (-3, 3),
    "sign": (-3, 3),
    "sin": (-3, 3),
    "sinh": (-3, 3),
    "softplus": (-30, 30),
    "softsign": (-3, 3),
    "sqrt": (0, 3),
    "square": (-3, 3),
    "tan": (-1, 1),
    "tanh": (-3, 3),
}


@pytest.mark.parametrize("op_type", UNARY_DOMAINS)
@FEW
@given(seed=seeds, shape=shapes)
def test_elementwise_ops_of_one_operand(programs, op_type, seed, shape):
    programs.agree(op_type, {"x": normal(seed, shape, *UNARY_DOMAINS[op_type])})


FLOAT_BINARY = ("add", "sub", "mul", "real_div", "floor_div", "mod", "maximum", "minimum")
COMPARISONS = ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal")


def broadcast_pair(seed, shape, drop, ones):
    generator = np.random.default_rng(seed)
    other = [1 if one else size for size, one in zip(shape, ones, strict=False)]
    other = other[min(drop, len(other) - 1) :]
    return generator, other


@pytest.mark.parametrize("op_type", FLOAT_BINARY + COMPARISONS)
@FEW
@given(seed=seeds, shape=shapes, drop=st.integers(0, 2), ones=st.lists(st.booleans(), min_size=4, max_size=4))
def test_elementwise_ops_of_two_operands_broadcast(programs, op_type, seed, shape, drop, ones):
    generator, other = broadcast_pair(seed, shape, drop, ones)
    x = generator.integers(-8, 9, shape).astype(np.float32) / 4
    y = generator.integers(1, 9, other).astype(np.float32) / 4
    programs.agree(op_type, {"x": x, "y": y})


@pytest.mark.parametrize(
    "op_type", ["add", "sub", "mul", "floor_div", "mod", "maximum", "minimum", *COMPARISONS]
)
@FEW
@given(seed=seeds, shape=shapes, drop=st.integers(0, 2), ones=st.lists(st.booleans(), min_size=4, max_size=4))
def test_elementwise_ops_of_integers(programs, op_type, seed, shape, drop, ones):
    generator, other = broadcast_pair(seed, shape, drop, ones)
    x = generator.integers(-8, 9, shape).astype(np.int32)
    y = generator.integers(1, 9, other).astype(np.int32)
    programs.agree(op_type, {"x": x, "y": y})


@FEW
@given(seed=seeds, shape=shapes)
def test_pow(programs, seed, shape):
    programs.agree("pow", {"x": normal(seed, shape, 0.1, 2), "y": normal(seed + 1, shape, -2, 2)})


@pytest.mark.parametrize("op_type", ["logical_and", "logical_or", "logical_xor"])
@FEW
@given(seed=seeds, shape=shapes)
def test_logical_ops(programs, op_type, seed, shape):
    x, y = (normal(seed + i, shape) > 0 for i in range(2))
    programs.agree(op_type, {"x": x, "y": y})


@FEW
@given(seed=seeds, shape=shapes)
def test_logical_not(programs, seed, shape):
    programs.agree("logical_not", {"x": normal(seed, shape) > 0})


@FEW
@given(seed=seeds, shape=shapes)
def test_select(programs, seed, shape):
    condition = normal(seed, shape) > 0
    programs.agree("select", {"cond": condition, "a": normal(seed + 1, shape), "b": normal(seed + 2, shape)})


@pytest.mark.parametrize("dtype", ["int32", "fp32", "bool"])
@FEW
@given(seed=seeds, shape=shapes)
def test_cast(programs, dtype, seed, shape):
    programs.agree("cast", {"x": normal(seed, shape, -5, 5)}, {"dtype": dtype})


@FEW
@given(seed=seeds, shape=shapes, alpha=st.floats(-2, 0), beta=st.floats(0.1, 2))
def test_clip_and_threshold(programs, seed, shape, alpha, beta):
    x = normal(seed, shape)
    programs.agree("clip", {"x": x}, {"alpha": np.float32(alpha), "beta": np.float32(beta)})
    programs.agree("threshold", {"x": x}, {"alpha": np.float32(alpha)})


@pytest.mark.parametrize("op_type", ["elu", "leaky_relu", "thresholded_relu"])
@FEW
@given(seed=seeds, shape=shapes, alpha=st.floats(0.1, 2))
def test_activations_with_alpha(programs, op_type, seed, shape, alpha):
    programs.agree(op_type, {"x": normal(seed, shape)}, {"alpha": np.float32(alpha)})


@pytest.mark.parametrize("op_type", ["clamped_relu", "linear_activation", "scaled_tanh", "sigmoid_hard"])
@FEW
@given(seed=seeds, shape=shapes, alpha=st.floats(0.1, 2), beta=st.floats(0.1, 2))
def test_activations_with_alpha_and_beta(programs, op_type, seed, shape, alpha, beta):
    programs.agree(
        op_type, {"x": normal(seed, shape)}, {"alpha": np.float32(alpha), "beta": np.float32(beta)}
    )


@FEW
@given(seed=seeds, batch=st.integers(1, 2), channels=st.integers(1, 4))
def test_activations_by_channel(programs, seed, batch, channels):
    x = normal(seed, (batch, channels, 3, 2))
    alpha, beta = (normal(seed + i, (channels,), 0.1, 2) for i in (1, 2))
    programs.agree("prelu", {"x": x}, {"alpha": alpha})
    programs.agree("softplus_parametric", {"x": x}, {"alpha": alpha, "beta": beta})


@pytest.mark.parametrize("mode", ["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"])
@FEW
@given(seed=seeds, shape=shapes)
def test_gelu(programs, mode, seed, shape):
    programs.agree("gelu", {"x": normal(seed, shape)}, {"mode": mode})
