"""Methods that data decide: what they find, store and refuse."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_compress.errors import CompressionError, ConfigurationError
from lightning_compress.methods import (
    GPTQ,
    DKMPalettization,
    GPTQPalettization,
    LinearQuantization,
    MagnitudePruning,
    Method,
    PreparedModule,
    SensitivePalettization,
    SparseGPT,
    calibrate,
    squared_gradients,
)
from lightning_compress.methods.mechanism.tensors import find_tensors
from lightning_compress.package.targets import Capability
from tests.methods.palettes import stored_value


def images() -> Tensor:
    return torch.tensor(load_digits().images[:96], dtype=torch.float32)[:, None] / 16


def labels() -> Tensor:
    return torch.tensor(load_digits().target[:96])


class Network(nn.Module):
    """Convolutions plain, of two groups and transposed, and a linear layer, trained a little on digits."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(1, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 16, 3, stride=2, groups=2, bias=False)
        self.turned = nn.ConvTranspose2d(16, 8, 2, stride=2, groups=2)
        self.head = nn.Linear(8 * 36, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.turned(self.grouped(self.plain(inputs).relu()).relu()).relu()
        return self.head(hidden.flatten(1))


NAMES = ("plain", "grouped", "turned", "head")


@pytest.fixture(scope="module")
def trained() -> Network:
    torch.manual_seed(0)
    network = Network()
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images()), labels()).backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def importance(trained: Network) -> dict[str, Tensor]:
    def loss(pair: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(trained(pair[0]), pair[1])

    pairs = zip(images().split(1), labels().split(1), strict=True)
    return squared_gradients(find_tensors(trained), loss, pairs)


def compressed(
    network: nn.Module, *methods: Method, importance: dict[str, Tensor] | None = None
) -> tuple[PreparedModule, nn.Module]:
    prepared = PreparedModule(copy.deepcopy(network), methods)
    calibrate(prepared, batches=images().split(32), importance=importance)
    return prepared, prepared.finalize()


def distance(network: nn.Module, other: nn.Module) -> float:
    with torch.no_grad():
        expected = network(images())
        return float((other(images()) - expected).norm() / expected.norm())


def rounded(network: nn.Module, method: Method) -> nn.Module:
    """Compressed as without data."""
    return PreparedModule(copy.deepcopy(network), [method]).finalize(rehearses=True)


GROUPED = {"granularity": "per_grouped_channel", "group_size": 2}

FORMS: dict[str, Callable[[], list[Method]]] = {
    "int4": lambda: [GPTQ()],
    "int4 in blocks": lambda: [
        GPTQ(module_name_configs={"grouped|head": {"block_size": 4}, "plain|turned": {}})
    ],
    "uint8 affine": lambda: [GPTQ(weight_dtype="uint8", quantization_scheme="affine")],
    "int8 per tensor": lambda: [GPTQ(weight_dtype="int8", weight_per_channel=False, bias_correction=True)],
    "palettes": lambda: [GPTQPalettization(n_bits=3, weight_threshold=0)],
    "palettes in groups": lambda: [GPTQPalettization(n_bits=2, weight_threshold=0, **GROUPED)],
    "palettes scaled": lambda: [
        GPTQPalettization(n_bits=3, weight_threshold=0, enable_per_channel_scale=True)
    ],
    "palettes of vectors": lambda: [
        GPTQPalettization(n_bits=4, weight_threshold=0, cluster_dim=2, module_name_configs={"plain": None})
    ],
    "palettes of int8": lambda: [GPTQPalettization(n_bits=3, weight_threshold=0, lut_dtype="i8")],
    "sensitive": lambda: [SensitivePalettization(n_bits=3, weight_threshold=0, bias_correction=True)],
    "sensitive scaled in groups": lambda: [
        SensitivePalettization(n_bits=2, weight_threshold=0, enable_per_channel_scale=True, **GROUPED)
    ],
    "sensitive vectors": lambda: [
        SensitivePalettization(
            n_bits=6, weight_threshold=0, cluster_dim=2, module_name_configs={"plain": None}
        )
    ],
    "sparse": lambda: [SparseGPT(target_sparsity=0.6, bias_correction=True)],
    "2 of 4": lambda: [SparseGPT(n_m_ratio=[2, 4], module_name_configs={"plain": None})],
    "sparse palettes": lambda: [
        SparseGPT(target_sparsity=0.4),
        GPTQPalettization(n_bits=4, weight_threshold=0),
    ],
    "sparse integers": lambda: [SparseGPT(target_sparsity=0.4), GPTQ(weight_dtype="int8")],
    "sparse and sensitive": lambda: [
        SparseGPT(target_sparsity=0.4),
        SensitivePalettization(n_bits=4, weight_threshold=0),
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_prepared_finalized_and_stored_agree_and_outputs_stay_near(
    trained: Network, importance: dict[str, Tensor], form: str
) -> None:
    prepared, finalized = compressed(trained, *FORMS[form](), importance=importance)
    prepared.module.eval()
    for name in NAMES:
        layer = finalized.get_submodule(name)
        assert torch.equal(prepared.module.get_submodule(name).weight, layer.weight)
        if any(key.startswith("_COREML_/weight/lut") for key, _ in layer.named_buffers()):
            assert torch.equal(stored_value(layer), layer.weight)
    torch.testing.assert_close(prepared.module(images()), finalized(images()), rtol=1e-5, atol=1e-5)
    assert 0 < distance(trained, finalized) < 0.7
    assert prepared.report()


@pytest.mark.parametrize(
    "method",
    [
        GPTQ(),
        GPTQ(block_size=1, weight_dtype="uint4", quantization_scheme="affine"),
        GPTQPalettization(n_bits=2, weight_threshold=0),
        SparseGPT(target_sparsity=0.7),
    ],
)
def test_feedback_keeps_outputs_nearer_than_deciding_each_weight_by_itself(
    trained: Network, method: Method
) -> None:
    _, finalized = compressed(trained, method)
    assert distance(trained, finalized) < 0.75 * distance(trained, rounded(trained, method))


def test_a_sensitive_palette_has_less_weighted_error_than_a_plain_one(
    trained: Network, importance: dict[str, Tensor]
) -> None:
    keys: dict[str, Any] = {"n_bits": 2, "weight_threshold": 0}
    _, sensitive = compressed(trained, SensitivePalettization(**keys), importance=importance)
    plain = PreparedModule(copy.deepcopy(trained), [DKMPalettization(**keys)]).finalize()
    for name in NAMES:
        weight, counts = trained.get_submodule(name).weight.detach(), importance[f"{name}.weight"]
        errors = [
            float((counts * (network.get_submodule(name).weight.detach() - weight).square()).sum())
            for network in (sensitive, plain)
        ]
        assert errors[0] < errors[1]


def test_palettes_of_gptq_heed_importance_where_it_is_known(
    trained: Network, importance: dict[str, Tensor]
) -> None:
    method = GPTQPalettization(n_bits=2, weight_threshold=0)
    with_it = compressed(trained, method, importance=importance)[1]
    without = compressed(trained, method)[1]
    assert not torch.equal(with_it.head.weight.unique(), without.head.weight.unique())
    asking = GPTQPalettization(n_bits=2, weight_threshold=0, sensitive=True)
    assert torch.equal(compressed(trained, asking, importance=importance)[1].head.weight, with_it.head.weight)
    with pytest.raises(CompressionError, match="importance does not hold it"):
        compressed(trained, asking)


def test_zeros_are_as_many_as_asked_in_all_or_in_every_few_along_the_inputs(trained: Network) -> None:
    _, half = compressed(trained, SparseGPT(target_sparsity=0.37))
    for name in NAMES:
        weight = half.get_submodule(name).weight
        assert abs(float((weight == 0).float().mean()) - 0.37) <= 1 / weight.numel() + 1e-6
    _, ratio = compressed(trained, SparseGPT(n_m_ratio=[3, 4], module_name_configs={"plain": None}))
    blocks = ratio.grouped.weight.reshape(16, 2, 4, 3, 3)
    assert bool(((blocks == 0).sum(dim=2) == 3).all())
    turned = ratio.turned.weight.reshape(2, 2, 4, 4, 2, 2)
    assert bool(((turned == 0).sum(dim=2) == 3).all())


@pytest.mark.parametrize(
    "joined",
    [
        GPTQPalettization(n_bits=3, weight_threshold=0),
        GPTQ(weight_dtype="int8"),
        SensitivePalettization(n_bits=3, weight_threshold=0),
    ],
)
@pytest.mark.parametrize(
    "pruning", [SparseGPT(), MagnitudePruning(scheduler={"begin_step": 0}, target_sparsity=0.5)]
)
def test_zeros_stay_zeros(
    trained: Network, importance: dict[str, Tensor], joined: Method, pruning: Method
) -> None:
    prepared = PreparedModule(copy.deepcopy(trained), [joined, pruning])
    if isinstance(pruning, MagnitudePruning):
        # As one step of training would.
        for state in prepared.chains():
            state[1][0].technique.anticipate(state[1][0].tensor())
    calibrate(prepared, batches=images().split(32), importance=importance)
    finalized = prepared.finalize()
    for name in NAMES:
        layer = finalized.get_submodule(name)
        assert float((layer.weight == 0).float().mean()) >= 0.49
        assert 1 in layer.get_buffer("_COREML_/weight/compression_type").tolist()


@pytest.mark.parametrize("has_bias", [True, False])
def test_bias_correction_keeps_the_mean_of_each_output(has_bias: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=has_bias), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2, stride=2)
    )
    network[2].bias = nn.Parameter(torch.zeros(4)) if has_bias else None
    inputs = images()
    method = GPTQPalettization(n_bits=1, weight_threshold=0, bias_correction=True)
    prepared = PreparedModule(copy.deepcopy(network), [method])
    calibrate(prepared, batches=[inputs])
    finalized = prepared.finalize()
    hidden = finalized[1](finalized[0](inputs))
    for before, after in (
        (network[0](inputs), finalized[0](inputs)),
        (network[2](hidden), finalized[2](hidden)),
    ):
        expected = before.mean(dim=(0, 2, 3))
        torch.testing.assert_close(after.mean(dim=(0, 2, 3)), expected, rtol=1e-4, atol=1e-5)
    prepared.module.eval()
    torch.testing.assert_close(prepared.module(inputs), finalized(inputs), rtol=1e-4, atol=1e-5)
    assert not any("output_shift" in name for name, _ in finalized.named_modules())


def test_embeddings_and_recurrent_layers_stay_dense_with_a_reason() -> None:
    network = nn.ModuleDict({"rows": nn.Embedding(50, 8), "cell": nn.LSTM(8, 8), "head": nn.Linear(8, 8)})
    for method in (GPTQ(), SparseGPT(), GPTQPalettization(n_bits=1, weight_threshold=0)):
        reasons = PreparedModule(copy.deepcopy(network), [method]).dense_reasons()
        assert "multiplies its weight by, and Embedding has none" in reasons["rows.weight"]
        assert "LSTM has none" in reasons["cell.weight_hh_l0"]
        assert "head.weight" not in reasons
    everything = PreparedModule(network, [SensitivePalettization(n_bits=1, weight_threshold=0)])
    assert not everything.dense_reasons()


def test_what_a_package_needs_follows_from_the_keys() -> None:
    def needed(*methods: Method) -> set[Capability]:
        return PreparedModule(nn.Linear(64, 64), methods).capabilities

    assert needed(GPTQ()) == {Capability.INT4_WEIGHTS}
    assert needed(GPTQ(weight_dtype="int8", block_size=8)) == {
        Capability.INT8_WEIGHTS,
        Capability.BLOCKWISE_WEIGHTS,
    }
    assert needed(SensitivePalettization()) == {Capability.LUT}
    assert needed(GPTQPalettization(n_bits=3), SparseGPT()) == {
        Capability.LUT_3_BIT,
        Capability.SPARSE_WEIGHTS,
        Capability.JOINT,
    }


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ([GPTQ(), SensitivePalettization()], "both decide which values 'weight' may have"),
        ([SparseGPT(), MagnitudePruning()], "both decide which elements of 'weight' are zero"),
        ([SparseGPT(), DKMPalettization()], "was trained on it without zeros; join SparseGPT with"),
        ([SparseGPT(), LinearQuantization()], "was trained on it without zeros"),
        ([SparseGPT(), GPTQPalettization(cluster_dim=2)], "stores 2 as one; use a palette of cluster_dim=1"),
    ],
)
def test_pairs_that_cannot_be_are_refused_before_anything_runs(methods: list[Method], message: str) -> None:
    layer = nn.Linear(64, 64)
    with pytest.raises(ConfigurationError, match=message):
        PreparedModule(layer, methods)
    assert list(layer.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GPTQ(weight_dtype="int3"), r"weight_dtype of GPTQ, global is 'int3'; valid are \['int4'"),
        (lambda: GPTQ(quantization_scheme="odd"), "quantization_scheme of GPTQ, global is 'odd'"),
        (lambda: GPTQ(block_size=0), "block_size of GPTQ, global is 0"),
        (lambda: GPTQ(block_size=8, weight_per_channel=False), "valid is weight_per_channel True"),
        (lambda: GPTQ(weight_per_channel="yes"), "weight_per_channel of GPTQ, global is 'yes'"),
        (lambda: GPTQ(hessian_dampening=-1), "hessian_dampening of GPTQ, global is -1"),
        (lambda: GPTQ(bias_correction=1), "bias_correction of GPTQ, global is 1; valid is true or false"),
        (lambda: GPTQPalettization(n_bits=5), "n_bits of GPTQPalettization, global is 5"),
        (lambda: SensitivePalettization(n_bits=None), "n_bits of SensitivePalettization, global is None"),
        (lambda: SensitivePalettization(milestone=3), "unknown key 'milestone'"),
        (lambda: SensitivePalettization(group_size=3), "set granularity to per_grouped_channel"),
        (lambda: SparseGPT(target_sparsity=1.0), "target_sparsity of SparseGPT, global is 1.0"),
        (lambda: SparseGPT(n_m_ratio=[4, 2]), r"n_m_ratio of SparseGPT, global is \[4, 2\]"),
        (lambda: SparseGPT(n_m_ratio=[2, 4], target_sparsity=0.5), "valid is one of them"),
    ],
)
def test_values_that_cannot_be_are_refused_with_valid_ones(make: Callable[[], Method], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (GPTQ(block_size=7), r"'weight' has 64 input channels; valid are \[1, 2, 4"),
        (SparseGPT(n_m_ratio=[1, 5]), "that 5 divides, and 'weight' has 64"),
        (SensitivePalettization(granularity="per_grouped_channel", group_size=5), "does not divide the 64"),
        (GPTQPalettization(weight_threshold=1 << 20), "finds nothing to compress"),
    ],
)
def test_tensors_that_do_not_fit_are_told(method: Method, message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        PreparedModule(nn.Linear(64, 64), [method])


def test_configurations_of_coremltools_are_read_and_described_again(tmp_path: Any) -> None:
    path = tmp_path / "sensitive.yaml"
    path.write_text("global_config:\n  n_bits: 2\n  lut_dtype: null\nmodule_name_configs:\n  head: null\n")
    method = SensitivePalettization.from_yaml(path)
    again = SensitivePalettization.from_description(method.describe())
    assert again.configuration.everything == method.configuration.everything
    assert again.describe() == method.describe()
