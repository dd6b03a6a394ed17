"""How many convolutions and linear layers take int8 inputs: our quantization beside coremltools'.

    python -m tests.benchmarks.int8_inputs [--size 64]

Core ML computes a layer with integers where its weight is integers and its input comes out of a `dequantize`.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torch import nn

from lightning_compress import CoreMLExport, LinearQuantization
from lightning_compress.markdown import markdown_table
from lightning_compress.methods import PreparedModule
from lightning_compress.package import Capability
from lightning_compress.package.opening import open_package
from lightning_compress.package.weights import iterate_operations

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet50": torchvision.models.resnet50,
    "MobileNetV2": torchvision.models.mobilenet_v2,
}


def counts(package: Path) -> dict[str, int]:
    """Layers, those with int8 inputs, and batch norms behind layers, in a package."""
    program = open_package(package).program()
    operations = list(iterate_operations(program))
    layers = [operation for operation in operations if operation.op_type in ("conv", "linear")]
    integers = [layer for layer in layers if layer.x.op is not None and layer.x.op.op_type == "dequantize"]
    return {
        "layers": len(layers),
        "int8 inputs": len(integers),
        "quantize": sum(operation.op_type == "quantize" for operation in operations),
        "batch_norm": sum(operation.op_type == "batch_norm" for operation in operations),
    }


def export(module: nn.Module, images: torch.Tensor, folder: Path) -> dict[str, int]:
    """Export a finalized module and count."""
    package = CoreMLExport(folder / "net.mlpackage", verify=False, card=False)
    return counts(package.run(module, (images,), {Capability.INT8_ACTIVATIONS}).path)


def ours(network: nn.Module, images: torch.Tensor, folder: Path) -> dict[str, int]:
    """Prepared by us, shown one image."""
    prepared = PreparedModule(network, [LinearQuantization()])
    return export(prepared.finalize([(images,)], rehearses=True), images, folder)


def coremltools(network: nn.Module, images: torch.Tensor, folder: Path) -> dict[str, int]:
    """Prepared by coremltools, shown a batch."""
    # Late: its own import prints what the package keeps off the terminal.
    from coremltools.optimize.torch.quantization import LinearQuantizer

    quantizer = LinearQuantizer(network)
    prepared = quantizer.prepare((images,))
    with torch.no_grad():
        prepared(images.expand(4, -1, -1, -1))
    return export(quantizer.finalize(inplace=True).eval(), images, folder)


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    size = parser.parse_args().size
    warnings.simplefilter("ignore")
    rows = []
    for name, build in NETWORKS.items():
        for who, quantize in (("ours", ours), ("coremltools", coremltools)):
            torch.manual_seed(0)
            with tempfile.TemporaryDirectory() as folder:
                found = quantize(build(), torch.rand(1, 3, size, size), Path(folder))
            rows.append([name, who, *(str(count) for count in found.values())])
    print(markdown_table(["network", "quantized by", *found], rows))


if __name__ == "__main__":
    main()
