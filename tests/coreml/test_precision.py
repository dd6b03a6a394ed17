"""What of a program computes in float16: everything, but for what a detector does after its last layer."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - coremltools' own name for it
from coremltools.converters.mil.mil import Function
from sklearn.datasets import load_sample_image
from torch import nn

from lightning_compress import runtime
from lightning_compress.coreml import CoreMLExport, ImageInput, NonMaximumSuppression
from lightning_compress.coreml.detector import RAW_OUTPUTS
from lightning_compress.coreml.precision import _BeforeDecoding
from lightning_compress.coreml.verification.running import program_of
from lightning_compress.package.reader import operations_of, programs_of, read_package

SIDE = 96


class Detector(nn.Module):
    """Two maps of cells, one class, boxes around anchors at thirds of a cell, which float16 cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ModuleList([nn.Conv2d(3, 8, 3, stride, 1) for stride in (8, 16)])
        self.heads = nn.ModuleList([nn.Conv2d(8, 6, 1) for _ in self.maps])
        grids = [torch.cartesian_prod(*[(torch.arange(side) + 1 / 3) / side] * 2) for side in (12, 6)]
        self.register_buffer("anchors", torch.cat(grids))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cells = torch.cat(
            [
                head(layer(image).relu()).flatten(2).transpose(1, 2)[0]
                for layer, head in zip(self.maps, self.heads, strict=True)
            ]
        )
        centers = self.anchors + cells[:, 2:4] * 1e-3
        return cells[:, :2].softmax(-1)[:, 1:], torch.cat([centers, (cells[:, 4:] * 1e-3).exp() / 10], 1)


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return Detector().eval()


@pytest.fixture(scope="module")
def photograph() -> torch.Tensor:
    pixels = torch.from_numpy(load_sample_image("flower.jpg").copy())
    return pixels[:SIDE, :SIDE].permute(2, 0, 1)[None].float()


def export(module, photograph, path, **keywords):
    return CoreMLExport(path, image=ImageInput(scale=1 / 255), **keywords).run(module, photograph / 255).path


@pytest.fixture(scope="module")
def package(detector, photograph, tmp_path_factory):
    path = tmp_path_factory.mktemp("precision") / "detector.mlpackage"
    return export(detector, photograph, path, class_labels=["person"], nms=NonMaximumSuppression())


def precisions(package, *op_types):
    """Types of the results of the operations of these types, in order."""
    contents = read_package(package)
    (program,) = programs_of(contents.specification)
    types = {10: "float16", 11: "float32"}
    return [
        types[operation.outputs[0].type.tensorType.dataType]
        for operation in operations_of(program)
        if operation.type in op_types
    ]


def test_layers_compute_in_float16_and_decoding_in_float32(package):
    assert set(precisions(package, "conv", "relu")) == {"float16"}
    assert set(precisions(package, "softmax", "exp", "add")) == {"float32"}


def test_what_layers_put_out_is_arranged_in_float16_before_it_is_computed_with(package):
    assert set(precisions(package, "reshape", "transpose")) == {"float16"}


def test_boxes_are_as_exact_as_anchors_in_float32(package, detector, photograph):
    with torch.no_grad():
        _, boxes = detector(photograph / 255)
        found = program_of(package, "float16")(photograph)[RAW_OUTPUTS[1]]
    # A tenth of what the anchors alone would be off by in float16.
    rounding = (detector.anchors.half().float() - detector.anchors).abs().max()
    assert (found - boxes).abs().max() < rounding / 10


def test_confidences_near_one_do_not_tie(package, photograph):
    program = program_of(package, "float16")
    confidence = program(photograph)[RAW_OUTPUTS[0]]
    assert len(confidence.unique()) > len(confidence.half().unique())


def test_a_network_without_suppression_computes_in_float16_throughout(detector, photograph, tmp_path):
    path = export(detector, photograph, tmp_path / "net.mlpackage")
    assert set(precisions(path, "conv", "relu", "softmax", "exp", "add")) == {"float16"}


def test_quantized_outputs_of_a_layer_are_passed_on_in_float16():
    scale, zero = np.float32(0.1), np.int8(0)
    with Function({"x": mb.placeholder(shape=(1, 3, 8, 8))}, opset_version=ct.target.iOS17) as function:
        layer = mb.conv(x=function.inputs["x"], weight=np.ones((4, 3, 1, 1), np.float32), name="layer")
        stored = mb.quantize(input=layer, scale=scale, zero_point=zero, output_dtype="int8", name="stored")
        held = mb.dequantize(input=stored, scale=scale, zero_point=zero, name="held")
        boxes = mb.reshape(x=held, shape=[4, 64], name="boxes")
        function.set_outputs([mb.exp(x=boxes, name="decoded")])
    select = _BeforeDecoding()
    selected = {operation.name: select(operation) for operation in function.operations}
    names = ("layer", "stored", "held", "boxes", "decoded")
    assert [selected[name] for name in names] == [True, True, True, True, False]


def test_float32_stays_float32(detector, photograph, tmp_path):
    path = export(
        detector,
        photograph,
        tmp_path / "net.mlpackage",
        class_labels=["person"],
        nms=NonMaximumSuppression(),
        compute_precision="float32",
    )
    assert set(precisions(path, "conv", "softmax", "exp", "add", "reshape")) == {"float32"}
    assert torch.isfinite(runtime.load(path)(photograph)["coordinates"][0]).all()
