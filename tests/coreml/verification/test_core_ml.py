"""Core ML itself, on macOS, beside our runtime and the torch module: a package of every form that training makes."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits

from lightning_compress import (
    Compression,
    CoreMLExport,
    DKMPalettization,
    LinearQuantization,
    MagnitudePruning,
)
from lightning_compress.coreml import ImageInput, NonMaximumSuppression, softmax_outputs
from lightning_compress.coreml.verification.running import (
    coreml_is_available,
    program_of,
    run_in_coreml,
    run_in_torch,
)

on_macos = pytest.mark.skipif(
    not coreml_is_available(),
    reason="Core ML runs on macOS alone; .github/workflows/macos.yml runs this there",
)

_MILESTONES = [0, 2, 4, 4]

FORMS = {
    "float16": list,
    "a palette of 2 bits": lambda: [DKMPalettization(n_bits=2)],
    "palettes of groups, with scales": lambda: [
        DKMPalettization(
            n_bits=3,
            granularity="per_grouped_channel",
            group_size=8,
            enable_per_channel_scale=True,
            module_name_configs={"head": None},
        )
    ],
    "palettes of vectors": lambda: [DKMPalettization(n_bits=4, cluster_dim=2)],
    "palettes of vectors of int8": lambda: [DKMPalettization(n_bits=4, cluster_dim=2, lut_dtype="int8")],
    "zeros": lambda: [MagnitudePruning(target_sparsity=0.75)],
    "int8 weights": lambda: [LinearQuantization(activation_dtype="float32", milestones=_MILESTONES)],
    "int4 weights in blocks": lambda: [
        LinearQuantization(
            weight_dtype="qint4",
            activation_dtype="float32",
            milestones=_MILESTONES,
            block_size=16,
            module_name_configs={"features.0": None},
        )
    ],
    "int8 weights and activations": lambda: [LinearQuantization(milestones=_MILESTONES)],
    "zeros and a palette": lambda: [MagnitudePruning(target_sparsity=0.5), DKMPalettization(n_bits=4)],
    "a palette and int8 activations": lambda: [
        DKMPalettization(n_bits=4),
        LinearQuantization(weight_dtype="float32", milestones=_MILESTONES),
    ],
}

QUICK = ("zeros and a palette",)


@pytest.fixture(
    params=[form if form in QUICK else pytest.param(form, marks=pytest.mark.slow) for form in FORMS]
)
def trained(request, digit_module, digit_data, make_trainer, tmp_path):
    """A fit of 8 steps, exported as a classifier of images."""
    export = CoreMLExport(
        tmp_path / "net.mlpackage",
        image=ImageInput(scale=1 / 255, color_layout="GRAYSCALE"),
        class_labels=[str(label) for label in range(10)],
        wrapper=softmax_outputs,
        card=False,
    )
    compression = Compression(*FORMS[request.param](), module="model", export=export)
    make_trainer(compression, max_epochs=1, limit_val_batches=0).fit(digit_module, digit_data)
    return compression


@pytest.fixture
def pixels():
    """Four digits as images of 0 to 255."""
    images = torch.tensor(load_digits().images[1400:1404], dtype=torch.float32)[:, None]
    return [(image[None] * 15,) for image in images]


def test_our_runtime_computes_what_the_module_does(trained, pixels):
    found = run_in_torch(program_of(trained.exported.path), pixels)
    with torch.no_grad():
        for (image,), outputs in zip(pixels, found, strict=True):
            expected = softmax_outputs(trained.finalized)(image / 255).flatten()
            torch.testing.assert_close(outputs["classLabel_probs"].flatten(), expected, atol=2e-2, rtol=0)


@on_macos
def test_core_ml_computes_what_our_runtime_does(trained, pixels):
    path = trained.exported.path
    ours, theirs = run_in_torch(program_of(path), pixels), run_in_coreml(path, pixels)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(
            one["classLabel_probs"].flatten(), other["classLabel_probs"], atol=2e-2, rtol=0
        )


class Boxes(torch.nn.Module):
    """One box and two scores for each of 16 cells."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = torch.nn.Conv2d(3, 6, 16, stride=16)

    def forward(self, image):
        cells = self.cells(image).flatten(2).transpose(1, 2)[0]
        return (cells[:, :2] * 5).softmax(-1), cells[:, 2:].sigmoid()


@on_macos
def test_core_ml_suppresses_the_boxes_that_our_runtime_does(tmp_path):
    from lightning_compress import runtime

    export = CoreMLExport(
        tmp_path / "detector.mlpackage",
        image=ImageInput(scale=1 / 255),
        class_labels=["cat", "dog"],
        nms=NonMaximumSuppression(iou_threshold=0.4, confidence_threshold=0.2),
        card=False,
    )
    path = export.run(Boxes().eval(), torch.rand(1, 3, 64, 64)).path
    image = torch.randint(0, 256, (1, 3, 64, 64)).float()
    ours = runtime.load(path, precision="float16")(image=image)
    (theirs,) = run_in_coreml(path, [(image,)])
    assert len(ours["coordinates"]) > 0
    for name in ("confidence", "coordinates"):
        torch.testing.assert_close(ours[name], theirs[name].to(ours[name]), atol=2e-2, rtol=0)
