"""What `DKMPalettization` takes: keys and weights, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.palettization import DKMPalettization
from lightning_compress.package.targets import Capability
from tests.methods.palettes import network, prepared


def bits_of(preparation):
    return {part.tensor_name: part._form.n_clusters.bit_length() - 1 for part in preparation.techniques()}


def test_linear_layers_have_four_bits_and_others_two():
    class Subclass(nn.Linear):
        pass

    module = nn.ModuleDict(
        {
            "linear": nn.Linear(16, 16),
            "subclass": Subclass(16, 16),
            "conv": nn.Conv1d(16, 16, 1),
            "embedding": nn.Embedding(16, 16),
            "attention": nn.MultiheadAttention(16, 2),
        }
    )
    bits = bits_of(prepared(module, n_bits=None))
    assert bits["linear.weight"] == bits["subclass.weight"] == 4
    assert {bits[name] for name in bits if "linear" not in name and "subclass" not in name} == {2}
    assert "attention.in_proj_weight" in bits


def test_configurations_by_size_choose_by_the_number_of_elements():
    sizes = [{"n_bits": 4, "weight_threshold": 1000}, {"n_bits": 1, "weight_threshold": 400}]
    preparation = PreparedModule(network(), [DKMPalettization(module_type_configs={"Conv2d": sizes})])
    assert bits_of(preparation) == {"0.weight": 1, "2.weight": 4}


def test_small_weights_stay_and_the_plan_says_why():
    preparation = prepared(weight_threshold=432)
    reasons = {planned.reference.name: list(planned.reasons.values()) for planned in preparation.plan.tensors}
    assert reasons["0.weight"] == ["432 elements, no more than the weight_threshold of 432"]
    assert reasons["2.weight"] == []


def test_capabilities_follow_from_the_keys():
    options = {
        "granularity": "per_grouped_channel",
        "group_size": 2,
        "cluster_dim": 2,
        "lut_dtype": "i8",
        "n_bits": 3,
        "enable_per_channel_scale": True,
    }
    assert prepared(**options).capabilities == {
        Capability.LUT_3_BIT,
        Capability.LUT_GROUPED,
        Capability.LUT_VECTOR,
        Capability.LUT_INT8,
        Capability.LUT_PER_CHANNEL_SCALE,
    }


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"n_bits": 5}, r"n_bits of DKMPalettization, global is 5; valid are \[1, 2, 3, 4, 6, 8\]"),
        ({"n_bits": True}, "n_bits"),
        ({"milestone": -1}, "milestone of DKMPalettization, global is -1"),
        ({"milestone": 1.5}, "milestone"),
        ({"granularity": "per_block"}, r"valid are \['per_tensor', 'per_grouped_channel'\]"),
        ({"group_size": 4}, "which has no meaning with granularity per_tensor"),
        ({"granularity": "per_grouped_channel"}, "which needs a group_size"),
        ({"granularity": "per_grouped_channel", "group_size": 0}, "valid is an int from 1"),
        ({"cluster_dim": 1.5}, "valid is an int from 1"),
        ({"kmeans_max_iter": 0}, "valid is an int from 1"),
        ({"quantize_activations": True}, r'join LinearQuantization\(weight_dtype="float32"\)'),
        ({"palett_tau": 0}, "palett_tau"),
        ({"palett_tau": "hot"}, "a finite float"),
        ({"palett_mode": "soft"}, r"\['dkm', 'topk', 'hard', 'gsm'\]"),
        ({"lut_dtype": "i4"}, "lut_dtype"),
        ({"channel_axis": 1}, "valid is 0"),
        ({"cluster_permute": [0, 2]}, "order of a weight's axes"),
        ({"enforce_zero": 1}, "true or false"),
        ({"weight_threshold": 2.5}, "an int"),
        ({"palett_unique": "yes"}, "true or false"),
        ({"kmeans_init": "random"}, "kmeans_init"),
        ({"n_bit": 2}, "did you mean 'n_bits'"),
        ({"partition_size": 4}, "use 'group_size'"),
        ({"module_type_configs": {"Linear": [{"cluster_dtype": "f16"}]}}, "use 'lut_dtype'"),
        ({"module_name_configs": {"0": {"n_bits": 7}}}, "n_bits of DKMPalettization, '0' is 7"),
        ({"exact": "no"}, "true or false"),
    ],
)
def test_what_no_weight_could_use_is_refused(keys, message):
    with pytest.raises(ConfigurationError, match=message):
        DKMPalettization(**keys)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"granularity": "per_grouped_channel", "group_size": 5},
            r"group_size is 5, which does not divide the 16 output channels of '0.weight'; valid are \[1, 2, 4, 8",
        ),
        ({"cluster_dim": 3}, r"cluster_dim is 3, which does not divide the 16"),
        ({"cluster_dim": 4, "granularity": "per_grouped_channel", "group_size": 2}, "2 channels of a group"),
        (
            {"n_bits": 8, "granularity": "per_grouped_channel", "group_size": 1},
            "is larger than the 27 elements",
        ),
        ({"cluster_permute": [1, 0]}, "has 4 axes"),
        (
            {"module_name_configs": {"6": {"weight_threshold": 5000}}},
            r"module_name_configs\['6'\] of DKMPalettization palettizes nothing",
        ),
        ({"weight_threshold": 10**6}, "finds nothing to compress"),
    ],
)
def test_what_a_weight_cannot_use_is_refused_before_training(keys, message):
    module = network()
    before = list(module.state_dict())
    with pytest.raises(ConfigurationError, match=message):
        prepared(module, **keys)
    assert list(module.state_dict()) == before


def test_keys_that_only_say_how_coremltools_computes_are_accepted():
    DKMPalettization(
        palett_max_mem=0.5,
        palett_shard=True,
        palett_unique=True,
        kmeans_n_init=3,
        quant_min=-8,
        dtype=torch.qint8,
        palett_lambda=1,
    )


def test_the_description_rebuilds_the_method():
    method = DKMPalettization(
        n_bits=2, module_name_configs={"head": {"cluster_permute": (1, 0)}, "body": None}
    )
    again = DKMPalettization.from_description(method.describe())
    assert again.describe() == method.describe()
