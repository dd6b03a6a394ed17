"""How much each weight matters to what the network returns.

For a random projection of the outputs, with signs drawn anew for each example, the mean of the squared gradient of a
weight is the mean of the squares of all derivatives of outputs by it: the diagonal of J'J, J being the Jacobian
(Hutchinson 1990; the Gauss-Newton matrix of a squared error). Each output counts relative to its own variance. Unlike
the squared gradient of a loss, it holds no residual of training, which for the first layers of a network that is not at
a minimum outweighs all else, and it needs no labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lightning_compress.coreml.structure import take_apart
from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.agreement import Call

_LEAST = 1e-12
"""Least variance of an output that is taken for one that says something."""


class OutputProjection:
    """A random projection of a network's outputs, and the distance of two networks' outputs in the same measure.

    Args:
        network: In evaluation mode and full precision.
        calls: What it is called with, best single examples: the derivatives of all in one call share a projection.
        comparable: Takes outputs into a measure in which equal distances matter equally.

    Attributes:
        calls: What the network is called with.

    Raises:
        ConfigurationError: None of its outputs varies from call to call.
    """

    def __init__(
        self,
        network: nn.Module,
        calls: Sequence[Call],
        comparable: Callable[[Sequence[Tensor]], list[Tensor]] = list,
    ) -> None:
        self._network = network
        self._comparable = comparable
        self.calls = usable(calls)
        self._generator = torch.Generator()
        self.begin(0)
        with torch.no_grad():
            self._returned = [self._outputs(network, call) for call in self.calls]
        self._variances = [
            torch.cat([tensor.flatten() for tensor in tensors]).double().var()
            for tensors in zip(*self._returned, strict=True)
        ]
        self._counted = [bool(torch.isfinite(found)) and float(found) > _LEAST for found in self._variances]
        if not any(self._counted):
            raise ConfigurationError(
                f"no output of {type(network).__name__} varies on {len(calls)} inputs of the validation data; there is "
                "nothing that could tell how much each weight matters"
            )

    def begin(self, seed: int) -> None:
        """Draw signs from here on as anybody who begins with the same seed does."""
        self._generator.manual_seed(seed)

    def __call__(self, call: Call) -> Tensor:
        """The projection of what the network returns; its squared gradient has the mean square over the variance."""
        total = torch.zeros(())
        for tensor, variance, counts in zip(
            self._outputs(self._network, call), self._variances, self._counted, strict=True
        ):
            if counts:
                signs = torch.randint(0, 2, tensor.shape, generator=self._generator) * 2 - 1
                total = total + (signs * tensor).sum() / (tensor.numel() * float(variance)) ** 0.5
        return total

    @torch.no_grad()
    def distance(self, network: nn.Module) -> float:
        """How far the outputs of another network are: the mean square over the variance, summed over the outputs."""
        total = 0.0
        for call, returned in zip(self.calls, self._returned, strict=True):
            for tensor, expected, variance, counts in zip(
                self._outputs(network, call), returned, self._variances, self._counted, strict=True
            ):
                if counts:
                    total += float((tensor - expected).double().square().mean() / variance) / len(self.calls)
        return total

    def _outputs(self, network: nn.Module, call: Call) -> list[Tensor]:
        returned: Any = network(*call.arguments, **call.keywords)
        tensors = take_apart(returned, type(network).__name__)
        return self._comparable([tensor for tensor in tensors if tensor.is_floating_point()])


def usable(calls: Sequence[Call]) -> list[Call]:
    """Calls that gradients may pass, which those of a validation may not: it runs in inference mode."""
    return [Call(_cloned(call.arguments), _cloned(call.keywords)) for call in calls]


def _cloned(inputs: Any) -> Any:
    return tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, inputs)
