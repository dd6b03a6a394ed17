"""Ops against coremltools' own value inference: random shapes, values and attributes."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - coremltools' own name for it
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FEW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

seeds = st.integers(0, 2**16)
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)
# Half of the shapes begin with the single sample that packages are converted for.
sample_shapes = st.tuples(st.sampled_from([1, 2]), st.integers(1, 4), st.integers(1, 4)).map(tuple)


def normal(seed, shape, low=None, high=None):
    generator = np.random.default_rng(seed)
    if low is not None:
        return generator.uniform(low, high, shape).astype(np.float32)
    return generator.normal(size=shape).astype(np.float32)


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


@FEW
@given(seed=seeds, axis=st.integers(0, 2), reverse=st.booleans(), batch=st.integers(1, 2))
def test_cumsum(programs, seed, axis, reverse, batch):
    programs.agree("cumsum", {"x": normal(seed, (batch, 3, 4))}, {"axis": axis, "reverse": reverse})


@FEW
@given(seed=seeds, shape=sample_shapes, count=st.integers(1, 3), axis=st.integers(-3, 2))
def test_concat_and_stack(programs, seed, shape, count, axis):
    tensors = {f"x{i}": normal(seed + i, shape) for i in range(count + 1)}
    for op_type, join in (("concat", np.concatenate), ("stack", np.stack)):
        actual = programs.run(
            lambda op_type=op_type, **variables: getattr(mb, op_type)(
                values=list(variables.values()), axis=axis
            ),
            tensors,
        )
        expected = programs.infer(op_type, {"values": list(tensors.values()), "axis": axis})
        np.testing.assert_array_equal(actual[0], expected[0])
        np.testing.assert_array_equal(actual[0], join(list(tensors.values()), axis))


@FEW
@given(seed=seeds, axis=st.integers(-2, 2), batch=st.sampled_from([1, 2]))
def test_split(programs, seed, axis, batch):
    x = normal(seed, (4 if axis == 0 else batch, 4, 4))
    programs.agree("split", {"x": x}, {"axis": axis, "num_splits": 2})
    programs.agree("split", {"x": x}, {"axis": axis, "split_sizes": np.array([1, 3], np.int32)})


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
@FEW
@given(
    seed=seeds,
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    rank=st.integers(2, 4),
    value=st.floats(-2, 2),
)
def test_pad(programs, mode, seed, pads, rank, value):
    x = normal(seed, (1, 2, 3, 4)[-rank:])
    programs.agree(
        "pad", {"x": x}, {"pad": np.array(pads, np.int32), "mode": mode, "constant_val": np.float32(value)}
    )


@FEW
@given(seed=seeds, reps=st.lists(st.integers(1, 3), min_size=3, max_size=3), batch=st.integers(1, 2))
def test_tile(programs, seed, reps, batch):
    programs.agree("tile", {"x": normal(seed, (batch, 2, 3))}, {"reps": np.array(reps, np.int32)})


@FEW
@given(seed=seeds, k=st.integers(1, 2), axis=st.integers(-3, 2), ascending=st.booleans())
def test_topk_and_argsort(programs, seed, k, axis, ascending):
    x = normal(seed, (2, 3, 4))
    attributes = {"axis": axis, "ascending": ascending}
    programs.agree("topk", {"x": x}, {**attributes, "k": k})
    programs.agree("argsort", {"x": x}, attributes)


@FEW
@given(seed=seeds, axes=st.sampled_from([[0], [1], [-1], [0, 2], [1, 2], [1, -1]]), batch=st.integers(1, 2))
def test_expand_dims_and_squeeze(programs, seed, axes, batch):
    x = normal(seed, (batch, 3, 2))
    programs.agree("expand_dims", {"x": x}, {"axes": np.array(axes, np.int32)})
    ones = normal(seed, (1, 1, 3, 1))
    programs.agree("squeeze", {"x": ones}, {"axes": np.array([a % 4 for a in (1, 3)], np.int32)})
    programs.agree("squeeze", {"x": ones}, {"axes": np.array([0], np.int32)})
    programs.agree("squeeze", {"x": ones})


@FEW
@given(
    seed=seeds, shape=st.sampled_from([(1, 24), (1, 3, 8), (1, -1, 4), (24,), (0, -1), (2, 12), (1, 2, 3, 4)])
)
def test_reshape(programs, seed, shape):
    x = normal(seed, (1, 24) if 0 in shape else (1, 2, 12))
    programs.agree("reshape", {"x": x}, {"shape": np.array(shape, np.int32)})


@FEW
@given(seed=seeds, perm=st.permutations([0, 1, 2]), shape=sample_shapes)
def test_transpose_and_reverse(programs, seed, perm, shape):
    x = normal(seed, shape)
    programs.agree("transpose", {"x": x}, {"perm": np.array(perm, np.int32)})
    programs.agree("reverse", {"x": x}, {"axes": np.array(perm[:2], np.int32)})
    programs.agree("reverse", {"x": x})
    programs.agree("identity", {"x": x})


@st.composite
def slices(draw):
    shape = (draw(st.integers(1, 2)), draw(st.integers(2, 5)), draw(st.integers(2, 5)))
    begin, end, stride, masks = [], [], [], []
    for size in shape:
        step = draw(st.sampled_from([1, 1, 2, -1, -2]))
        first = draw(st.integers(0, size - 1))
        last = draw(st.integers(first + 1, size))
        begin.append(last - 1 if step < 0 else first)
        end.append(first - 1 if step < 0 and first else last)
        stride.append(step)
        masks.append(
            (draw(st.booleans()), draw(st.booleans()) or (step < 0 and not first), draw(st.booleans()))
        )
    if all(mask[2] for mask in masks):
        masks[-1] = (*masks[-1][:2], False)
    return shape, begin, end, stride, list(zip(*masks, strict=True))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=seeds, cut=slices())
def test_slice_by_index(programs, seed, cut):
    shape, begin, end, stride, masks = cut
    programs.agree(
        "slice_by_index",
        {"x": normal(seed, shape)},
        {
            "begin": np.array(begin, np.int32),
            "end": np.array(end, np.int32),
            "stride": np.array(stride, np.int32),
            "begin_mask": list(masks[0]),
            "end_mask": list(masks[1]),
            "squeeze_mask": list(masks[2]),
        },
    )


@FEW
@given(seed=seeds, begin=st.integers(0, 2), size=st.sampled_from([-1, 1]), batch=st.integers(1, 2))
def test_slice_by_size(programs, seed, begin, size, batch):
    programs.agree(
        "slice_by_size",
        {"x": normal(seed, (batch, 3, 4))},
        {"begin": np.array([0, begin, 1], np.int32), "size": np.array([batch, size, 2], np.int32)},
    )


@FEW
@given(
    seed=seeds,
    axis=st.integers(-3, 2),
    shape=st.sampled_from([(2,), (1, 2), (2, 2)]),
    batch=st.integers(1, 2),
)
def test_gather(programs, seed, axis, shape, batch):
    x = normal(seed, (batch, 3, 4))
    indices = np.random.default_rng(seed).integers(0, x.shape[axis], shape).astype(np.int32)
    programs.agree("gather", {"x": x}, {"indices": indices, "axis": axis})
    programs.agree("gather", {"x": x}, {"indices": np.int32(0), "axis": axis})


@FEW
@given(seed=seeds, axis=st.integers(-3, 2))
def test_gather_along_axis(programs, seed, axis):
    x = normal(seed, (2, 3, 4))
    indices = np.random.default_rng(seed).integers(0, x.shape[axis], x.shape).astype(np.int32)
    programs.agree("gather_along_axis", {"x": x}, {"indices": indices, "axis": axis})


@FEW
@given(seed=seeds)
def test_non_zero(programs, seed):
    programs.agree("non_zero", {"x": (normal(seed, (3, 4)) > 0).astype(np.float32)})


@pytest.mark.parametrize("output_dtype", ["int8", "uint8"])
@FEW
@given(seed=seeds, by_channel=st.booleans(), zero=st.booleans(), batch=st.integers(1, 2))
def test_quantize(programs, output_dtype, seed, by_channel, zero, batch):
    size = (3,) if by_channel else ()
    attributes = {"scale": np.asarray(normal(seed + 1, size, 0.01, 0.1)), "output_dtype": output_dtype}
    if by_channel:
        attributes["axis"] = 1
    if zero:
        offsets = np.random.default_rng(seed).integers(0, 100, size)
        attributes["zero_point"] = np.asarray(offsets, np.int8 if output_dtype == "int8" else np.uint8)
    programs.agree("quantize", {"input": normal(seed, (batch, 3, 2))}, attributes, target=ct.target.iOS17)


@FEW
@given(seed=seeds, shape=shapes, value=st.floats(-3, 3, width=32))
def test_fill_and_fill_like(programs, seed, shape, value):
    x = normal(seed, shape)
    expected = programs.infer("fill", {"shape": np.array(shape, np.int32), "value": np.float32(value)})
    for body in (
        lambda x: mb.fill(shape=np.array(shape, np.int32), value=np.float32(value)),
        lambda x: mb.fill_like(ref_tensor=x, value=np.float32(value)),
        lambda x: mb.fill(shape=mb.shape(x=x), value=np.float32(value)),
    ):
        np.testing.assert_array_equal(
            programs.build(body, {"x": x})(x=torch.from_numpy(x)).popitem()[1], expected[0]
        )


def test_range_1d_and_shape(programs):
    x = np.zeros((2, 5), np.float32)
    module = programs.build(lambda x: (mb.range_1d(start=1, end=9, step=3), mb.shape(x=x)), {"x": x})
    count, size = module(x=torch.from_numpy(x)).values()
    assert count.tolist() == programs.infer("range_1d", {"start": 1, "end": 9, "step": 3})[0].tolist()
    assert size.tolist() == [2, 5]
