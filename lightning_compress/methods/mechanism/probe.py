"""How far compressed weights are from the weights in training and from those of evaluation, in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lightning_compress.methods.mechanism.technique import Stage, Technique


class WeightErrorProbe:
    """Records, at the next forward passes, what each technique that decides values is given and returns.

    Hooks stand only between construction and `error`, so a step that is not measured costs nothing.

    Args:
        techniques: The techniques of a prepared module.
    """

    def __init__(self, techniques: Iterable[Technique]) -> None:
        self._squares: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._gaps: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._lost: dict[Technique, torch.Tensor] = {}
        self._handles: list[RemovableHandle] = [
            technique.register_forward_hook(self._recorder(technique))
            for technique in techniques
            if technique.stage == Stage.VALUES
        ]

    def _recorder(self, technique: Technique) -> Callable[[nn.Module, Any, Any], None]:
        def record(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            with torch.no_grad():
                weight, compressed = inputs[0].detach().float(), output.detach().float()
                self._squares[technique.tensor_name] = _squares(compressed, weight)
                evaluated = technique.evaluated(inputs[0].detach())
                if evaluated is not None:
                    self._gaps[technique.tensor_name] = _squares(compressed, evaluated.float())
                lost = technique.lost_values(weight)
                if lost is not None:
                    self._lost[technique] = lost

        return record

    def error(self) -> float | None:
        """Remove the hooks and return the root of the summed squared errors over the summed squared weights.

        Returns:
            The relative error, 0 where nothing is compressed yet, or `None` where no weight was seen.
        """
        for handle in self._handles:
            handle.remove()
        return _relative(self._squares.values())

    def gap(self) -> float | None:
        """The same of compressed weights in training against those that evaluation computes; ask after `error`.

        Returns:
            `None` where no technique computes in training what it does not in evaluation.
        """
        return _relative(self._gaps.values())

    def techniques_that_lost_values(self) -> list[Technique]:
        """Those of whose values half or more have become one; ask after `error`."""
        if not self._lost:
            return []
        shares = torch.stack(list(self._lost.values())).tolist()
        return [technique for technique, share in zip(self._lost, shares, strict=True) if share >= 0.5]


def _squares(values: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (values - truth).square().sum(), truth.square().sum()


def _relative(squares: Collection[tuple[torch.Tensor, torch.Tensor]]) -> float | None:
    if not squares:
        return None
    error = torch.stack([pair[0] for pair in squares]).sum()
    total = torch.stack([pair[1] for pair in squares]).sum()
    return float((error / total.clamp(min=torch.finfo(torch.float32).tiny)).sqrt())
