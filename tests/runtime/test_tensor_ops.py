"""Ops that join, cut, move and make tensors against coremltools' own value inference: random shapes and values."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - coremltools' own name for it
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.drawn import examples, normal, sample_shapes, seeds, shapes

FEW = examples(12)


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


@examples(60)
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
