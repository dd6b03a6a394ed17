"""Every compressed form: from values and metadata into a program, and exactly back."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder, Function, types
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lightning_compress.runtime.ops  # noqa: F401 - fills the table of operations
from lightning_compress.coreml.compressed import concatenated
from lightning_compress.coreml.compressed_constants import read_constant, write_constant
from lightning_compress.coreml.recovery import compressed_tensor
from lightning_compress.errors import CompressionError
from lightning_compress.package.constexpr import decompressed
from lightning_compress.package.storage import NumberKind, read_storage
from lightning_compress.runtime.interface import ProgramInput, Size
from lightning_compress.runtime.lowering import lower
from lightning_compress.runtime.module import CoreMLProgram
from tests.coreml.forms import forms, palettized, pruned, quantized

MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FEW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])

dtypes = st.sampled_from([np.float16, np.float32])


def written(tensor, *, opset=ct.target.iOS18, dtype=np.float32):
    """The variable of a constant in a program of its own, and that program."""
    with Function(
        {
            "x": Builder.placeholder(
                shape=tensor.shape, dtype=types.numpy_type_to_builtin_type(dtype), name="x"
            )
        },
        opset_version=opset,
    ) as function:
        constant = write_constant(tensor, "layer.weight", opset, dtype=dtype)
        function.set_outputs([Builder.add(x=function.inputs["x"], y=constant)])
    return constant, function


def run(function, shape):
    """What the runtime computes from zeros, which is the constant."""
    program = lower(function)
    name = next(iter(program.input_types))
    inputs = [ProgramInput(name, program.input_types[name][0], tuple(Size(s, s) for s in shape))]
    precision = "float16" if program.input_types[name][0] == torch.float16 else "float32"
    module = CoreMLProgram(program, inputs, precision, "a constant")
    (output,) = module(torch.zeros(shape, dtype=program.input_types[name][0])).values()
    return output.float().numpy()


@MANY
@given(forms, dtypes)
def test_what_is_written_holds_exactly_the_values(form, dtype):
    tensor = compressed_tensor(form.values, form.metadata, "layer.weight")
    np.testing.assert_array_equal(tensor.values(), form.values)
    constant, function = written(tensor, dtype=dtype)
    values = decompressed(constant)
    assert values.dtype == dtype
    np.testing.assert_array_equal(values.astype(np.float32), form.values)
    np.testing.assert_array_equal(run(function, form.values.shape), form.values)


@MANY
@given(forms, dtypes)
def test_what_is_read_is_what_was_written(form, dtype):
    tensor = compressed_tensor(form.values, form.metadata, "layer.weight")
    constant, _ = written(tensor, dtype=dtype)
    read = read_constant(constant)
    assert read.n_bits == tensor.n_bits
    assert read.shape == tensor.shape
    assert read.vector_size == tensor.vector_size
    assert (read.mask is None, read.lut is None) == (tensor.mask is None, tensor.lut is None)
    np.testing.assert_array_equal(read.values(), form.values)
    again, _ = written(read, dtype=dtype)
    assert read_storage(again) == read_storage(constant)


@MANY
@given(forms)
def test_storage_says_what_the_metadata_ask_for(form):
    tensor = compressed_tensor(form.values, form.metadata, "layer.weight")
    storage = read_storage(written(tensor, dtype=np.float16)[0])
    assert storage.technique == form.technique
    assert storage.bits == form.bits
    assert storage.sparse == ("pruned" in form.technique)


@pytest.mark.parametrize("entries", ["float", "int8"])
@pytest.mark.parametrize("sparse", [False, True])
@FEW
@given(st.data())
def test_a_scale_for_each_channel_is_told_of_palettes(entries, sparse, data):
    form = data.draw(palettized(scaled=True, vectors=False, sparse=sparse, entries=entries))
    scale, shape = form.metadata.palettization_scale, form.values.shape
    storage = read_storage(written(compressed_tensor(form.values, form.metadata, "weight"))[0])
    cut = [axis for axis, count in enumerate(scale.shape) if count > 1]
    if len(cut) == 1 and scale.shape[cut[0]] == shape[cut[0]]:
        assert storage.palette.per_channel_scale
    assert storage.palette.entries.is_integer == (entries == "int8")


@pytest.mark.parametrize(("entries", "kind"), [("int8", NumberKind.SIGNED), ("uint8", NumberKind.UNSIGNED)])
@FEW
@given(st.data())
def test_integer_entries_are_told_of_palettes(entries, kind, data):
    form = data.draw(palettized(entries=entries))
    storage = read_storage(written(compressed_tensor(form.values, form.metadata, "weight"))[0])
    assert storage.palette.entries.is_integer
    assert storage.palette.entries.bits == 8
    assert f"{storage.palette.entries.kind.value}8 palette".endswith("int8 palette")
    if form.values.any():
        # Whatever fits between -128 and 127 around its offset has a sign.
        assert storage.palette.entries.kind in (kind, NumberKind.SIGNED)


@pytest.mark.parametrize("opset", [ct.target.iOS16, ct.target.iOS17])
@MANY
@given(forms, dtypes)
def test_earlier_systems_take_three_simple_forms_and_the_others_are_refused(opset, form, dtype):
    tensor = compressed_tensor(form.values, form.metadata, "layer.weight")
    # Blocks that happen to be channels, and groups that are one, can be said too.
    try:
        constant, function = written(tensor, opset=opset, dtype=dtype)
    except CompressionError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert not form.early
        assert "'layer.weight'" in message
        assert 'minimum_deployment_target="iOS18"' in message
        return
    np.testing.assert_array_equal(decompressed(constant).astype(np.float32), form.values)
    np.testing.assert_array_equal(run(function, form.values.shape), form.values)
    np.testing.assert_array_equal(read_constant(constant).values(), form.values)
    if form.values.any():
        assert read_storage(constant).technique == form.technique


@MANY
@given(forms, st.data())
def test_a_rearranged_tensor_has_the_rearranged_values(form, data):
    tensor = compressed_tensor(form.values, form.metadata, "weight")
    permutation = data.draw(st.permutations(range(form.values.ndim)))
    np.testing.assert_array_equal(tensor.transposed(permutation).values(), form.values.transpose(permutation))
    rows = data.draw(st.permutations(range(len(form.values))))[: data.draw(st.integers(1, len(form.values)))]
    chosen = tensor.rows(rows)
    if chosen is not None:
        np.testing.assert_array_equal(chosen.values(), form.values[rows])
        together = concatenated([chosen, tensor])
        if together is not None:
            np.testing.assert_array_equal(together.values(), np.concatenate([form.values[rows], form.values]))
            written(together)
    else:
        assert tensor.vector_size > 1
    flat = tensor.reshaped((len(form.values), form.values[0].size))
    if flat is not None:
        np.testing.assert_array_equal(flat.values(), form.values.reshape(len(form.values), -1))


@MANY
@given(forms, st.data())
def test_a_multiplied_tensor_has_the_multiplied_values(form, data):
    tensor = compressed_tensor(form.values, form.metadata, "weight")
    axis = data.draw(st.sampled_from((0, 1)))
    counts = [1] * form.values.ndim
    counts[axis] = form.values.shape[axis]
    random = np.random.default_rng(data.draw(st.integers(0, 999)))
    factors = random.choice(np.array([-2, -0.5, 0.0, 0.25, 1, 4], np.float32), counts)
    folded = tensor.multiplied(factors)
    if folded is None:
        assert tensor.lut is not None
        return
    np.testing.assert_array_equal(folded.values(), form.values * factors)
    assert folded.n_bits == tensor.n_bits
    if tensor.lut is None and tensor.scale is not None:
        assert (folded.scale >= 0).all()
    np.testing.assert_array_equal(decompressed(written(folded)[0]), form.values * factors)


@MANY
@given(forms, st.integers(0, 999))
def test_values_with_any_factors_are_near_in_half_precision(form, seed):
    factor = np.float32(np.random.default_rng(seed).uniform(0.01, 1))
    if form.metadata.lut is not None and form.metadata.quantization_scale is None:
        metadata = {"lut": form.metadata.lut * factor}
    elif form.metadata.lut is not None:
        metadata = {
            "lut": form.metadata.lut * factor,
            "quantization_scale": form.metadata.quantization_scale * factor,
        }
    elif form.metadata.quantization_scale is not None:
        metadata = {"quantization_scale": form.metadata.quantization_scale * factor}
    else:
        metadata = {}
    changed = type(form.metadata)(**{**vars(form.metadata), **metadata})
    values = form.values * factor
    tensor = compressed_tensor(values, changed, "weight")
    np.testing.assert_allclose(tensor.values(), values, rtol=1e-6, atol=1e-9)
    for dtype, tolerance in ((np.float16, 2e-3), (np.float32, 1e-6)):
        constant, _ = written(tensor, dtype=dtype)
        np.testing.assert_allclose(
            decompressed(constant).astype(np.float32), values, rtol=tolerance, atol=1e-6
        )


@pytest.mark.parametrize("draw", [palettized(sparse=True), quantized(sparse=True), pruned()])
@FEW
@given(st.data())
def test_zeros_are_stored_by_their_mask_alone(draw, data):
    form = data.draw(draw)
    tensor = compressed_tensor(form.values, form.metadata, "weight")
    storage = read_storage(written(tensor)[0])
    stored = max(int((tensor.mask != 0).sum()), 1)
    assert storage.stored_bytes >= -(-tensor.mask.size // 8) + stored * tensor.n_bits // 8
