"""What a user says of a teacher."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lightning_compress.arguments import (
    refusal,
    require_names,
    require_number,
    require_one_of,
    require_type,
    shown,
)
from lightning_compress.callback.distillation.terms import NAMES, SOFT_LABELS, SQUARED_ERROR, Term, named_term
from lightning_compress.errors import ConfigurationError, did_you_mean
from lightning_compress.methods.mechanism.schedule import check_point

Loss = str | Callable[[Any, Any], Tensor]
"""A name of a loss, or a function of the student's and the teacher's that returns a scalar."""

_LOSS = f"a name ({', '.join(NAMES)}) or a function of the student's and the teacher's that returns a scalar"


class Distillation:
    """Draws a compressed module to a teacher while it is trained, by default to itself as it was before.

    `weight * distance` is added to the loss that `training_step` returns; nothing of the LightningModule is changed for
    it. The teacher is a frozen copy in evaluation mode, which sees the inputs of every call that the module gets within
    a training step, and costs one forward without gradients. It is part neither of the LightningModule nor of its
    checkpoints, which hold its digest: to go on from one, give the Trainer's `fit` the module with the same float
    weights as at the beginning. The distance, before it is weighted, is logged as `compression/distillation`. Several
    calls in one step, several outputs, and several inner modules are averaged; the distance of inner modules is added
    to that of the outputs. Where the training step calls not the module but the one part that holds all its parameters,
    as a detector without the decoding of boxes, the outputs are that part's.

    Args:
        loss: Of the outputs: `soft_labels`, the divergence of class probabilities at a temperature (Hinton et al.,
            arXiv 1503.02531); `squared_error`, in variances of the teacher's output; `cosine`, one minus the cosine of
            the angle; or a function of both modules' outputs that returns a scalar. Outputs in tuples, lists and
            dictionaries are paired by their place, and those that are no floating-point tensors left alone. A mapping
            from places, such as `{"0": "soft_labels", "1": "squared_error"}` or `{"logits": ...}`, regular expressions
            of whole places as they are, gives each output a loss of its own, or a function of its tensor; outputs that
            it does not name are left alone. None for inner modules alone.
        weight: What the distance is multiplied by, from 0, which leaves the teacher out. Measured for soft labels by
            `python -m tests.benchmarks.distillation`: 1 and 3 give the same, 0.3 less.
        temperature: What logits are divided by for soft labels, above 0.
        warm_up: From where on the full weight counts, to which it grows linearly: an int counts optimizer steps, a
            float is a fraction of the fit.
        modules: Inner modules to draw to the teacher's too: a list of names, by squared error, or a mapping from names
            to losses. Names are regular expressions matched against whole dotted names within the compressed module.
        class_axis: The axis of classes for soft labels; by default the second one of tensors of four and more
            dimensions (N x C x H x W), and the last one of others.
        teacher: Another module that takes the same inputs, in place of the compressed module as it was; a copy is used.

    Raises:
        ConfigurationError: A value that cannot be used; here, or when the fit begins if it is about the module.

    Example:
        >>> Compression(DKMPalettization(n_bits=1), distillation=Distillation("soft_labels"))
    """

    def __init__(
        self,
        loss: Loss | Mapping[str, Loss] | None = SOFT_LABELS,
        *,
        weight: float = 1.0,
        temperature: float = 2.0,
        warm_up: int | float = 0,
        modules: Sequence[str] | Mapping[str, Loss] | None = None,
        class_axis: int | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        require_number("weight of Distillation", weight)
        if weight < 0:
            raise refusal("weight of Distillation", weight, "a number from 0")
        require_number("temperature of Distillation", temperature)
        if temperature <= 0:
            raise refusal("temperature of Distillation", temperature, "a number above 0")
        require_type("class_axis of Distillation", class_axis, int, "a whole number", optional=True)
        require_type("teacher of Distillation", teacher, nn.Module, "a torch.nn.Module", optional=True)
        self.weight = float(weight)
        self.temperature = float(temperature)
        self.warm_up = check_point(warm_up, "warm_up of Distillation")
        self.class_axis = class_axis
        self.teacher = teacher
        self.loss: Loss | dict[str, Loss] | None = _checked_loss(loss)
        self.modules: dict[str, Loss] = _checked_modules(modules)
        if self.loss is None and not self.modules:
            raise ConfigurationError(
                "Distillation(loss=None) has nothing to compare; name inner modules with modules=[...], or give a loss "
                f"of the outputs: {_LOSS}"
            )

    def term(self, loss: Loss) -> Term:
        """A loss as a function of two tensors."""
        return named_term(loss, self.temperature, self.class_axis) if isinstance(loss, str) else loss

    def describe(self) -> dict[str, Any]:
        """All but the teacher in plain types, for checkpoints."""
        loss = self.loss
        return {
            "loss": _described(loss) if isinstance(loss, Mapping) else _plain(loss),
            "weight": self.weight,
            "temperature": self.temperature,
            "warm_up": self.warm_up,
            "modules": _described(self.modules),
            "class_axis": self.class_axis,
        }


def as_distillation(value: Any) -> Distillation | None:
    """A distillation given as itself or by its arguments, as configurations give it; None for one of weight 0.

    Raises:
        ConfigurationError: It is neither, or has an argument that is unknown.
    """
    if isinstance(value, Mapping):
        for name in value:
            if name not in _ARGUMENTS:
                raise ConfigurationError(
                    f"distillation has no argument {shown(name)}{did_you_mean(str(name), _ARGUMENTS)} Valid are "
                    f"{', '.join(_ARGUMENTS)}."
                )
        value = Distillation(**value)
    valid = "Distillation(...), a mapping of its arguments such as {'weight': 1.0}, or None"
    require_type("distillation", value, Distillation, valid, optional=True)
    return None if value is None or value.weight == 0 else value


_ARGUMENTS = ("loss", "weight", "temperature", "warm_up", "modules", "class_axis", "teacher")


def _checked_loss(loss: Any) -> Loss | dict[str, Loss] | None:
    if isinstance(loss, Mapping):
        if not loss:
            raise refusal(
                "loss of Distillation", dict(loss), f"{_LOSS}, or a mapping from places of outputs to these"
            )
        return {
            _checked_place(place): _one(f"loss[{place!r}] of Distillation", given)
            for place, given in loss.items()
        }
    return None if loss is None else _one("loss of Distillation", loss)


def _checked_place(place: Any) -> str:
    """Configurations have places in tuples as numbers."""
    require_type("a place in loss of Distillation", place, (str, int), "a key or a number")
    _require_expression("loss", str(place))
    return str(place)


def _require_expression(argument: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigurationError(
            f"{argument} of Distillation: {pattern!r} is no regular expression: {error}"
        ) from error


def _checked_modules(modules: Any) -> dict[str, Loss]:
    if not isinstance(modules, Mapping):
        require_names("modules of Distillation", modules)
        modules = dict.fromkeys(modules or (), SQUARED_ERROR)
    for pattern in modules:
        require_type("a name in modules of Distillation", pattern, str, "a text")
        _require_expression("modules", pattern)
    return {
        pattern: _one(f"modules[{pattern!r}] of Distillation", given) for pattern, given in modules.items()
    }


def _one(source: str, loss: Any) -> Loss:
    if callable(loss):
        return loss  # type: ignore[no-any-return]
    if not isinstance(loss, str):
        raise refusal(source, loss, _LOSS)
    require_one_of(source, loss, NAMES)
    return loss


def _described(losses: Mapping[str, Loss]) -> dict[str, str | None]:
    return {name: _plain(loss) for name, loss in losses.items()}


def _plain(loss: Loss | None) -> str | None:
    if loss is None or isinstance(loss, str):
        return loss
    named = loss if hasattr(loss, "__qualname__") else type(loss)
    return f"{named.__module__}.{named.__qualname__}"
