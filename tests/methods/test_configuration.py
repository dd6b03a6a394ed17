"""What users may write, and what each mistake is told."""

from __future__ import annotations

import re

import pytest
import torch
from omegaconf import OmegaConf
from rich.console import Console
from torch import nn

from lightning_compress import DKMPalettization, LinearQuantization, MagnitudePruning
from lightning_compress.errors import ConfigurationError, ModuleNotFoundInModelError
from lightning_compress.methods.mechanism.plan import make_plan
from lightning_compress.methods.mechanism.plan_table import plan_table
from lightning_compress.methods.mechanism.preparation import PreparedModule


class TestMistakes:
    @pytest.mark.parametrize(
        ("method", "keys", "message"),
        [
            (
                DKMPalettization,
                {"nbits": 2},
                "unknown key 'nbits' in DKMPalettization; did you mean 'n_bits'?",
            ),
            (
                MagnitudePruning,
                {"sparsity": 0.5},
                "unknown key 'sparsity' in MagnitudePruning; did you mean '",
            ),
            (LinearQuantization, {"dtype": "qint8"}, "unknown key 'dtype' in LinearQuantization"),
            (
                DKMPalettization,
                {"module_type_configs": {"Conv2d": {"bits": 2}}},
                "unknown key 'bits' in module_type_configs['Conv2d']; did you mean 'n_bits'?",
            ),
            (
                LinearQuantization,
                {"module_type_configs": {"ReLU": {"weight_dtype": "qint8"}}},
                "module_type_configs of LinearQuantization has keys for 'ReLU', which holds no weight",
            ),
            (
                DKMPalettization,
                {"module_type_configs": {3: {"n_bits": 2}}},
                "module_type_configs of DKMPalettization has the key 3; valid are classes of modules and their names",
            ),
            (
                DKMPalettization,
                {"module_name_configs": "head"},
                "module_name_configs of DKMPalettization is 'head'; valid is a mapping",
            ),
            (
                DKMPalettization,
                {"module_name_configs": {"(": None}},
                "pattern '(', which is no regular expression",
            ),
            (
                DKMPalettization,
                {"n_bits": 2, "global_config": {"n_bits": 4}},
                "global keys twice: ['n_bits'] beside global_config",
            ),
            (DKMPalettization, {"kernel": "histogram"}, "unknown key 'kernel' in DKMPalettization"),
        ],
    )
    def test_names_the_key_and_the_valid_ones(self, method, keys, message):
        with pytest.raises(ConfigurationError, match=re.escape(message)):
            method(**keys)

    @pytest.mark.parametrize("n_bits", [0, 5, 7, 16, -1, 2.0, "2", True])
    def test_bits_that_no_package_can_store(self, n_bits):
        with pytest.raises(ConfigurationError, match=r"n_bits of .* is .*; valid are \[1, 2, 3, 4, 6, 8\]"):
            DKMPalettization(n_bits=n_bits)

    @pytest.mark.parametrize("key", ["target_sparsity", "initial_sparsity"])
    @pytest.mark.parametrize("value", [-0.1, 1.0, 75, "half", float("nan")])
    def test_sparsities_outside_zero_to_one(self, key, value):
        with pytest.raises(ConfigurationError, match=rf"{key} of .* is .*; valid is a number in \[0, 1\)"):
            MagnitudePruning(**{key: value})

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ({"granularity": "per_layer"}, "granularity of .* is 'per_layer'; valid are"),
            ({"block_size": 0}, "block_size of .* is 0"),
            ({"n_m_ratio": [4, 4]}, r"n_m_ratio of .* is \[4, 4\]; valid are two ints n, m with 0 < n < m"),
            ({"n_m_ratio": [1, 2], "block_size": 2}, "with n_m_ratio only 1 is valid"),
            ({"dim": 2}, r"dim of .* is 2; valid are \[0, 1\]"),
            ({"scheduler": {"steps": [1]}}, "unknown key 'steps' in scheduler"),
            ({"scheduler": {"update_steps": []}}, "a list with at least one step"),
            ({"scheduler": {"update_steps": [0]}}, r"\[0\], which never comes"),
            ({"scheduler": {"update_steps": [5, 3]}}, "steps in rising order"),
            ({"scheduler": {"update_steps": [1, 0.5]}}, "mixes steps and fractions"),
            ({"scheduler": {"update_steps": "list(1)"}}, r'"list\(1\)"; valid is a list of steps or "range'),
            ({"scheduler": {"begin_step": 1.5}}, "begin_step in .* is 1.5; valid are optimizer steps"),
            ({"scheduler": {"begin_step": 9, "end_step": 3}}, "ends at 3, not after its begin_step 9"),
            ({"scheduler": {"begin_step": 9, "power": 2}}, r"\['power'\] without end_step"),
        ],
    )
    def test_pruning_that_cannot_be(self, keys, message):
        with pytest.raises(ConfigurationError, match=message):
            MagnitudePruning(**keys)

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ({"weight_dtype": "int5"}, "weight_dtype of .* is 'int5'; valid are"),
            ({"activation_dtype": "qint8"}, "activation_dtype of .* is 'qint8'; valid are"),
            ({"algorithm": "lsq"}, "algorithm of .* is 'lsq'"),
            ({"milestones": [0, 1, 2]}, "valid is a list of four"),
            ({"milestones": [-1, 1, 2, 3]}, "never observe"),
            ({"milestones": [5, 1, 2, 3]}, "fake-quantize at 1, before they observe at 5"),
            ({"milestones": [0, 1, 2, 1.5]}, "milestone 'freeze batch norm' of .* is 1.5"),
        ],
    )
    def test_quantization_that_cannot_be(self, keys, message):
        with pytest.raises(ConfigurationError, match=message):
            LinearQuantization(**keys)

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ({"granularity": "per_grouped_channel"}, "needs a group_size"),
            ({"group_size": 4}, "has no meaning with granularity per_tensor"),
            ({"milestone": -1}, "milestone of .* is -1"),
            ({"quantize_activations": True}, "LinearQuantization"),
            (
                {"per_channel_scaling_factor_scheme": "mean"},
                "per_channel_scaling_factor_scheme of .* is 'mean'",
            ),
        ],
    )
    def test_palettization_that_cannot_be(self, keys, message):
        with pytest.raises(ConfigurationError, match=message):
            DKMPalettization(**keys)


class TestPatterns:
    @pytest.mark.parametrize("method", [DKMPalettization, LinearQuantization, MagnitudePruning])
    def test_a_type_that_the_model_does_not_have_names_the_nearest(self, digit_network, method):
        with pytest.raises((ConfigurationError, ModuleNotFoundInModelError), match=r"'Conv2dd'.*Conv2d"):
            method(module_type_configs={"Conv2dd": None}).select(digit_network)

    def test_a_type_that_the_model_happens_not_to_have_is_no_mistake(self, digit_network):
        assert MagnitudePruning(module_type_configs={"Conv3d": None}).select(digit_network)

    def test_a_tensor_can_be_named_itself(self, digit_network):
        method = MagnitudePruning(module_name_configs={r"head\.weight": {"target_sparsity": 0.5}})
        assert set(method.select(digit_network)) == {"head"}

    def test_one_that_matches_nothing_names_the_nearest(self, digit_network):
        with pytest.raises(
            ModuleNotFoundInModelError,
            match=r"'feature.3'.*matches no module and no tensor.*nearest are \['features.3'",
        ):
            DKMPalettization(module_name_configs={"feature.3": {"n_bits": 4}}).select(digit_network)

    def test_one_that_matches_only_what_cannot_be_compressed(self, digit_network):
        with pytest.raises(
            ModuleNotFoundInModelError, match=r"matches only \['features.1'\] of type \['BatchNorm2d'\]"
        ):
            MagnitudePruning(module_name_configs={"features.1": {"target_sparsity": 0.5}}).select(
                digit_network
            )

    def test_one_that_matches_only_weights_under_the_threshold(self, digit_network):
        with pytest.raises(
            ConfigurationError,
            match=r"'features.0'.*no more elements than its weight_threshold.*set weight_threshold to 0",
        ):
            DKMPalettization(module_name_configs={"features.0": {"n_bits": 4}}).select(digit_network)

    def test_nothing_left_to_compress(self, digit_network):
        with pytest.raises(ConfigurationError, match="DKMPalettization finds nothing to compress"):
            DKMPalettization(module_type_configs={"Conv2d": None, "Linear": None}).select(digit_network)

    @pytest.mark.parametrize("method", [DKMPalettization, LinearQuantization, MagnitudePruning])
    def test_a_name_that_holds_no_weight_is_told_where_it_excludes_too(self, digit_network, method):
        with pytest.raises(
            ModuleNotFoundInModelError, match=r"matches only \['features.1'\] of type \['BatchNorm2d'\]"
        ):
            method(module_name_configs={"features.1": None}).select(digit_network)

    @pytest.mark.parametrize("method", [DKMPalettization, MagnitudePruning])
    @pytest.mark.parametrize("keys", [None, {}])
    def test_a_type_that_holds_no_weight(self, digit_network, method, keys):
        with pytest.raises(
            ModuleNotFoundInModelError, match="'BatchNorm2d', which holds no weight of two or more dimensions"
        ):
            method(module_type_configs={"BatchNorm2d": keys}, global_config={}).select(digit_network)

    @pytest.mark.parametrize("method", [MagnitudePruning, LinearQuantization])
    @pytest.mark.parametrize(
        "names",
        [
            {r"features\..*": {}, r"features\.3": None},
            {r"features\.[03]": {}, "features": None},
            {r"features\..*": None, r"features\.3": {}},
        ],
    )
    def test_a_name_of_which_others_take_all(self, digit_network, method, names):
        with pytest.raises(ModuleNotFoundInModelError, match=r"changes nothing: it means .* mean too"):
            method(module_name_configs=names).select(digit_network)

    def test_an_exclusion_that_is_made_twice_is_no_mistake(self, digit_network):
        method = MagnitudePruning(module_name_configs={r"features\..*": None, "features": None})
        assert set(method.select(digit_network)) == {"head"}

    def test_a_module_of_nothing_but_parameters_of_no_known_layer(self):
        class Bare(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Parameter(torch.rand(8, 8))

        network = nn.Sequential(nn.Sequential(Bare()), nn.Linear(8, 8))
        method = MagnitudePruning(global_config={}, module_name_configs={"0": {"target_sparsity": 0.9}})
        with pytest.raises(ModuleNotFoundInModelError, match=r"no known layer; name them.*\['0.0.w'\]"):
            method.select(network)

    def test_groups_that_do_not_divide_the_channels(self, digit_network):
        method = DKMPalettization(granularity="per_grouped_channel", group_size=4)
        with pytest.raises(
            ConfigurationError,
            match=r"does not divide the 10 output channels of 'head.weight'; valid are \[1, 2, 5, 10\]",
        ):
            method.select(digit_network)

    def test_ratios_that_do_not_divide_the_channels(self, digit_network):
        with pytest.raises(ConfigurationError, match=r"n_m_ratio \[1, 2\].*'features.0.weight' has 1"):
            MagnitudePruning(n_m_ratio=[1, 2]).select(digit_network)


class Block(nn.Module):
    """Two layers in a container."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))


@pytest.fixture
def blocks() -> nn.Module:
    """Two blocks of two layers, and a layer."""
    return nn.Sequential(Block(), Block(), nn.Linear(8, 4))


ALL = {"0.layers.0", "0.layers.2", "1.layers.0", "1.layers.2", "2"}


class TestModulesThatHoldLayers:
    """What is said of a module is said of all layers in it."""

    @pytest.mark.parametrize("method", [MagnitudePruning, LinearQuantization])
    @pytest.mark.parametrize(
        ("keys", "left"),
        [
            ({"module_name_configs": {"0": None}}, {"1.layers.0", "1.layers.2", "2"}),
            ({"module_name_configs": {r"\d\.layers": None}}, {"2"}),
            ({"module_type_configs": {"Sequential": None, "Linear": {}}, "global_config": None}, ALL),
            ({"module_type_configs": {Block: None}}, {"2"}),
            ({"module_name_configs": {"0": {}}}, {"0.layers.0", "0.layers.2"}),
            ({"module_type_configs": {Block: {}}}, ALL - {"2"}),
            ({"module_name_configs": {"0": None, r"0\.layers\.2": {}}, "global_config": {}}, ALL - {"0.layers.0"}),
            ({"module_type_configs": {Block: None}, "module_name_configs": {"1": {}}}, {"1.layers.0", "1.layers.2"}),
        ],
    )  # fmt: skip
    def test_are_excluded_or_configured_whole(self, blocks, method, keys, left):
        assert set(method(**keys).select(blocks)) == left

    def test_the_nearest_counts(self, blocks):
        method = MagnitudePruning(
            module_name_configs={
                r"[01]": {"target_sparsity": 0.1},
                r"0\.layers": {"target_sparsity": 0.2},
                r"0\.layers\.2": {"target_sparsity": 0.3},
            },
            module_type_configs={"Linear": {"target_sparsity": 0.4}},
        )
        sparsities = {name: keys["target_sparsity"] for name, keys in method.select(blocks).items()}
        assert sparsities == {
            "0.layers.0": 0.2,
            "0.layers.2": 0.3,
            "1.layers.0": 0.1,
            "1.layers.2": 0.1,
            "2": 0.4,
        }

    def test_inputs_of_their_layers_are_meant_too(self, blocks):
        methods = [LinearQuantization(weight_dtype="float32", module_name_configs={"0": None})]
        assert {layer.name for layer in make_plan(blocks, methods).layers} == {
            "1.layers.0",
            "1.layers.2",
            "2",
        }

    def test_a_shared_layer_is_meant_by_each_module_around_it(self):
        shared = nn.Linear(8, 8)
        network = nn.Sequential(nn.Sequential(shared), nn.Sequential(shared), nn.Linear(8, 4))
        assert set(MagnitudePruning(module_name_configs={"1": None}).select(network)) == {"2"}

    def test_palettes_of_a_module_are_those_of_its_layers(self, digit_network):
        method = DKMPalettization(module_name_configs={"features": {"n_bits": 2, "weight_threshold": 0}})
        assert set(method.select(digit_network)) == {"features.0", "features.3"}


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (MagnitudePruning(module_type_configs={"Conv3d": None}), "'Conv3d'.*the module has no such layer"),
        (LinearQuantization(module_type_configs={"ReLU": None}), "'ReLU'.*it holds no weight"),
        (
            MagnitudePruning(module_type_configs={"Linear": None}, module_name_configs={"head": {}, "features": {}}),
            "'Linear'.*module_name_configs names all of these layers",
        ),
    ],
)  # fmt: skip
def test_types_that_mean_nothing_in_a_module_are_told_in_the_plan(digit_network, method, told):
    prepared = PreparedModule(digit_network, [method])
    console = Console(width=200)
    with console.capture() as printed:
        console.print(plan_table(*prepared.planned_rows(), [], prepared.plan.without_effect))
    assert re.search(f"changes nothing: module_type_configs.*{told}", " ".join(printed.get().split()))


class TestPrecedence:
    def test_name_comes_before_type_and_type_before_global(self, digit_network):
        method = DKMPalettization(
            n_bits=8,
            weight_threshold=0,
            module_type_configs={"Conv2d": {"n_bits": 4, "weight_threshold": 0}},
            module_name_configs={r"features\.3": {"n_bits": 2}},
        )
        bits = {name: keys["n_bits"] for name, keys in method.select(digit_network).items()}
        assert bits == {"features.0": 4, "features.3": 2, "head": 8}

    def test_excluding_alone_leaves_the_rest_to_the_defaults(self, digit_network):
        assert set(MagnitudePruning(module_name_configs={"head": None}).select(digit_network)) == {
            "features.0",
            "features.3",
        }

    def test_naming_alone_compresses_what_is_named(self, digit_network):
        selected = MagnitudePruning(module_name_configs={"head": {"target_sparsity": 0.9}}).select(
            digit_network
        )
        assert set(selected) == {"head"}

    def test_patterns_are_regular_expressions_for_quantization_too(self, digit_network):
        method = LinearQuantization(module_name_configs={r"features\..*": None})
        assert set(method.select(digit_network)) == {"head"}

    def test_types_are_given_by_class_or_by_name(self, digit_network):
        for key in (nn.Linear, "Linear"):
            assert "head" not in MagnitudePruning(module_type_configs={key: None}).select(digit_network)


class TestSources:
    def test_coremltools_yaml_is_read(self, tmp_path, digit_network):
        path = tmp_path / "palettization.yaml"
        path.write_text(
            "global_config:\n  n_bits: 4\n  weight_threshold: 100\n"
            "module_type_configs:\n  Linear:\n    n_bits: 6\n"
            "module_name_configs:\n  features.0: null\n"
        )
        for source in (path, str(path)):
            selected = DKMPalettization.from_yaml(source).select(digit_network)
            assert {name: keys["n_bits"] for name, keys in selected.items()} == {"features.3": 4, "head": 6}
        with path.open() as stream:
            assert set(DKMPalettization.from_yaml(stream).select(digit_network)) == {"features.3", "head"}

    def test_a_missing_or_broken_yaml_is_named(self, tmp_path):
        with pytest.raises(ConfigurationError, match="missing.yaml cannot be read"):
            DKMPalettization.from_yaml(tmp_path / "missing.yaml")
        (tmp_path / "broken.yaml").write_text("global_config: [")
        with pytest.raises(ConfigurationError, match="is not YAML"):
            DKMPalettization.from_yaml(tmp_path / "broken.yaml")

    def test_omegaconf_is_read(self, digit_network):
        config = OmegaConf.create({"n_bits": 4, "module_name_configs": {"head": None}})
        assert set(DKMPalettization(**config).select(digit_network)) == {"features.3"}

    def test_a_configuration_is_described_in_plain_types(self):
        described = MagnitudePruning(
            target_sparsity=0.7,
            module_type_configs={nn.Conv2d: {"block_size": 2}},
            module_name_configs={"head": None},
        ).describe()
        assert described == {
            "technique": "MagnitudePruning",
            "global_config": {"target_sparsity": 0.7},
            "module_type_configs": {"Conv2d": {"block_size": 2}},
            "module_name_configs": {"head": None},
        }
