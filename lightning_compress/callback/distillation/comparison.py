"""The distance between what a student and its teacher have computed from the same inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_compress.arguments import shown
from lightning_compress.callback.distillation.calls import Call
from lightning_compress.callback.distillation.options import Distillation, Loss
from lightning_compress.callback.distillation.outputs import Pairs, paired, places
from lightning_compress.errors import ConfigurationError

_OUTPUTS = "the output"


class Comparison:
    """Compares outputs and those of inner modules by their losses.

    Args:
        options: What was asked for.
        inner: Losses by name of the inner module.
    """

    def __init__(self, options: Distillation, inner: Mapping[str, Loss]) -> None:
        self._options = options
        self._inner = inner
        self._told: set[str] = set()

    def distance(self, call: Call) -> Tensor:
        """The distance of a call, as a scalar: of the outputs, and the average of inner modules.

        Raises:
            ConfigurationError: A module was not called, or outputs cannot be compared.
        """
        inner = [
            self._of_module(name, loss, call.student_inner[name], call.teacher_inner[name])
            for name, loss in self._inner.items()
        ]
        parts = [self._of_outputs(self._options.loss, call)] if self._options.loss is not None else []
        parts += [torch.stack(inner).mean()] if inner else []
        return torch.stack(parts).sum()

    def _of_outputs(self, loss: Loss | dict[str, Loss], call: Call) -> Tensor:
        if callable(loss):
            return _scalar(loss(call.student, call.teacher), loss)
        pairs, left = paired(call.student, call.teacher, _OUTPUTS)
        if isinstance(loss, str):
            self._tell_of_left(_OUTPUTS, left)
            return self._mean(dict.fromkeys(pairs, loss), pairs, _OUTPUTS)
        return self._mean(_losses_by_place(loss, [*pairs, *left]), pairs, _OUTPUTS)

    def _of_module(self, name: str, loss: Loss, student: list[Any], teacher: list[Any]) -> Tensor:
        if not student or len(student) != len(teacher):
            raise ConfigurationError(
                f"modules of Distillation: {name!r} was called {len(student)} times in a forward of the compressed "
                f"module and {len(teacher)} times in its teacher's; what is compared is what calls return, as often in "
                "both and at least once"
            )
        what = f"the output of {name!r}"
        found = []
        for own, other in zip(student, teacher, strict=True):
            pairs, left = paired(own, other, what)
            self._tell_of_left(what, left)
            if not any(values.requires_grad for values, _ in pairs.values()):
                self._tell(
                    f"the distillation of {what} trains nothing: it is not differentiated, because all before it is "
                    "frozen, or computed again in the backward pass by activation checkpointing with use_reentrant=True"
                )
            found.append(self._mean(dict.fromkeys(pairs, loss), pairs, what))
        return torch.stack(found).mean()

    def _mean(self, losses: Mapping[str, Loss], pairs: Pairs, what: str) -> Tensor:
        found = []
        for place, loss in losses.items():
            if place not in pairs:
                raise ConfigurationError(
                    f"loss of Distillation names {places([place])} of {what}, which is no floating-point tensor; valid "
                    f"are {places(pairs)}"
                )
            student, teacher = pairs[place]
            # An average over nothing is no number.
            found.append(
                _scalar(self._options.term(loss)(student, teacher), loss)
                if student.numel()
                else student.sum()
            )
        return torch.stack(found).mean()

    def _tell_of_left(self, what: str, left: list[str]) -> None:
        if left:
            self._tell(
                f"the distillation leaves {places(left)} of {what} alone, which is no floating-point tensor"
            )

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            rank_zero_warn(message)


def _losses_by_place(losses: Mapping[str, Loss], found: list[str]) -> dict[str, Loss]:
    """The losses of the places that a mapping names; of several patterns for one place the first counts."""
    chosen: dict[str, Loss] = {}
    for pattern, loss in losses.items():
        matched = [place for place in found if place == pattern or re.fullmatch(pattern, place)]
        if not matched:
            raise ConfigurationError(
                f"loss of Distillation names {pattern!r}, which is no place in what the compressed module returns; "
                f"valid are {places(found)}"
            )
        for place in matched:
            chosen.setdefault(place, loss)
    return chosen


def _scalar(value: Any, loss: Loss) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else shown(value)
        raise ConfigurationError(
            f"the loss {shown(loss)} of Distillation returned {got}; a scalar tensor is needed"
        )
    return value.reshape(())
