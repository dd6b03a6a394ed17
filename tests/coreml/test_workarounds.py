"""What is fixed in coremltools' converter, and whether it still needs to be."""

from __future__ import annotations

from collections import defaultdict

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder
from coremltools.optimize import _utils as coremltools_utilities
from coremltools.optimize.coreml import OpPalettizerConfig, OptimizationConfig, palettize_weights
from coremltools.optimize.torch.pruning import MagnitudePruner, MagnitudePrunerConfig
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

from lightning_compress.coreml.convert import convert
from lightning_compress.coreml.quiet import quiet_conversion
from lightning_compress.coreml.recovery import scalar_palette_indices
from lightning_compress.coreml.workarounds import names_of_their_own, replaced
from lightning_compress.package.inspection import inspect
from lightning_compress.package.save import save_package
from lightning_compress.runtime import load


@pytest.fixture
def pruned_small_weights():
    """Half of the weights pruned, the others smaller than float16's spacing at one."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 64)
    with torch.no_grad():
        layer.weight.mul_(1e-3)
    pruner = MagnitudePruner(
        layer, MagnitudePrunerConfig.from_dict({"global_config": {"target_sparsity": 0.5}})
    )
    pruner.prepare(inplace=True)
    pruner.step()
    return pruner.finalize(inplace=True).eval()


def test_small_weights_survive_the_conversion_of_a_pruned_layer(pruned_small_weights):
    model = convert(pruned_small_weights, torch.rand(1, 64), target=ct.target.iOS16)
    layer = next(layer for layer in inspect(model).layers if layer.technique == "pruned")
    assert layer.sparsity == pytest.approx(0.5, abs=0.001)


def test_coremltools_still_drops_small_weights_of_a_pruned_layer(pruned_small_weights):
    with quiet_conversion():
        traced = torch.jit.trace(pruned_small_weights, torch.rand(1, 64))
        model = ct.convert(
            traced,
            inputs=[ct.TensorType(shape=(1, 64))],
            minimum_deployment_target=ct.target.iOS16,
            skip_model_load=True,
        )
    sparsity = max(layer.sparsity for layer in inspect(model).layers if len(layer.shape) == 2)
    assert sparsity > 0.9, "coremltools has fixed this; write_constant would not be needed for that any more"


class RequantizedByFlatten(nn.Module):
    """Quantizes with one scale and zero point before a flatten, and with others after it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        before = torch.quantize_per_tensor(images, 1 / 64, 0, torch.quint8).dequantize()
        after = torch.quantize_per_tensor(before.flatten(1), 1 / 16, 128, torch.quint8).dequantize()
        return after * 2


@pytest.fixture
def images():
    return torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_levels_that_a_flatten_changes_are_kept(images, tmp_path):
    module = RequantizedByFlatten().eval()
    path = save_package(convert(module, images, target=ct.target.iOS17), tmp_path / "net.mlpackage")
    (output,) = load(path)(images).values()
    torch.testing.assert_close(output, module(images), atol=1e-3, rtol=0)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_coremltools_still_drops_levels_that_a_flatten_changes(images, tmp_path):
    module = RequantizedByFlatten().eval()
    with quiet_conversion():
        model = ct.convert(
            torch.jit.trace(module, images),
            inputs=[ct.TensorType(shape=tuple(images.shape))],
            minimum_deployment_target=ct.target.iOS17,
            skip_model_load=True,
        )
    (output,) = load(save_package(model, tmp_path / "net.mlpackage"))(images).values()
    wrong = float((output - module(images)).abs().max()) > 1
    assert wrong, "coremltools has fixed this; `match_equal_levels` is not needed any more"


finite = st.floats(-8, 8, width=16)


@given(
    arrays.arrays(np.float16, st.tuples(st.just(4), st.integers(1, 6)), elements=finite),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([2, 4, 8]),
    st.data(),
)
def test_a_binary_search_finds_the_indices_that_coremltools_finds(weights, groups, entries, data):
    palette = data.draw(arrays.arrays(np.float16, (groups, 1, entries, 1), elements=finite))
    expected = coremltools_utilities.find_indices_for_lut(weights, palette)
    distances = [
        np.abs(
            weights
            - np.take_along_axis(
                np.repeat(palette[:, 0, :, 0], 4 // groups, axis=0), indices.astype(np.int64), axis=1
            )
        )
        for indices in (expected, scalar_palette_indices(weights, palette))
    ]
    np.testing.assert_array_equal(*distances)


@given(arrays.arrays(np.float32, (5, 7), elements=st.sampled_from([-1.0, 0.0, 0.5, 1.0])))
def test_of_equally_near_entries_the_first_is_taken_as_in_coremltools(weights):
    palette = np.array([1.0, -1.0, 1.0, 0.0], dtype=np.float32).reshape(1, 1, 4, 1)
    np.testing.assert_array_equal(
        scalar_palette_indices(weights, palette), coremltools_utilities.find_indices_for_lut(weights, palette)
    )


@pytest.fixture(scope="module")
def dense_and_palettized(tmp_path_factory):
    """A package, and one of palettes made of it."""
    folder = tmp_path_factory.mktemp("packages")
    torch.manual_seed(0)
    dense = save_package(
        convert(nn.Linear(32, 8).eval(), torch.rand(1, 32), target=ct.target.iOS18),
        folder / "dense.mlpackage",
    )
    with names_of_their_own():
        palettized = save_package(palettized_by_coremltools(dense), folder / "palettized.mlpackage")
    return dense, palettized


def palettized_by_coremltools(package):
    config = OptimizationConfig(OpPalettizerConfig(nbits=2, weight_threshold=0))
    with quiet_conversion():
        return palettize_weights(ct.models.MLModel(str(package), skip_model_load=True), config)


def program_bytes(model):
    return model.get_spec().SerializeToString(deterministic=True)


def test_a_package_is_the_same_file_whatever_was_looked_at_before(dense_and_palettized):
    dense, palettized = dense_and_palettized
    with names_of_their_own():
        before = program_bytes(palettized_by_coremltools(dense))
    load(palettized)
    with names_of_their_own():
        assert program_bytes(palettized_by_coremltools(dense)) == before


def test_coremltools_still_counts_what_is_loaded(dense_and_palettized):
    _, palettized = dense_and_palettized
    with replaced(Builder, "name_count", defaultdict(int)):
        load(palettized)
        counted = dict(Builder.name_count)
    assert counted, "coremltools has fixed this; `names_of_their_own` is not needed any more"
