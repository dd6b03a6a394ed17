"""Wrappers for `CoreMLExport(wrapper=...)` that most classifiers need."""

from __future__ import annotations

from torch import Tensor, nn


class SoftmaxOutputs(nn.Module):
    """A classifier that returns probabilities instead of logits, along its last dimension."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Tensor:
        """Probabilities of the classes."""
        return nn.functional.softmax(self.module(*inputs), dim=-1)


def softmax_outputs(module: nn.Module) -> nn.Module:
    """Wrap a classifier that returns logits, so that its package gives probabilities.

    Args:
        module: The classifier.

    Example:
        In a Hydra configuration::

            wrapper:
              _target_: hydra.utils.get_method
              path: lightning_compress.coreml.softmax_outputs
    """
    return SoftmaxOutputs(module)
