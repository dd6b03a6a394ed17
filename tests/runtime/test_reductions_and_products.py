"""Softmax, reductions and products over axes against coremltools' own value inference: random shapes and values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.drawn import examples, normal, sample_shapes, seeds, shapes

FEW = examples(12)


@FEW
@given(seed=seeds, shape=sample_shapes, axis=st.integers(-3, 2))
def test_softmax(programs, seed, shape, axis):
    programs.agree("softmax", {"x": normal(seed, shape)}, {"axis": axis})


REDUCTIONS = (
    "reduce_l1_norm",
    "reduce_l2_norm",
    "reduce_log_sum",
    "reduce_max",
    "reduce_mean",
    "reduce_min",
    "reduce_prod",
    "reduce_sum",
    "reduce_sum_square",
)


@pytest.mark.parametrize("op_type", REDUCTIONS)
@FEW
@given(
    seed=seeds,
    shape=sample_shapes,
    axes=st.lists(st.integers(-2, 2), min_size=1, max_size=2, unique_by=lambda axis: axis % 3),
    keep_dims=st.booleans(),
)
def test_reductions(programs, op_type, seed, shape, axes, keep_dims):
    x = normal(seed, shape, 0.1, 2)
    programs.agree(op_type, {"x": x}, {"axes": np.array(axes, np.int32), "keep_dims": keep_dims})


@pytest.mark.parametrize("op_type", [*REDUCTIONS, "reduce_log_sum_exp"])
@FEW
@given(seed=seeds, shape=shapes)
def test_reductions_over_all_axes(programs, op_type, seed, shape):
    programs.agree(op_type, {"x": normal(seed, shape, 0.1, 2)}, {"keep_dims": True})


@FEW
@given(seed=seeds, shape=sample_shapes, axis=st.integers(-3, 2), keep_dims=st.booleans())
def test_reduce_log_sum_exp(programs, seed, shape, axis, keep_dims):
    x = normal(seed, shape, -50, 50)
    programs.agree(
        "reduce_log_sum_exp", {"x": x}, {"axes": np.array([axis], np.int32), "keep_dims": keep_dims}
    )


@pytest.mark.parametrize("op_type", ["reduce_argmax", "reduce_argmin"])
@FEW
@given(seed=seeds, shape=sample_shapes, axis=st.integers(-3, 2), keep_dims=st.booleans())
def test_positions_of_extremes(programs, op_type, seed, shape, axis, keep_dims):
    programs.agree(op_type, {"x": normal(seed, shape)}, {"axis": axis, "keep_dims": keep_dims})


@FEW
@given(seed=seeds, batch=st.integers(1, 2), inputs=st.integers(1, 5), outputs=st.integers(1, 5))
def test_linear(programs, seed, batch, inputs, outputs):
    weight, bias = normal(seed + 1, (outputs, inputs)), normal(seed + 2, (outputs,))
    programs.agree("linear", {"x": normal(seed, (batch, 3, inputs))}, {"weight": weight, "bias": bias})
    programs.agree("linear", {"x": normal(seed, (batch, inputs))}, {"weight": weight})


@FEW
@given(seed=seeds, batch=st.sampled_from([(), (1,), (2,), (1, 3)]), x=st.booleans(), y=st.booleans())
def test_matmul(programs, seed, batch, x, y):
    left, right = (3, 4) if x else (4, 3), (5, 3) if y else (3, 5)
    tensors = {"x": normal(seed, (*batch, *left)), "y": normal(seed + 1, (*batch, *right))}
    programs.agree("matmul", tensors, {"transpose_x": x, "transpose_y": y})
    programs.agree("matmul", {"x": tensors["x"]}, {"y": tensors["y"], "transpose_x": x, "transpose_y": y})


@FEW
@given(
    seed=seeds, axes=st.sampled_from([[-1], [2], [1, 2], [-3, -2, -1], [1], [0, 2]]), batch=st.integers(1, 2)
)
def test_layer_norm(programs, seed, axes, batch):
    shape = (batch, 3, 4)
    sizes = [size for axis, size in enumerate(shape) if axis in {a % 3 for a in axes}]
    gamma, beta = normal(seed + 1, sizes), normal(seed + 2, sizes)
    attributes = {"axes": np.array(axes, np.int32), "epsilon": np.float32(1e-3)}
    programs.agree("layer_norm", {"x": normal(seed, shape)}, {**attributes, "gamma": gamma, "beta": beta})
    programs.agree("layer_norm", {"x": normal(seed, shape)}, attributes)


@FEW
@given(seed=seeds, lead=st.sampled_from([(), (1,), (2,), (1, 2)]))
def test_l2_norm(programs, seed, lead):
    programs.agree("l2_norm", {"x": normal(seed, (*lead, 2, 3, 2))}, {"epsilon": np.float32(1e-3)})


@FEW
@given(
    seed=seeds, lower=st.integers(-1, 3), upper=st.integers(-1, 3), lead=st.sampled_from([(), (1,), (1, 2)])
)
def test_band_part(programs, seed, lower, upper, lead):
    programs.agree("band_part", {"x": normal(seed, (*lead, 4, 3))}, {"lower": lower, "upper": upper})
