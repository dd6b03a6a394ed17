"""What a technique is: a module that maps a tensor to its compressed form.

Forward passes are pure: within one optimizer step each starts from the same state, whatever runs in between. What a
forward pass of training finds out about the next state (a better palette, a wider range) it proposes, the first one
of a step counts, and `commit` makes it the state when the step is taken. So activation checkpointing, any number of
passes a step, and evaluation in between change nothing.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_compress.methods.mechanism.schedule import FitLength
from lightning_compress.methods.mechanism.stored import StoredTensor


class Stage(enum.IntEnum):
    """What a technique decides of a tensor. A tensor takes one technique of each stage, in this order."""

    ZEROS = 0
    """Which of its elements are zero."""
    VALUES = 1
    """Which values the others may have."""


class Stepped(nn.Module):
    """A part of a prepared module with a schedule and with state that moves once an optimizer step.

    All state that a checkpoint must hold stands in buffers and parameters, and what cannot (numbers of double
    precision) in `progress`. Tensors named in `precise` keep their type when the module is cast.
    """

    precise: ClassVar[frozenset[str]] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self._switches: dict[str, bool] = {}

    # Schedule.

    def resolve_schedule(self, length: FitLength) -> None:
        """Turn fractions of the fit into steps.

        Raises:
            ConfigurationError: The schedule cannot be kept within the fit.
        """

    @property
    def last_step(self) -> int:
        """The optimizer step after which the schedule changes nothing more."""
        return 0

    def unfinished(self, step: int) -> str | None:
        """Why the schedule has not ended after `step` optimizer steps, or None once it has."""
        return None

    # State.

    def commit(self) -> None:
        """Make the state that the first forward pass of this optimizer step proposed the state."""

    def shared(self) -> Iterator[Tensor]:
        """State that is no buffer, and must be made the same on every process after it was committed."""
        return iter(())

    def progress(self) -> dict[str, Any]:
        """What a checkpoint must hold beside buffers and parameters, in plain types."""
        return {}

    def restore(self, progress: Mapping[str, Any]) -> None:
        """Take up what `progress` returned; may be called more than once."""

    # Data, for parts that are driven by it.

    @property
    def is_blind(self) -> bool:
        """Whether it needs data and has seen none yet."""
        return False

    def watch(self, active: bool) -> None:
        """While active, learn from forward passes in evaluation too: batches are shown, and then committed."""

    # Switches: buffers that are known without waiting for a device.

    def add_switch(self, name: str, on: bool = False) -> None:
        """Add a switch, which checkpoints hold as a buffer of the same name."""
        # A float: an average of a model's buffers takes it along and never rounds it down to zero.
        self.register_buffer(f"{name}_switch", torch.full((1,), float(on)))
        self._switches[name] = on

    def is_on(self, name: str) -> bool:
        """Whether a switch is on."""
        return self._switches[name]

    def switch(self, name: str, on: bool) -> None:
        """Set a switch."""
        if self._switches[name] != on:
            self._switches[name] = on
            buffer = self._buffers[f"{name}_switch"]
            assert buffer is not None
            buffer.fill_(float(on))

    def copy_switches(self, other: nn.Module) -> None:
        """Set every switch as it is in another part of the same kind."""
        assert isinstance(other, Stepped)
        for name, on in other._switches.items():
            self.switch(name, on)

    def _load_from_state_dict(self, *arguments: Any, **keywords: Any) -> None:
        super()._load_from_state_dict(*arguments, **keywords)
        self.read_switches()

    def read_switches(self) -> None:
        """Take switches up from their buffers, after these were written to."""
        for name in self._switches:
            buffer = self._buffers[f"{name}_switch"]
            assert buffer is not None
            if buffer.device.type != "meta":
                self._switches[name] = bool(buffer > 0)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Stepped:
        names = {*self.precise, *(f"{name}_switch" for name in self._switches)}
        before = {name: self._buffers[name] for name in names if self._buffers.get(name) is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, tensor in before.items():
            after = self._buffers[name]
            if tensor is not None and after is not None and after.dtype != tensor.dtype:
                self._buffers[name] = tensor.to(after.device)
        return self


class Technique(Stepped, abc.ABC):
    """One technique on one tensor, as a parametrization of it (`torch.nn.utils.parametrize`).

    Args:
        tensor_name: Dotted name of the tensor, for errors.
    """

    stage: ClassVar[Stage]

    def __init__(self, tensor_name: str) -> None:
        super().__init__()
        self.tensor_name = tensor_name

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """What it does, in few words, for tables: "75% zeros", "palette of 4 bits"."""

    @abc.abstractmethod
    def forward(self, tensor: Tensor) -> Tensor:
        """The tensor compressed: differentiable in training, as it will be stored in evaluation."""

    def join(self, before: Sequence[Technique], after: Sequence[Technique]) -> None:
        """Look at what else is done to the tensor, before anything has run.

        Raises:
            ConfigurationError: Core ML cannot store the combination.
        """

    @property
    def unit(self) -> tuple[int, int] | None:
        """Axis and number of the elements that are stored as one, and so are zero together or not at all."""
        return None

    def begin(self, tensor: Callable[[], Tensor]) -> None:
        """Called when training starts or goes on.

        Args:
            tensor: Computes the tensor as it comes to this technique.
        """

    def advance(self, step: int, tensor: Callable[[], Tensor]) -> None:
        """Follow the schedule.

        Args:
            step: Number of optimizer steps taken, 1 after the first.
            tensor: Computes the tensor as it comes to this technique.
        """

    @abc.abstractmethod
    def complete(self, tensor: Tensor) -> None:
        """Called on a copy before it is finalized: begin what has not begun, so that it can be stored."""

    def anticipate(self, tensor: Tensor) -> None:
        """As `complete`, but as if the schedule had ended: a rehearsal wants the form that will be stored."""
        self.complete(tensor)

    @abc.abstractmethod
    def store(self, stored: StoredTensor) -> StoredTensor:
        """Add to how the tensor is stored, after `complete`."""

    def evaluated(self, tensor: Tensor) -> Tensor | None:
        """What an evaluation would make of `tensor`, or None where training makes the same."""
        return None

    def lost_values(self, tensor: Tensor) -> Tensor | None:
        """The greatest share of the values that it may give a part of the tensor which have become one, or None.

        Computed where the tensor is, so that nobody waits for it.
        """
        return None

    @property
    def remedy_for_lost_values(self) -> str:
        """What keeps values apart."""
        return ""

    def report(self, tensor: Tensor, compressed: Tensor) -> dict[str, Any]:
        """Numbers for whoever debugs, of the tensor and what evaluation makes of it."""
        return {}


class InputTechnique(Stepped, abc.ABC):
    """A technique on an input of a layer."""

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """What it does, in few words, for tables: "int8 inputs"."""

    @abc.abstractmethod
    def forward(self, value: Tensor) -> Tensor:
        """The input compressed."""

    def advance(self, step: int) -> None:
        """Follow the schedule; `step` is the number of optimizer steps taken."""

    def complete(self) -> None:
        """Called on a copy before it is finalized."""
