"""Torch operations that coremltools has no converter for, against torch itself."""

from __future__ import annotations

import subprocess
import sys

import coremltools as ct
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_compress.coreml.convert import convert
from lightning_compress.coreml.torch_ops import CONVERTERS
from lightning_compress.package.save import save_package
from lightning_compress.runtime import load

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


class Calls(nn.Module):
    """Calls a function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


FUNCTIONS = {
    "new_ones": (lambda x: x + x.new_ones((1, 3, 1, 1)), (2, 3, 4, 5)),
    "new_ones of a number": (lambda x: x + x.new_ones(()), (2, 3)),
    "new_ones of integers": (lambda x: x + x.new_ones((3,), dtype=torch.int64), (2, 3)),
    "new_ones of truth": (lambda x: torch.where(x.new_ones((2, 3), dtype=torch.bool), x, -x), (2, 3)),
    "diff": (lambda x: x.diff(), (3, 7)),
    "diff along the first axis": (lambda x: x.diff(dim=0), (3, 7)),
    "diff twice": (lambda x: x.diff(n=2, dim=1), (2, 5, 3)),
    "diff with more in front and behind": (
        lambda x: torch.diff(x, dim=-1, prepend=x[:, :1] * 2, append=x[:, :2]),
        (3, 4),
    ),
    "adaptive_avg_pool3d to one": (lambda x: functional.adaptive_avg_pool3d(x, 1), (1, 2, 3, 4, 5)),
    "adaptive_avg_pool3d": (lambda x: functional.adaptive_avg_pool3d(x, (2, 3, 4)), (1, 2, 5, 7, 4)),
    "adaptive_avg_pool3d without a batch": (lambda x: functional.adaptive_avg_pool3d(x, 2), (2, 5, 7, 4)),
    "adaptive_avg_pool3d to more": (lambda x: functional.adaptive_avg_pool3d(x, (5, 1, 6)), (1, 2, 3, 4, 4)),
    "bicubic to a size": (
        lambda x: functional.interpolate(x, size=(7, 3), mode="bicubic"),
        (1, 2, 5, 4),
    ),
    "bicubic with corners": (
        lambda x: functional.interpolate(x, size=(9, 11), mode="bicubic", align_corners=True),
        (2, 1, 4, 5),
    ),
    "bicubic by a factor": (
        lambda x: functional.interpolate(x, scale_factor=(1.7, 0.6), mode="bicubic"),
        (1, 2, 6, 5),
    ),
    "sqrt of a size": (lambda x: x / torch.sqrt(torch.tensor(5)), (2, 5)),
    "fake quantization to uint8": (
        lambda x: torch.fake_quantize_per_tensor_affine(x, 1 / 64, 130, 0, 255),
        (3, 5),
    ),
    "fake quantization to int8": (
        lambda x: torch.fake_quantize_per_tensor_affine(x, 1 / 64, 0, -128, 127),
        (3, 5),
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_package_computes_what_torch_computes(name, tmp_path):
    function, shape = FUNCTIONS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    model = convert(Calls(function).eval(), x, target=ct.target.iOS17, compute_precision="float32")
    (output,) = load(save_package(model, tmp_path / "net.mlpackage"))(x).values()
    torch.testing.assert_close(output, function(x).float(), atol=2e-5, rtol=1e-4)


@pytest.mark.slow
def test_coremltools_still_lacks_them():
    code = (
        "from coremltools.converters.mil.frontend.torch import ops\n"
        "from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY as known\n"
        f"print([name for name in {[converter.__name__ for converter in CONVERTERS]} if known.get_func(name)])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip().endswith("[]"), "coremltools has its own; ours can go"


@pytest.mark.slow
def test_coremltools_still_fails_on_roots_of_integers():
    code = (
        "import inspect\n"
        "from coremltools.converters.mil.frontend.torch import ops\n"
        "print('cast' in inspect.getsource(ops.sqrt))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip().endswith("False"), "coremltools casts itself; ours can go"
