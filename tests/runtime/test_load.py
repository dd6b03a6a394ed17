"""Whole packages: loading, calling, precisions, state, and what a bad package or input says."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import shutil
import warnings
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - coremltools' own name for it
from sklearn.datasets import load_digits
from torch import nn

from lightning_compress import runtime
from lightning_compress.coreml.quiet import quiet_conversion
from lightning_compress.errors import ConfigurationError, PackageError
from lightning_compress.runtime.execution import Arithmetic
from lightning_compress.runtime.module import CoreMLProgram


class Detector(nn.Module):
    """Two feature maps, their class scores and boxes decoded around anchors: the ops of an SSD."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        self.second = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.scores = nn.ModuleList([nn.Conv2d(16, 6, 3, padding=1) for _ in range(2)])
        self.offsets = nn.ModuleList([nn.Conv2d(16, 8, 3, padding=1) for _ in range(2)])
        self.register_buffer("anchors", torch.rand(2 * 64 + 2 * 16, 4) + 0.1)

    def forward(self, x):
        maps = [self.first(x)]
        maps.append(self.second(maps[0]))
        scores = torch.cat([self._flat(head(m), 3) for head, m in zip(self.scores, maps, strict=True)], 1)
        offsets = torch.cat([self._flat(head(m), 4) for head, m in zip(self.offsets, maps, strict=True)], 1)
        centres = offsets[..., :2] * 0.1 * self.anchors[:, 2:] + self.anchors[:, :2]
        sizes = torch.exp(offsets[..., 2:] * 0.2) * self.anchors[:, 2:]
        return scores.softmax(-1), torch.cat([centres - sizes / 2, centres + sizes / 2], -1)

    def _flat(self, x, depth):
        n, _, height, width = x.shape
        return x.view(n, -1, depth, height, width).permute(0, 3, 4, 1, 2).reshape(n, -1, depth)


def convert(network, inputs, outputs, folder, *, example=None, **options):
    """Save a package of the network; what tracing and converting warn about is not what is tested here."""
    path = folder / "model.mlpackage"
    example = torch.rand([int(size) for size in inputs[0].shape.shape]) if example is None else example
    options = {"minimum_deployment_target": ct.target.iOS16, **options}
    with quiet_conversion(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, example)
        model = ct.convert(traced, inputs=inputs, outputs=outputs, skip_model_load=True, **options)
        model.save(str(path))
        del model
        gc.collect()
    return path


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return Detector().eval()


@pytest.fixture(scope="module")
def detector_package(detector, tmp_path_factory):
    return convert(
        detector,
        [ct.ImageType("image", shape=(1, 3, 32, 32), scale=1 / 255, bias=[-0.4, -0.5, -0.6])],
        [ct.TensorType("scores"), ct.TensorType("boxes")],
        tmp_path_factory.mktemp("detector"),
    )


@pytest.fixture
def images():
    digits = torch.from_numpy(load_digits().images[:5]).to(torch.uint8) * 15
    enlarged = digits.repeat_interleave(4, 1).repeat_interleave(4, 2)
    return torch.stack([enlarged, 255 - enlarged, enlarged // 2], 1)


def expected_of(detector, images):
    bias = torch.tensor([-0.4, -0.5, -0.6]).reshape(3, 1, 1)
    with torch.no_grad():
        return detector(images.float() / 255 + bias)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-3), ("float16", 1e-2)])
def test_a_detector_agrees_with_torch_for_one_image_and_many(
    detector, detector_package, images, precision, tolerance
):
    module = runtime.load(detector_package, precision=precision)
    expected = expected_of(detector, images)
    many = module(images)
    one = module(image=images[:1].float())
    assert list(many) == ["scores", "boxes"]
    for name, reference in zip(many, expected, strict=True):
        assert many[name].shape == reference.shape
        assert many[name].dtype is getattr(torch, precision)
        torch.testing.assert_close(many[name].float(), reference, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(one[name].float(), reference[:1], atol=tolerance, rtol=tolerance)


def test_float16_on_a_cpu_rounds_every_result(detector_package, images):
    module = runtime.load(detector_package, precision="float16")
    scores = module(images)["scores"]
    typed = runtime.load(detector_package)(images)["scores"]
    assert not torch.equal(scores.float(), typed)
    # Values that float16 can hold sum to one only to its precision.
    assert 0 < (scores.double().sum(-1) - 1).abs().max() < 2e-3


def test_typed_arithmetic_of_accelerators_agrees_with_rounding(detector_package, images, monkeypatch):
    rounded = runtime.load(detector_package, precision="float16")(images)
    monkeypatch.setattr(CoreMLProgram, "_arithmetic", Arithmetic.TYPED)
    module = runtime.load(detector_package, precision="float16")
    monkeypatch.setattr(module, "_prepare", lambda item, value: value.to(item.dtype))
    for name, value in module(images).items():
        assert value.dtype is torch.float16
        torch.testing.assert_close(value, rounded[name], atol=1e-2, rtol=1e-2)


def test_a_package_of_float32_weights_is_exact(detector, images, tmp_path):
    inputs = [ct.TensorType("x", shape=(1, 3, 32, 32))]
    package = convert(detector, inputs, None, tmp_path, compute_precision=ct.precision.FLOAT32)
    x = images.float() / 255
    with torch.no_grad():
        expected = detector(x)
    for precision in ("float32", "float16"):
        actual = runtime.load(package, precision=precision)(x).values()
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other)


def test_bgr_and_grey_images(tmp_path):
    class Weighted(nn.Module):
        def forward(self, x):
            return (x * torch.arange(1.0, x.shape[1] + 1).reshape(-1, 1, 1)).sum(1)

    image = torch.rand(2, 3, 4, 4) * 255
    types = [ct.ImageType("image", shape=(1, 3, 4, 4), color_layout=ct.colorlayout.BGR)]
    module = runtime.load(convert(Weighted(), types, None, tmp_path))
    expected = image[:, 2] + 2 * image[:, 1] + 3 * image[:, 0]
    torch.testing.assert_close(module(image).popitem()[1], expected, rtol=1e-3, atol=1e-3)
    types = [ct.ImageType("image", shape=(1, 1, 4, 4), color_layout=ct.colorlayout.GRAYSCALE, scale=0.5)]
    module = runtime.load(convert(Weighted(), types, None, tmp_path))
    torch.testing.assert_close(module(image[:, :1]).popitem()[1], image[:, 0] * 0.5)


def test_a_classifier_gives_labels_and_probabilities(tmp_path):
    types = [ct.TensorType("x", shape=(1, 4))]
    labels = ct.ClassifierConfig(["a", "b", "c", "d"])
    network = nn.Softmax(-1)
    module = runtime.load(convert(network, types, None, tmp_path, classifier_config=labels))
    x = torch.eye(4)[[2, 0, 3]] * 5
    outputs = module(x)
    assert outputs.pop("classLabel") == ["c", "a", "d"]
    assert module.class_labels == ("a", "b", "c", "d")
    torch.testing.assert_close(outputs.popitem()[1], x.softmax(-1), atol=1e-3, rtol=1e-3)


class Attention(nn.Module):
    """Puts the batch on the second axis, as torchvision's ViT does: samples cannot simply be stacked."""

    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2)
        self.token = nn.Parameter(torch.rand(1, 1, 8))

    def forward(self, x):
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1).transpose(0, 1)
        return self.attend(x, x, x)[0].transpose(0, 1)[:, 0]


def test_samples_run_through_vmap_where_they_cannot_be_stacked(tmp_path):
    torch.manual_seed(0)
    network = Attention().eval()
    package = convert(network, [ct.TensorType("x", shape=(1, 6, 8))], None, tmp_path)
    module = runtime.load(package)
    x = torch.rand(5, 6, 8)
    assert module.batching == "vmap"
    with torch.no_grad():
        torch.testing.assert_close(module(x).popitem()[1], network(x), atol=1e-3, rtol=1e-3)


def test_samples_run_one_by_one_where_values_decide_shapes(programs):
    x = np.array([[1, 0, 2, 3]], np.float32)
    module = programs.build(lambda x: mb.reduce_sum(x=mb.non_zero(x=x), axes=[0], keep_dims=False), {"x": x})
    assert module.batching == "one by one"
    stacked = module(torch.tensor([[1.0, 0, 2, 3], [0, 0, 0, 5]])).popitem()[1]
    assert stacked.tolist() == [[0, 5], [0, 3]]


def test_flexible_inputs_take_the_sizes_that_the_package_lists(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Upsample(scale_factor=2, mode="nearest"))
    side = ct.RangeDim(4, 16, 8)
    inputs = [ct.TensorType("x", shape=(1, 3, side, side))]
    package = convert(network, inputs, None, tmp_path, example=torch.rand(1, 3, 8, 8))
    module = runtime.load(package)
    x = torch.rand(1, 3, 12, 6)
    with torch.no_grad():
        torch.testing.assert_close(module(x).popitem()[1], network(x), atol=1e-2, rtol=1e-2)
    with pytest.raises(PackageError, match=r"shape \[1, 3, 20, 6\]; it takes .*\[N, 3, 4\.\.16, 4\.\.16\]"):
        module(torch.rand(1, 3, 20, 6))

    inputs = [ct.TensorType("x", shape=ct.EnumeratedShapes([[1, 3, 8, 8], [1, 3, 4, 4]]))]
    module = runtime.load(convert(network, inputs, None, tmp_path, example=torch.rand(1, 3, 8, 8)))
    assert module(torch.rand(3, 3, 4, 4)).popitem()[1].shape == (3, 4, 8, 8)
    with pytest.raises(PackageError, match=r"\[1, 3, 8, 8\] or \[1, 3, 4, 4\]"):
        module(torch.rand(1, 3, 8, 4))


def test_copies_and_pickles_compute_the_same(detector_package, images):
    module = runtime.load(detector_package)
    expected = module(images)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        for name, value in twin(images).items():
            assert torch.equal(value, expected[name])


def test_the_state_holds_stored_types_and_reloads(detector_package, images):
    module = runtime.load(detector_package)
    expected = module(images)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    assert {value.dtype for value in state.values() if value.numel() > 100} == {torch.float16}
    assert state.keys() == dict(module.named_buffers()).keys()
    module.load_state_dict({name: value * 0 for name, value in state.items()})
    assert not torch.equal(module(images)["scores"], expected["scores"])
    module.load_state_dict(state)
    assert torch.equal(module(images)["scores"], expected["scores"])


def test_gradients_reach_the_input_even_after_inference_mode(detector_package, images):
    with torch.inference_mode():
        module = runtime.load(detector_package)
        module(images)
    x = images.float().requires_grad_()
    module(x)["boxes"].sum().backward()
    assert x.grad.abs().sum() > 0


def test_autocast_does_not_change_the_precision(detector_package, images):
    module = runtime.load(detector_package)
    expected = module(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(images)["scores"], expected["scores"])


def test_moving_keeps_the_results(detector_package, images):
    module = runtime.load(detector_package, device="cpu")
    expected = module(images)
    moved = module.to("meta")
    assert next(moved.buffers()).device.type == "meta"
    assert torch.equal(runtime.load(detector_package).to("cpu")(images)["boxes"], expected["boxes"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: m(img=x), "no input 'img'; did you mean 'image'"),
        (lambda m, x: m(), "misses its input 'image'"),
        (lambda m, x: m(x, x), "got 2 inputs; it takes 1: image"),
        (lambda m, x: m(x, image=x), "given twice"),
        (lambda m, x: m(x.numpy()), "got a ndarray; it takes a torch.Tensor"),
        (lambda m, x: m(x.long()), "values of type torch.int64"),
        (lambda m, x: m(x[:, :1]), r"shape \[5, 1, 32, 32\]; it takes of shape \[N, 3, 32, 32\]"),
        (lambda m, x: m(x[..., :16]), r"shape \[5, 3, 32, 16\]"),
        (lambda m, x: m(x[:0]), r"shape \[0, 3, 32, 32\]"),
    ],
)
def test_a_wrong_input_says_what_is_right(detector_package, images, call, message):
    with pytest.raises(PackageError, match=message):
        call(runtime.load(detector_package), images)


def test_an_unknown_precision_lists_the_valid_ones(detector_package):
    with pytest.raises(ConfigurationError, match="'bfloat16' is unknown; valid are float32, float16"):
        runtime.load(detector_package, precision="bfloat16")


@pytest.fixture
def package(detector_package, tmp_path):
    """A copy of the detector's package to damage."""
    return shutil.copytree(detector_package, tmp_path / "damaged.mlpackage")


def weight_file(package):
    return package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"


def model_file(package):
    return package / "Data" / "com.apple.CoreML" / "model.mlmodel"


def test_a_path_that_is_no_package(tmp_path):
    with pytest.raises(PackageError, match="no Core ML package at"):
        runtime.load(tmp_path / "missing.mlpackage")
    (tmp_path / "folder").mkdir()
    with pytest.raises(PackageError, match=r"no Manifest\.json"):
        runtime.load(tmp_path / "folder")
    (tmp_path / "weights.pt").write_bytes(b"PK")
    with pytest.raises(PackageError, match="is a file, not a Core ML package"):
        runtime.load(tmp_path / "weights.pt")


def test_an_older_neural_network_says_to_convert_again(tmp_path):
    inputs = [ct.TensorType("x", shape=(1, 3))]
    package = convert(
        nn.ReLU(), inputs, None, tmp_path, minimum_deployment_target=None, convert_to="neuralnetwork"
    )
    shutil.copy(model_file(package), tmp_path / "old.mlmodel")
    for name in ("old.mlmodel", "model.mlpackage"):
        with pytest.raises(PackageError, match=r"older neural-network model.*convert_to='mlprogram'"):
            runtime.load(tmp_path / name)


def test_a_compiled_or_encrypted_model_says_which(tmp_path):
    compiled = tmp_path / "model.mlmodelc"
    compiled.mkdir()
    with pytest.raises(PackageError, match=r"compiled model.*\.mlpackage it was compiled from"):
        runtime.load(compiled)
    (compiled / "encryptionInfo").mkdir()
    with pytest.raises(PackageError, match="encrypted"):
        runtime.load(compiled)


@pytest.mark.parametrize("size", [10, 1000, -1])
def test_a_truncated_weight_file(package, size):
    file = weight_file(package)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(PackageError, match=r"weight file 'weight\.bin' is truncated.*again"):
        runtime.load(package)


def test_a_missing_or_overwritten_weight_file(package):
    file = weight_file(package)
    content = file.read_bytes()
    file.write_bytes(bytes(len(content)))
    with pytest.raises(PackageError, match=r"'weight\.bin' is damaged"):
        runtime.load(package)
    file.unlink()
    with pytest.raises(PackageError, match=r"incomplete: its weight file 'weight\.bin' is missing"):
        runtime.load(package)


def test_a_model_file_that_is_unreadable_or_missing(package):
    model_file(package).write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(PackageError, match="damaged or encrypted"):
        runtime.load(package)
    model_file(package).unlink()
    with pytest.raises(PackageError, match=r"model file .*model\.mlmodel' is missing"):
        runtime.load(package)


def test_a_manifest_that_is_damaged_or_points_outside(package):
    manifest = package / "Manifest.json"
    content = json.loads(manifest.read_text())
    content["itemInfoEntries"][content["rootModelIdentifier"]]["path"] = "../../../secret.mlmodel"
    manifest.write_text(json.dumps(content))
    with pytest.raises(PackageError, match="outside its package"):
        runtime.load(package)
    manifest.write_text("{")
    with pytest.raises(PackageError, match="names no root model"):
        runtime.load(package)


def test_all_ops_that_are_missing_are_named_at_once(package):
    specification = ct.utils.load_spec(str(model_file(package)))
    (function,) = specification.mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    convolutions = [operation for operation in block.operations if operation.type == "conv"]
    convolutions[0].type = "hologram"
    convolutions[1].type = convolutions[2].type = "custom_layer"
    model_file(package).write_bytes(specification.SerializeToString())
    with pytest.raises(PackageError, match=r"'custom_layer' \(2 times\), 'hologram' \(1 times\)"):
        runtime.load(package)


def test_every_op_of_the_table_appears_in_a_test():
    sources = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    # A classifier's op comes from the converter alone: see the test of a classifier above.
    tested = {"classify"} | {name for name in runtime.supported_ops() if f'"{name}"' in sources}
    tested |= {name for name in runtime.supported_ops() if f"mb.{name}(" in sources}
    assert set(runtime.supported_ops()) - tested == set()
