"""What coremltools compresses in torch arrives in the package, at each target that can carry it."""

from __future__ import annotations

import copy
import warnings

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.optimize.torch.palettization import (
    DKMPalettizer,
    DKMPalettizerConfig,
    PostTrainingPalettizer,
    PostTrainingPalettizerConfig,
)
from coremltools.optimize.torch.pruning import MagnitudePruner, MagnitudePrunerConfig
from coremltools.optimize.torch.quantization import (
    LinearQuantizer,
    LinearQuantizerConfig,
    PostTrainingQuantizer,
    PostTrainingQuantizerConfig,
)

from lightning_compress.coreml import CoreMLExport
from lightning_compress.coreml.capabilities import present_capabilities
from lightning_compress.coreml.convert import convert
from lightning_compress.coreml.quiet import quiet_conversion
from lightning_compress.errors import CompressionError
from lightning_compress.package.inspection import decompressed_weights, inspect
from lightning_compress.package.targets import (
    Capability,
    lowest_target,
    palettization_capabilities,
)


def palettized(network, inputs, **options):
    configuration = PostTrainingPalettizerConfig.from_dict({"global_config": options})
    return PostTrainingPalettizer(network, configuration).compress(num_kmeans_workers=1)


def dkm(network, inputs, **options):
    palettizer = DKMPalettizer(network, DKMPalettizerConfig.from_dict({"global_config": options}))
    network = palettizer.prepare(inplace=True).train()
    network(inputs.repeat(4, 1, 1, 1)).sum().backward()
    palettizer.step()
    return palettizer.finalize(inplace=True)


def pruned(network, inputs, **options):
    pruner = MagnitudePruner(network, MagnitudePrunerConfig.from_dict({"global_config": options}))
    network = pruner.prepare(inplace=True)
    pruner.step()
    return pruner.finalize(inplace=True)


def quantized(network, inputs, **options):
    configuration = LinearQuantizerConfig.from_dict(
        {"global_config": {"milestones": [0, 1, 2, 2], **options}}
    )
    quantizer = LinearQuantizer(network, configuration)
    network = quantizer.prepare((inputs,), inplace=False).train()
    for _ in range(3):
        quantizer.step()
        network(inputs.repeat(4, 1, 1, 1))
    return quantizer.finalize(inplace=True)


def post_training_quantized(network, inputs, **options):
    configuration = PostTrainingQuantizerConfig.from_dict({"global_config": options})
    return PostTrainingQuantizer(network, configuration).compress()


def pruned_and_palettized(network, inputs):
    network = pruned(network, inputs, target_sparsity=0.5)
    return palettized(network, inputs, n_bits=4)


COMPRESSIONS = {
    "palettized at 1 bit": (palettized, {"n_bits": 1}, palettization_capabilities(1)),
    "palettized at 2 bits": (palettized, {"n_bits": 2}, palettization_capabilities(2)),
    "palettized at 3 bits": (palettized, {"n_bits": 3}, palettization_capabilities(3)),
    "palettized at 4 bits": (palettized, {"n_bits": 4}, palettization_capabilities(4)),
    "palettized at 6 bits": (palettized, {"n_bits": 6}, palettization_capabilities(6)),
    "palettized at 8 bits": (palettized, {"n_bits": 8}, palettization_capabilities(8)),
    "palettized in groups": (
        palettized,
        {"n_bits": 2, "granularity": "per_grouped_channel", "group_size": 16},
        palettization_capabilities(2, grouped=True),
    ),
    "palettized with scales": (
        palettized,
        {"n_bits": 4, "enable_per_channel_scale": True},
        palettization_capabilities(4, per_channel_scale=True),
    ),
    "palettized in vectors": (
        palettized,
        {"n_bits": 4, "cluster_dim": 2},
        palettization_capabilities(4, cluster_dim=2),
    ),
    "palettized with an int8 palette": (
        palettized,
        {"n_bits": 4, "lut_dtype": "int8"},
        palettization_capabilities(4, int8_lut=True),
    ),
    "palettized in training": (dkm, {"n_bits": 2, "milestone": 0}, palettization_capabilities(2)),
    "pruned": (pruned, {"target_sparsity": 0.75}, {Capability.SPARSE_WEIGHTS}),
    "quantized weights": (quantized, {"activation_dtype": "float32"}, {Capability.INT8_WEIGHTS}),
    "quantized weights and activations": (
        quantized,
        {},
        {Capability.INT8_WEIGHTS, Capability.INT8_ACTIVATIONS},
    ),
    "quantized to 4 bits": (
        post_training_quantized,
        {"weight_dtype": "int4", "granularity": "per_channel"},
        {Capability.INT4_WEIGHTS},
    ),
    "quantized in blocks": (
        post_training_quantized,
        {"weight_dtype": "int8", "granularity": "per_block", "block_size": 16},
        {Capability.INT8_WEIGHTS, Capability.BLOCKWISE_WEIGHTS},
    ),
    "pruned and palettized": (
        pruned_and_palettized,
        {},
        {Capability.SPARSE_WEIGHTS, Capability.LUT, Capability.JOINT},
    ),
}


@pytest.fixture(scope="module", params=COMPRESSIONS)
def compressed(request, build_network, digits):
    """A compressed network and what its package must carry."""
    compress, options, capabilities = COMPRESSIONS[request.param]
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # coremltools' own, of torch.ao and of quantized tensors
        return compress(build_network(), digits[:2], **options).eval(), capabilities


@pytest.fixture(scope="module")
def model(compressed, digit):
    """The network converted for the lowest target that carries its compression."""
    network, capabilities = compressed
    return convert(network, digit, target=lowest_target(capabilities))


def test_the_lowest_target_chosen_carries_the_compression(compressed, model):
    _, capabilities = compressed
    report = inspect(model)
    assert capabilities <= present_capabilities(model)
    assert report.specification_version == lowest_target(capabilities).value
    assert report.weight_bytes < 0.75 * report.float16_weight_bytes


@pytest.mark.parametrize("target", [pytest.param("iOS17", marks=pytest.mark.slow), "iOS18"])
def test_later_targets_carry_it_too_with_the_same_weights(compressed, model, digit, target):
    network, capabilities = compressed
    if ct.target[target] <= lowest_target(capabilities):
        return
    later = convert(network, digit, target=ct.target[target])
    assert capabilities <= present_capabilities(later)
    expected = decompressed_weights(model)
    for name, values in decompressed_weights(later).items():
        np.testing.assert_allclose(values, expected[name], atol=2e-3, err_msg=name)


def test_decompressed_weights_equal_those_that_coremltools_decompresses(model):
    with quiet_conversion():
        dense = ct.optimize.coreml.decompress_weights(model)
    ours = [values for values in decompressed_weights(model).values() if values.ndim > 1]
    theirs = [values for values in decompressed_weights(dense).values() if values.ndim > 1]
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_package_that_lost_its_compression_is_not_written(network, digit, tmp_path):
    export = CoreMLExport(tmp_path / "net.mlpackage")
    with pytest.raises(CompressionError, match="holds no sparse weights"):
        export.run(network, digit, {Capability.SPARSE_WEIGHTS})
    assert list(tmp_path.iterdir()) == []


def test_palettes_have_no_more_values_than_their_bits_allow(network, digits, digit):
    for n_bits in (1, 2, 3, 4, 6, 8):
        model = convert(
            palettized(copy.deepcopy(network), digits[:1], n_bits=n_bits), digit, target=ct.target.iOS18
        )
        layers = [layer for layer in inspect(model).layers if layer.technique == "palettized"]
        assert [layer.bits for layer in layers] == [n_bits] * 4
        assert all(layer.distinct_values <= 2**n_bits for layer in layers)


def test_sparsity_arrives_as_trained(network, digits, digit):
    model = convert(pruned(network, digits[:1], target_sparsity=0.75), digit, target=ct.target.iOS16)
    layers = [layer for layer in inspect(model).layers if layer.technique == "pruned"]
    assert len(layers) == 4
    assert all(layer.sparsity == pytest.approx(0.75, abs=0.01) for layer in layers)


def test_each_layer_says_how_it_is_stored(network, digits, digit):
    grouped = palettized(network, digits[:1], n_bits=2, granularity="per_grouped_channel", group_size=16)
    layers = {layer.name: layer for layer in inspect(convert(grouped, digit, target=ct.target.iOS18)).layers}
    layer = next(layer for layer in layers.values() if layer.shape[:2] == (64, 32))
    assert (layer.technique, layer.bits, layer.granularity) == ("palettized", 2, "groups of 16")
    assert layer.parameters == 64 * 32 * 9
    assert layer.stored_bytes == layer.parameters * 2 // 8 + 4 * 4 * 2
    assert layer.float16_bytes == 2 * layer.parameters
