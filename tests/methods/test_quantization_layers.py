"""Quantization in all sorts of layers: what is trained, finalized and traced is one and the same."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_compress.errors import CompressionError, ConfigurationError
from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.quantization import LinearQuantization


class Branching(nn.Module):
    """Puts out something else in training."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x):
        x = self.layer(x.flatten(1)[:, :8])
        return x if self.training else x.softmax(-1)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        self.body = nn.Linear(8, 8)

    def forward(self, x):
        return nn.functional.linear(self.body(self.embedding(x)), self.embedding.weight)


def zero_gamma():
    norm = nn.BatchNorm2d(4)
    nn.init.zeros_(norm.weight)
    return nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.ReLU(), nn.Conv2d(4, 4, 1))


def image():
    return torch.randn(4, 2, 8, 8)


NETS = {
    "convolution of signals": (
        lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.Conv1d(4, 2, 1)),
        lambda: torch.randn(4, 2, 9),
    ),
    "convolution of volumes": (
        lambda: nn.Sequential(nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4)),
        lambda: torch.randn(4, 2, 4, 4, 4),
    ),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 4, 3), nn.ConvTranspose2d(4, 2, 2, stride=2)),
        image,
    ),
    "transposed, signals": (lambda: nn.ConvTranspose1d(2, 4, 3), lambda: torch.randn(4, 2, 9)),
    "grouped": (lambda: nn.Conv2d(2, 4, 3, groups=2), image),
    "reflect padding": (lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), image),
    "zero gamma": (zero_gamma, image),
    "batch norm without parameters": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=False)),
        image,
    ),
    "batch norm without statistics": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        image,
    ),
    "training branch": (Branching, image),
    "tied embedding": (Tied, lambda: torch.randint(0, 12, (3, 5))),
    "attention": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        lambda: torch.randn(3, 5, 8),
    ),
    "recurrence": (lambda: nn.GRUCell(8, 4), lambda: torch.randn(3, 8)),
}


def prepare_and_train(make, batch, steps=4, **keys):
    torch.manual_seed(0)
    net = make()
    prepared = PreparedModule(net, [LinearQuantization(**{"milestones": [0, 0, 2, 2], **keys})])
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    prepared.start_training()
    for _ in range(steps):
        optimizer.zero_grad()
        net(batch()).square().mean().backward()
        optimizer.step()
        prepared.step()
    return prepared, net


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("algorithm", ["vanilla", "learnable"])
@pytest.mark.filterwarnings("ignore")
def test_trained_finalized_and_traced_agree(name, algorithm):
    make, batch = NETS[name]
    prepared, net = prepare_and_train(make, batch, algorithm=algorithm)
    finalized = prepared.finalize()
    example = batch()
    net.eval()
    with torch.no_grad():
        trained = net(example)
        assert torch.isfinite(trained).all()
        torch.testing.assert_close(finalized(example), trained, rtol=0, atol=1e-6)
        traced = torch.jit.trace(finalized, example, check_trace=False)
        torch.testing.assert_close(traced(example), trained, rtol=0, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from([(4, 6), (6, 4, 3), (4, 2, 3, 3), (2, 6, 2, 2, 2)]),
    dtype=st.sampled_from(["qint8", "quint8", "qint4", "quint4"]),
    scheme=st.sampled_from(["symmetric", "affine"]),
    algorithm=st.sampled_from(["vanilla", "learnable"]),
    observer=st.sampled_from(["moving_average_min_max", "min_max", "ema_min_max"]),
    groups=st.sampled_from(["tensor", "channel", "block"]),
    seed=st.integers(0, 1000),
    size=st.sampled_from([1e-6, 0.1, 300.0]),
    shift=st.sampled_from([0.0, 1.0]),
)
def test_what_is_stored_is_what_is_computed(
    shape, dtype, scheme, algorithm, observer, groups, seed, size, shift
):
    """The weight is scale * (integer - zero point) to the last bit, with integers of the type, and zeros stay zero."""
    layer = nn.Module()
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randn(shape, generator=generator) + shift) * size
    weight.flatten()[::3] = 0.0
    layer.weight = nn.Parameter(weight)
    keys = {"weight_per_channel": groups != "tensor", "block_size": 2 if groups == "block" else None}
    method = LinearQuantization(
        weight_dtype=dtype,
        quantization_scheme=scheme,
        algorithm=algorithm,
        weight_observer=observer,
        module_name_configs={
            "weight": {
                **keys,
                "weight_dtype": dtype,
                "weight_observer": observer,
                "quantization_scheme": scheme,
                "algorithm": algorithm,
            }
        },
    )
    prepared = PreparedModule(layer, [method])
    optimizer = torch.optim.SGD(layer.parameters(), 0.01)
    prepared.start_training()
    for _ in range(2):
        optimizer.zero_grad()
        layer.weight.square().mean().backward()
        optimizer.step()
        prepared.step()
    finalized = prepared.finalize()
    stored = finalized.weight.detach()
    scale = finalized._buffers["_COREML_/weight/quantization_scale"]
    zero_point = finalized._buffers.get("_COREML_/weight/zero_point", torch.zeros(1))
    for axis, (whole, part) in enumerate(zip(shape, scale.shape, strict=True)):
        scale = scale.repeat_interleave(whole // part, dim=axis)
        if zero_point.dim() > 1:
            zero_point = zero_point.repeat_interleave(whole // part, dim=axis)
    integers = torch.round(stored / scale) + zero_point
    bits = int(dtype[-1])
    low = 0 if dtype.startswith("qu") else -(2 ** (bits - 1))
    assert integers.min() >= low
    assert integers.max() <= low + 2**bits - 1
    assert torch.equal((integers - zero_point) * scale, stored)
    assert not stored[layer.parametrizations["weight"].original == 0].any()
    layer.eval()
    assert torch.equal(layer.weight.detach(), stored)


def test_block_scales_are_those_of_each_block_alone():
    torch.manual_seed(0)
    weight = torch.randn(6, 4, 3, 3)
    net = nn.Sequential(nn.ConvTranspose2d(6, 4, 3))
    net[0].weight.data.copy_(weight)
    PreparedModule(net, [LinearQuantization(block_size=3, activation_dtype="float32")])
    net.eval()
    rounded = net[0].weight.detach()
    for block in (slice(0, 3), slice(3, 6)):
        for channel in range(4):
            part = weight[block, channel]
            scale = float(part.abs().max() / 127.5)
            expected = torch.fake_quantize_per_tensor_affine(part, scale, 0, -128, 127)
            assert torch.equal(rounded[block, channel], expected)


def test_batch_norm_keeps_its_statistics_after_the_fourth_milestone():
    def make():
        return nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False)
        )

    prepared, net = prepare_and_train(make, image, steps=3)
    mean = net[1].running_mean.clone()
    net.train()
    net(image() + 5)
    assert torch.equal(net[1].running_mean, mean)
    assert not net[1].training
    assert net[2].training
    finalized = prepared.finalize()
    assert not finalized[1]._forward_pre_hooks
    prepared.load_state_dict({**prepared.state_dict(), "steps": 1})
    net.train()
    net(image() + 5)
    assert not torch.equal(net[1].running_mean, mean)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"weight_dtype": "int8"}, "weight_dtype"),
        ({"weight_n_bits": 4}, "weight_n_bits"),
        ({"activation_dtype": "qint8"}, "activation_dtype"),
        ({"milestones": [0, 1, 2]}, "list of four"),
        ({"milestones": [3, 1, 4, 5]}, "before they observe"),
        ({"milestones": [-1, 1, 4, 5]}, "never observe"),
        ({"block_size": 0}, "block_size"),
        ({"block_size": 2, "weight_per_channel": False}, "weight_per_channel"),
        ({"block_size": 3}, "input channels"),
        ({"module_type_configs": {"ReLU": {"weight_dtype": "qint8"}}}, "inputs of layers"),
        ({"module_type_configs": {torch.add: {"weight_dtype": "qint8"}}}, "inputs of layers"),
        ({"module_type_configs": {"Conv9d": None}}, "Conv9d"),
        ({"weight_dtype": "qint4", "global_config": {}}, "twice"),
        ({"weight_dtype": "float32", "activation_dtype": "float32"}, "nothing to compress"),
        (
            {
                "global_config": {"algorithm": "vanilla"},
                "module_type_configs": {"Linear": {"algorithm": "learnable"}},
            },
            "one value for all",
        ),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(keys, words):
    with pytest.raises(CompressionError, match=words):
        PreparedModule(nn.Sequential(nn.Conv2d(2, 4, 3)), [LinearQuantization(**keys)])


def test_functions_and_modules_without_weights_may_be_excluded():
    excluded = {
        "ReLU": None,
        "relu": None,
        torch.add: None,
        "torch.mul": None,
        "operator.add": None,
        nn.MaxPool2d: None,
    }
    method = LinearQuantization(
        module_type_configs=excluded, non_traceable_module_names=["gone"], preserved_attributes=["x"]
    )
    prepared = PreparedModule(nn.Sequential(nn.Conv2d(2, 4, 3)), [method])
    assert [planned.reference.name for planned in prepared.plan.tensors if planned.keys] == ["0.weight"]
    assert LinearQuantization.from_description(method.describe()).describe() == method.describe()


def test_inputs_alone_may_be_quantized():
    prepared, _ = prepare_and_train(lambda: nn.Sequential(nn.Conv2d(2, 4, 3)), image, weight_dtype="float32")
    assert list(prepared.plan.tensors[0].reasons.values()) == ["weights stay float: weight_dtype is float32"]
    assert not any("_COREML_" in name for name, _ in prepared.finalize().named_buffers())


def test_without_any_value_seen_inputs_cannot_be_finalized():
    prepared = PreparedModule(nn.Sequential(nn.Conv2d(2, 4, 3)), [LinearQuantization()])
    with pytest.raises(CompressionError, match="none of 1 observer "):
        prepared.finalize()
    assert torch.isfinite(prepared.finalize([(image(),)])(image())).all()


def test_milestones_beyond_the_fit_are_refused():
    from lightning_compress.methods.mechanism.schedule import FitLength

    prepared = PreparedModule(
        nn.Sequential(nn.Conv2d(2, 4, 3)), [LinearQuantization(milestones=[0, 1, 9, 9])]
    )
    with pytest.raises(ConfigurationError, match="ends at optimizer step 10"):
        prepared.resolve_schedule(FitLength(5))


@pytest.mark.parametrize("algorithm", ["vanilla", "learnable"])
def test_under_autocast_values_are_rounded_in_float32(algorithm):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    prepared = PreparedModule(net, [LinearQuantization(algorithm=algorithm)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net(torch.randn(4, 8)).float().square().mean().backward()
    prepared.step()
    assert net[1].compressed_inputs["input"].quantizer.low.dtype == torch.float32
    assert net[0].parametrizations["weight"].original.grad is not None
    net.half()
    assert net[0].parametrizations["weight"][0].quantizer.low.dtype == torch.float32


@pytest.mark.parametrize(
    ("keys", "n_bits", "blocks"),
    [
        ({}, 8, (4, 1, 1, 1)),
        ({"weight_dtype": "quint4", "quantization_scheme": "affine"}, 4, (4, 1, 1, 1)),
        ({"weight_per_channel": False, "weight_dtype": "quint8"}, 8, (1, 1, 1, 1)),
        ({"weight_dtype": "qint4", "block_size": 1}, 4, (4, 2, 1, 1)),
    ],
)
def test_metadata_are_those_that_coremltools_reads(keys, n_bits, blocks):
    from coremltools.optimize.torch._utils.metadata_utils import CompressionMetadata, CompressionType

    prepared, _ = prepare_and_train(lambda: nn.Sequential(nn.Conv2d(2, 4, 3)), image, **keys)
    finalized = prepared.finalize()
    assert "_COREML_/metadata_version" in finalized.state_dict()
    metadata = CompressionMetadata.from_state_dict(finalized[0].state_dict())["weight"]
    assert metadata.compression_type == [CompressionType.quantization.value]
    assert metadata.quantization_n_bits == n_bits
    assert metadata.quantization_scale.shape == blocks
    assert metadata.zero_point is None or metadata.zero_point.shape == blocks


CONVERTED = {
    "int8": (lambda: nn.Conv2d(2, 4, 3), image, {}),
    "int4": (lambda: nn.Conv2d(2, 4, 3), image, {"weight_dtype": "qint4"}),
    "uint4, affine": (
        lambda: nn.Conv2d(2, 4, 3),
        image,
        {"weight_dtype": "quint4", "quantization_scheme": "affine"},
    ),
    "one scale": (lambda: nn.Conv2d(2, 4, 3), image, {"weight_per_channel": False}),
    "blocks": (
        lambda: nn.Sequential(nn.Linear(8, 4)),
        lambda: torch.randn(4, 8),
        {"block_size": 4, "weight_dtype": "qint4"},
    ),
    "signals": (lambda: nn.Conv1d(2, 4, 3), lambda: torch.randn(4, 2, 9), {}),
    "transposed": (lambda: nn.ConvTranspose2d(2, 4, 3), image, {"quantization_scheme": "affine"}),
    "embedding": (Tied, lambda: torch.randint(0, 12, (3, 5)), {}),
}


@pytest.mark.parametrize("name", CONVERTED)
@pytest.mark.filterwarnings("ignore")
def test_coremltools_converts_to_the_very_integers(name):
    import coremltools as ct

    make, batch, keys = CONVERTED[name]
    prepared, _ = prepare_and_train(lambda: nn.Sequential(make()), batch, activation_dtype="float32", **keys)
    example = batch()
    traced = torch.jit.trace(prepared.finalize(), example)
    kind = {"dtype": int} if not example.is_floating_point() else {}
    program = ct.convert(
        traced,
        inputs=[ct.TensorType("x", shape=example.shape, **kind)],
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        convert_to="milinternal",
    )
    constants = [op for op in program.functions["main"].operations if op.op_type.startswith("constexpr")]
    assert constants
    finalized = {tensor.numel(): tensor for tensor in prepared.finalize().parameters()}
    for op in constants:
        value = torch.from_numpy(
            op.outputs[0].val if op.outputs[0].val is not None else op.materialized_val_inference()
        )
        stored = finalized[value.numel()].detach()
        if value.shape == stored.shape:
            torch.testing.assert_close(value.float(), stored, rtol=1e-6, atol=0)
