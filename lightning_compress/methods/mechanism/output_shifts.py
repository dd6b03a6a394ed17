"""What compression changes in the mean of a layer's outputs, put back: added to them, and in the end to its bias.

Nagel et al., arXiv 1906.04721, section 4.2, and Banner et al., arXiv 1810.05723.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_SHIFT = "output_shift"
"""Name of the module that holds a layer's shift."""


class OutputShift(nn.Module):
    """What is added to the outputs of a layer.

    Args:
        outputs: Their number.
        axis: Their axis in what the layer returns, counted from its end.

    Attributes:
        shift: Buffer, (outputs,).
    """

    shift: Tensor

    def __init__(self, outputs: int, axis: int) -> None:
        super().__init__()
        self._axis = axis
        self.register_buffer("shift", torch.zeros(outputs))

    def forward(self, output: Tensor) -> Tensor:
        """The outputs with their shift."""
        return output + self.shift.to(output.dtype).reshape(-1, *[1] * (-1 - self._axis))


def add_shift(layer: nn.Module, outputs: int, spatial: int, device: torch.device) -> OutputShift:
    """Add a shift, of zero, to a layer's outputs.

    Args:
        layer: A linear layer or a convolution.
        outputs: Number of its outputs.
        spatial: Number of axes behind them in what it returns.
        device: Where its weight is.
    """
    shift = OutputShift(outputs, -1 - spatial).to(device)
    layer.add_module(_SHIFT, shift)
    layer.register_forward_hook(_add)
    return shift


def shift_of(layer: nn.Module) -> OutputShift | None:
    """The shift of a layer, if it has one."""
    found = getattr(layer, _SHIFT, None)
    return found if isinstance(found, OutputShift) else None


@torch.no_grad()
def settle_shifts(finalized: nn.Module) -> None:
    """Make every shift a part of its layer's bias; layers without one get one."""
    for layer, shift in list(_shifted(finalized)):
        del layer._modules[_SHIFT]
        for key, hook in list(layer._forward_hooks.items()):
            if hook is _add:
                del layer._forward_hooks[key]
        bias: Any = layer._parameters.get("bias")
        if bias is not None:
            # Other layers may hold the same bias.
            layer.bias = nn.Parameter(bias + shift.shift, requires_grad=bias.requires_grad)
        elif bool(shift.shift.any()):
            layer.register_parameter("bias", nn.Parameter(shift.shift.clone()))


def _shifted(module: nn.Module) -> Iterator[tuple[nn.Module, OutputShift]]:
    for layer in module.modules():
        shift = shift_of(layer)
        if shift is not None:
            yield layer, shift


def _add(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
    shift = shift_of(layer)
    assert shift is not None
    return shift(output)  # type: ignore[no-any-return]
