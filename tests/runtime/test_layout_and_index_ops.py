"""Ops that move values between axes and by index, against numpy written from coremltools' documentation."""

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
batches = st.integers(1, 2)


def normal(seed, shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def integers(seed, high, shape):
    return np.random.default_rng(seed).integers(0, high, shape).astype(np.int32)


@FEW
@given(seed=seeds, batch=batches, channels=st.integers(1, 2), block=st.integers(2, 3))
def test_depth_to_space_and_back(programs, seed, batch, channels, block):
    x = normal(seed, (batch, channels * block**2, 2, 3))
    actual = programs.run(lambda x: mb.depth_to_space(x=x, block_size=block), {"x": x})[0]
    expected = np.zeros((batch, channels, 2 * block, 3 * block), np.float32)
    for c, i, j in np.ndindex(channels, 2 * block, 3 * block):
        source = ((i % block) * block + j % block) * channels + c
        expected[:, c, i, j] = x[:, source, i // block, j // block]
    np.testing.assert_array_equal(actual, expected)
    back = programs.run(lambda x: mb.space_to_depth(x=x, block_size=block), {"x": expected})[0]
    np.testing.assert_array_equal(back, x)


@FEW
@given(seed=seeds, batch=batches, channels=st.integers(1, 2), factor=st.integers(2, 3))
def test_pixel_shuffle_and_back(programs, seed, batch, channels, factor):
    x = normal(seed, (batch, channels * factor**2, 2, 3))
    actual = programs.run(lambda x: mb.pixel_shuffle(x=x, upscale_factor=factor), {"x": x})[0]
    expected = torch.nn.PixelShuffle(factor)(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(actual, expected)
    body = lambda x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(factor))  # noqa: E731
    np.testing.assert_array_equal(programs.run(body, {"x": expected})[0], x)


@FEW
@given(seed=seeds, batch=batches, pads=st.lists(st.integers(0, 2), min_size=2, max_size=2))
def test_space_to_batch_and_back(programs, seed, batch, pads):
    x = normal(seed, (batch, 2, 4, 6))
    paddings = [[2 * pads[0], 0], [pads[1], pads[1]]]
    padded = np.pad(x, [(0, 0), (0, 0), *paddings])
    body = lambda x: mb.space_to_batch(x=x, block_shape=[2, 2], paddings=paddings)  # noqa: E731
    actual = programs.run(body, {"x": x})[0]
    expected = np.concatenate([padded[:, :, i::2, j::2] for i in range(2) for j in range(2)])
    np.testing.assert_array_equal(actual, expected)
    body = lambda x: mb.batch_to_space(x=x, block_shape=[2, 2], crops=paddings)  # noqa: E731
    np.testing.assert_array_equal(programs.run(body, {"x": expected})[0], x)


@FEW
@given(seed=seeds, axis=st.integers(-3, 2), size=st.integers(1, 3), stride=st.integers(1, 2), batch=batches)
def test_sliding_windows(programs, seed, axis, size, stride, batch):
    x = normal(seed, (3 if axis in (0, -3) else batch, 3, 4))
    actual = programs.run(lambda x: mb.sliding_windows(x=x, axis=axis, size=size, stride=stride), {"x": x})[0]
    starts = range(0, x.shape[axis] - size + 1, stride)
    expected = np.stack([np.take(x, range(start, start + size), axis) for start in starts], axis % 3)
    np.testing.assert_array_equal(actual, expected)


@FEW
@given(seed=seeds, axes=st.sampled_from([(0, 1), (1, 0), (2, 0), (1, 2)]))
def test_reverse_sequence(programs, seed, axes):
    seq, batch = axes
    x = normal(seed, (3, 4, 2))
    lengths = integers(seed, x.shape[seq] + 1, x.shape[batch])
    expected = x.copy()
    for i, length in enumerate(lengths):
        row = np.take(x, i, batch)
        along = seq - (batch < seq)
        order = [*reversed(range(length)), *range(length, x.shape[seq])]
        index = [slice(None)] * 3
        index[batch] = i
        expected[tuple(index)] = np.take(row, order, along)
    body = lambda x: mb.reverse_sequence(x=x, lengths=lengths, seq_axis=seq, batch_axis=batch)  # noqa: E731
    np.testing.assert_array_equal(programs.run(body, {"x": x})[0], expected)


@FEW
@given(seed=seeds, axis=st.integers(0, 2), interleave=st.booleans())
def test_concat_interleaves(programs, seed, axis, interleave):
    x, y = normal(seed, (1, 3, 2)), normal(seed + 1, (1, 3, 2))
    body = lambda x, y: mb.concat(values=[x, y], axis=axis, interleave=interleave)  # noqa: E731
    expected = np.concatenate([x, y], axis)
    if interleave:
        expected = np.stack([x, y], axis + 1).reshape(expected.shape)
    np.testing.assert_array_equal(programs.run(body, {"x": x, "y": y})[0], expected)


@FEW
@given(seed=seeds, axis=st.integers(0, 3), batch=batches)
def test_flatten2d(programs, seed, axis, batch):
    x = normal(seed, (batch, 2, 3))
    actual = programs.run(lambda x: mb.flatten2d(x=x, axis=axis), {"x": x})[0]
    np.testing.assert_array_equal(actual, x.reshape(int(np.prod(x.shape[:axis])), -1))


def test_reshape_like(programs):
    x, other, third = normal(0, (6, 20)), normal(1, (2, 3, 4)), normal(2, (1, 5, 4))
    body = lambda x, other, third: mb.reshape_like(  # noqa: E731
        x=x, ref_tensors=[other, third], begins=[0, 1], ends=[2, 0], end_masks=[False, True]
    )
    actual = programs.run(body, {"x": x, "other": other, "third": third})[0]
    np.testing.assert_array_equal(actual, x.reshape(2, 3, 5, 4))


@FEW
@given(seed=seeds, axis=st.integers(-2, 1), count=st.integers(1, 4))
def test_one_hot(programs, seed, axis, count):
    indices = integers(seed, count, (4,))
    body = lambda x: mb.one_hot(  # noqa: E731
        indices=x, one_hot_vector_size=count, axis=axis, on_value=np.float32(2.5), off_value=np.float32(-1)
    )
    expected = np.where(np.eye(count)[indices], np.float32(2.5), np.float32(-1))
    expected = expected if axis in (-1, 1) else expected.T
    np.testing.assert_array_equal(programs.run(body, {"x": indices})[0], expected)


@FEW
@given(seed=seeds, depth=st.integers(1, 3), batch_dims=st.integers(0, 1))
def test_gather_nd(programs, seed, depth, batch_dims):
    x = normal(seed, (2, 3, 4, 2))
    indices = np.stack(
        [integers(seed + i, size, (2, 3)) for i, size in enumerate(x.shape[batch_dims : batch_dims + depth])],
        -1,
    )
    actual = programs.run(lambda x: mb.gather_nd(x=x, indices=indices, batch_dims=batch_dims), {"x": x})[0]
    if batch_dims:
        expected = np.stack([x[i][tuple(np.moveaxis(indices[i], -1, 0))] for i in range(2)])
    else:
        expected = x[tuple(np.moveaxis(indices, -1, 0))]
    np.testing.assert_array_equal(actual, expected)


@FEW
@given(seed=seeds, axis=st.integers(1, 3), shape=st.sampled_from([(2,), (2, 3), (2, 3, 2)]))
def test_gather_with_batch_dimensions(programs, seed, axis, shape):
    x = normal(seed, (2, 3, 4, 2))
    batch_dims = min(len(shape) - 1, axis) or 1
    batch_dims = batch_dims if x.shape[:batch_dims] == shape[:batch_dims] else 1
    indices = integers(seed, x.shape[axis], shape)
    body = lambda x: mb.gather(x=x, indices=indices, axis=axis, batch_dims=batch_dims)  # noqa: E731
    actual = programs.run(body, {"x": x})[0]
    parts = [np.take(x[i], indices[i], axis - batch_dims) for i in np.ndindex(*shape[:batch_dims])]
    np.testing.assert_array_equal(actual, np.stack(parts).reshape(actual.shape))


SCATTERS = {
    "update": lambda old, new: new,
    "add": lambda old, new: old + new,
    "sub": lambda old, new: old - new,
    "mul": lambda old, new: old * new,
    "div": lambda old, new: old / new,
    "max": max,
    "min": min,
}


@pytest.mark.parametrize("mode", SCATTERS)
@FEW
@given(seed=seeds, axis=st.integers(-2, 1))
def test_scatters(programs, mode, seed, axis):
    data = normal(seed, (4, 5))
    updates = normal(seed + 1, (3, 5) if axis in (0, -2) else (4, 3)) + 2
    # Entries that are written twice have no defined order when they are updated.
    order = np.random.default_rng(seed).permutation(data.shape[axis])[:3]
    indices = (order if mode == "update" else integers(seed, data.shape[axis], 3)).astype(np.int32)
    expected = data.copy()
    for place in np.ndindex(*updates.shape):
        target = (indices[place[0]], place[1]) if axis in (0, -2) else (place[0], indices[place[1]])
        expected[target] = SCATTERS[mode](expected[target], updates[place])
    body = lambda data, updates: mb.scatter(data=data, indices=indices, updates=updates, axis=axis, mode=mode)  # noqa: E731
    tensors = {"data": data, "updates": updates}
    np.testing.assert_allclose(programs.run(body, tensors)[0], expected, rtol=1e-5)

    along = np.broadcast_to(indices[:, None] if axis in (0, -2) else indices[None], updates.shape)
    body = lambda data, updates: mb.scatter_along_axis(  # noqa: E731
        data=data, indices=np.ascontiguousarray(along), updates=updates, axis=axis, mode=mode
    )
    np.testing.assert_allclose(programs.run(body, tensors)[0], expected, rtol=1e-5)

    rows = indices if axis in (0, -2) else np.arange(4)
    columns = np.arange(5) if axis in (0, -2) else indices
    places = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).astype(np.int32)
    body = lambda data, updates: mb.scatter_nd(data=data, indices=places, updates=updates, mode=mode)  # noqa: E731
    np.testing.assert_allclose(programs.run(body, tensors)[0], expected, rtol=1e-5)


@FEW
@given(seed=seeds, mode=st.sampled_from(["update", "add"]))
def test_scatter_nd_of_slices(programs, seed, mode):
    data, updates = normal(seed, (4, 3, 2)), normal(seed + 1, (2, 3, 2))
    places = np.random.default_rng(seed).permutation(4)[:2].reshape(2, 1).astype(np.int32)
    body = lambda data, updates: mb.scatter_nd(data=data, indices=places, updates=updates, mode=mode)  # noqa: E731
    expected = data.copy()
    expected[places[:, 0]] = updates + (data[places[:, 0]] if mode == "add" else 0)
    actual = programs.run(body, {"data": data, "updates": updates})[0]
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@FEW
@given(seed=seeds, stride=st.sampled_from([1, 2, -1]), squeeze=st.booleans())
def test_slice_update(programs, seed, stride, squeeze):
    x = normal(seed, (3, 4, 5))
    cut = (1 if squeeze else slice(1, 3), slice(3, 0, -1) if stride < 0 else slice(0, 4, stride), slice(None))
    update = normal(seed + 1, x[cut].shape)
    body = lambda x, update: mb.slice_update(  # noqa: E731
        x=x,
        update=update,
        begin=[1, 3 if stride < 0 else 0, 0],
        end=[3, 0 if stride < 0 else 4, 0],
        stride=[1, stride, 1],
        begin_mask=[False, False, True],
        end_mask=[False, False, True],
        squeeze_mask=[squeeze, False, False],
    )
    expected = x.copy()
    expected[cut] = update
    np.testing.assert_array_equal(programs.run(body, {"x": x, "update": update})[0], expected)


@FEW
@given(seed=seeds, exclusive=st.booleans(), reverse=st.booleans(), axis=st.integers(0, 2))
def test_cumsum(programs, seed, exclusive, reverse, axis):
    x = normal(seed, (1, 3, 4))
    expected = np.flip(x, axis) if reverse else x
    expected = np.cumsum(expected, axis) - (expected if exclusive else 0)
    expected = np.flip(expected, axis) if reverse else expected
    body = lambda x: mb.cumsum(x=x, axis=axis, exclusive=exclusive, reverse=reverse)  # noqa: E731
    np.testing.assert_allclose(programs.run(body, {"x": x})[0], expected, atol=1e-5)


@FEW
@given(seed=seeds, equation=st.sampled_from(["nchw,nwhu->nchu", "chw,whr->chr"]), broadcast=st.booleans())
def test_einsum(programs, seed, equation, broadcast):
    x, y = ((2, 3, 4, 5), (2, 5, 4, 3)) if equation.startswith("n") else ((3, 4, 5), (5, 4, 2))
    left, right = normal(seed, x), normal(seed + 1, y)
    if broadcast:
        right = right[..., :1, :]
    body = lambda x, y: mb.einsum(values=[x, y], equation=equation)  # noqa: E731
    expected = np.einsum(equation, left, np.broadcast_to(right, y))
    np.testing.assert_allclose(programs.run(body, {"x": left, "y": right})[0], expected, atol=1e-5)


@FEW
@given(seed=seeds, batch=batches, by_channel=st.booleans(), zero=st.booleans(), signed=st.booleans())
def test_dequantize(programs, seed, batch, by_channel, zero, signed):
    dtype = np.int8 if signed else np.uint8
    levels = np.random.default_rng(seed).integers(0, 127, (batch, 3, 2)).astype(dtype)
    scale = np.float32(0.05) if not by_channel else np.array([0.1, 0.2, 0.3], np.float32)
    offset = dtype(7) if not by_channel else np.array([1, 2, 3], dtype)
    attributes = {
        "scale": scale,
        **({"axis": 1} if by_channel else {}),
        **({"zero_point": offset} if zero else {}),
    }
    column = lambda v: v.reshape(-1, 1) if by_channel else v  # noqa: E731
    expected = column(scale) * (
        levels.astype(np.float32) - (column(offset).astype(np.float32) if zero else 0)
    )
    x = levels.astype(np.float32)

    def body(x):
        quantized = mb.quantize(input=x, scale=np.float32(1), output_dtype=np.dtype(dtype).name)
        return mb.dequantize(input=quantized, **attributes)

    actual = programs.run(body, {"x": x}, target=ct.target.iOS17)[0]
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
