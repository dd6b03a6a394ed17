"""Every form that coremltools compresses a finished package to computes what its decompressed twin does."""

from __future__ import annotations

import gc
import warnings

import coremltools as ct
import coremltools.optimize.coreml as cto
import pytest
import torch
from torch import nn

from lightning_compress import runtime
from lightning_compress.coreml.quiet import quiet_conversion


def palettize(bits, **options):
    config = cto.OpPalettizerConfig(mode="kmeans", nbits=bits, weight_threshold=100, **options)
    return lambda model, joint: cto.palettize_weights(
        model, cto.OptimizationConfig(config), joint_compression=joint
    )


def quantize(dtype, mode="linear_symmetric", **options):
    config = cto.OpLinearQuantizerConfig(mode=mode, dtype=dtype, weight_threshold=100, **options)
    return lambda model, joint: cto.linear_quantize_weights(
        model, cto.OptimizationConfig(config), joint_compression=joint
    )


def prune(sparsity):
    config = cto.OpMagnitudePrunerConfig(target_sparsity=sparsity, weight_threshold=100)
    return lambda model, joint: cto.prune_weights(
        model, cto.OptimizationConfig(config), joint_compression=joint
    )


FORMS = {
    "iOS16": {
        "pruned": [prune(0.6)],
        "1 bit": [palettize(1)],
        "2 bits": [palettize(2)],
        "4 bits": [palettize(4)],
        "6 bits": [palettize(6)],
        "8 bits": [palettize(8)],
        "int8 by channel": [quantize("int8")],
        "uint8 with zero points": [quantize("uint8", "linear")],
    },
    "iOS18": {
        "pruned": [prune(0.6)],
        "3 bits": [palettize(3)],
        "grouped channels": [palettize(4, granularity="per_grouped_channel", group_size=4)],
        "scaled channels": [
            palettize(4, granularity="per_grouped_channel", group_size=8, enable_per_channel_scale=True)
        ],
        "vectors": [palettize(4, cluster_dim=4)],
        "int8 by channel": [quantize("int8")],
        "int4 by block": [quantize("int4", granularity="per_block", block_size=8)],
        "uint4 with zero points": [quantize("uint4", "linear", granularity="per_channel")],
        "pruned, palettized": [prune(0.6), palettize(4)],
        "pruned, quantized": [prune(0.6), quantize("int8")],
        "palettized, quantized": [palettize(4), quantize("int8", granularity="per_tensor")],
        "pruned, palettized, quantized": [
            prune(0.6),
            palettize(4),
            quantize("int8", granularity="per_tensor"),
        ],
    },
}


@pytest.fixture(scope="module")
def models():
    """One network converted for iOS16 and for iOS18."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, groups=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 16),
    ).eval()
    with quiet_conversion():
        traced = torch.jit.trace(network, torch.rand(1, 3, 12, 12))
        converted = {
            target: ct.convert(
                traced,
                inputs=[ct.TensorType("x", shape=(1, 3, 12, 12))],
                minimum_deployment_target=getattr(ct.target, target),
                skip_model_load=True,
            )
            for target in FORMS
        }
        yield converted
        converted.clear()
        gc.collect()


@pytest.mark.parametrize(
    ("target", "form"), [(target, form) for target, forms in FORMS.items() for form in forms]
)
def test_a_compressed_package_equals_its_decompressed_twin(models, target, form, tmp_path):
    model = models[target]
    with quiet_conversion(), warnings.catch_warnings():
        # coremltools and scikit-learn warn about clusters and zero scales of weights this small.
        warnings.simplefilter("ignore")
        for step, compress in enumerate(FORMS[target][form]):
            model = compress(model, step > 0)
        model.save(str(tmp_path / "compressed.mlpackage"))
        cto.decompress_weights(model).save(str(tmp_path / "dense.mlpackage"))
        del model
        gc.collect()
    compressed = runtime.load(tmp_path / "compressed.mlpackage")
    dense = runtime.load(tmp_path / "dense.mlpackage")
    weights = {name.split("_to_fp16")[0]: value for name, value in compressed.decompressed_weights().items()}
    twins = {name.split("_to_fp16")[0]: value for name, value in dense.decompressed_weights().items()}
    assert weights.keys() == twins.keys()
    for name, weight in weights.items():
        assert weight.dtype is twins[name].dtype
        assert torch.equal(weight, twins[name])
    x = torch.rand(3, 3, 12, 12)
    assert torch.equal(compressed(x).popitem()[1], dense(x).popitem()[1])
    stored = {name.rsplit(".", 1)[1] for name in compressed.state_dict() if name.count(".") == 2}
    assert stored
