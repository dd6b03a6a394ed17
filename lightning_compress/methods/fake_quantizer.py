"""Rounding to integers while training: ranges are observed, or scales learned, and gradients pass the rounding.

Jacob et al., arXiv 1712.05877, with the numbers of torch's `FakeQuantize`; learned scales after LSQ and LSQ+ (Esser et
al., arXiv 1902.08153; Bhalgat et al., arXiv 2004.09576), with those of coremltools' `LearnableFakeQuantize`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lightning_compress.methods.mechanism.technique import Stepped
from lightning_compress.methods.observers import Groups, IntegerType, Observer, Range

_EPS = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Rounding:
    """How a tensor is rounded.

    Attributes:
        integers: The integers that stand for its values.
        observer: How ranges are observed.
        symmetric: Whether zero is in the middle of the range.
        unsigned_from_zero: Whether a symmetric range that never was negative begins at zero.
        learnable: Whether scales are learned once observing has ended.
        groups: Which elements share a scale.
    """

    integers: IntegerType
    observer: Observer
    symmetric: bool
    unsigned_from_zero: bool = False
    learnable: bool = False
    groups: Groups = field(default_factory=Groups)

    def parameters(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Scale (float32) and zero point (int32) for a range."""
        if not self.symmetric:
            return self.integers.affine(low, high)
        scale, zero_point = self.integers.symmetric(low, high)
        if not self.unsigned_from_zero:
            return scale, zero_point
        full_scale, full_zero_point = self.integers.affine(low, high)
        negative = low < 0
        return (
            torch.where(negative, scale, full_scale),
            torch.where(negative, zero_point, full_zero_point),
        )


class FakeQuantizer(Stepped):
    """Rounds one tensor.

    A range has a fixed shape from the start, (+infinity, -infinity) until something was observed.

    Args:
        rounding: How to round.
        shape: The shape of the scales.
        observing: Whether to observe from the start.
        quantizing: Whether to round from the start.
    """

    precise = frozenset({"low", "high"})

    low: Tensor
    high: Tensor

    def __init__(
        self, rounding: Rounding, shape: Sequence[int], *, observing: bool, quantizing: bool
    ) -> None:
        super().__init__()
        self.rounding = rounding
        self.register_buffer("low", torch.full(tuple(shape), torch.inf))
        self.register_buffer("high", torch.full(tuple(shape), -torch.inf))
        self.add_switch("observing", observing)
        self.add_switch("quantizing", quantizing)
        self.add_switch("known")
        self.scale: nn.Parameter | None = None
        self.zero_point: nn.Parameter | None = None
        if rounding.learnable:
            self.scale = nn.Parameter(torch.ones(tuple(shape)))
            self.zero_point = nn.Parameter(torch.zeros(tuple(shape)), requires_grad=not rounding.symmetric)
        self._observed: Range | None = None
        # What the learned parameters were when the first forward pass observed.
        self._before: tuple[Tensor, Tensor] | None = None

    def forward(self, tensor: Tensor, *, observe: bool, unknown: Callable[[], Range] | None = None) -> Tensor:
        """Round a tensor.

        Args:
            tensor: Any floating-point tensor; it is rounded in float32.
            observe: Whether its range counts.
            unknown: Computes the range to round by while none is known; without, the tensor then stays as it is.
        """
        quantizing = self.is_on("quantizing")
        observe = observe and tensor.numel() > 0
        candidate: Range | None = None
        if observe and (quantizing or self._observed is None):
            candidate = self._candidate(tensor.detach())
        elif not self.is_on("known") and unknown is not None and quantizing:
            candidate = unknown()
        if not quantizing or tensor.numel() == 0 or not (self.is_on("known") or candidate is not None):
            return self._unrounded(tensor)
        wide = tensor.float()
        learned = (
            self._learned(wide, candidate) if self.scale is not None and torch.is_grad_enabled() else None
        )
        if learned is not None and self.training:
            rounded = learned
        else:
            # The last bit of what is divided decides at the ends of the range, where values lie between two integers:
            # evaluation rounds as the finalized module will.
            rounded = self._rounded(wide, *self.parameters_for(candidate))
            if learned is not None:
                rounded = (learned - learned.detach()) + rounded.detach()
        return rounded if rounded.dtype == tensor.dtype else rounded.to(tensor.dtype)

    def parameters_for(self, candidate: Range | None = None) -> tuple[Tensor, Tensor]:
        """Scale and zero point (int32) of a range, or those that are known.

        Args:
            candidate: The range; None for the known one, or what was learned since observing ended.
        """
        learned = candidate is None and not self.is_on("observing")
        if learned and self.scale is not None and self.zero_point is not None:
            scale = self.scale.detach().clamp(min=_EPS)
            return scale, self.zero_point.detach().round().to(torch.int32)
        return self.rounding.parameters(*((self.low, self.high) if candidate is None else candidate))

    def commit(self) -> None:
        """Take up the range that the first forward pass of the step observed."""
        if self._observed is not None:
            self._take(self._observed, self._before)
            self._observed = self._before = None
        if self.scale is not None and self.zero_point is not None and self.is_on("quantizing"):
            # An optimizer may have moved them to where no integer is.
            self.scale.data.clamp_(min=_EPS)
            if not self.rounding.symmetric:
                integers = self.rounding.integers
                self.zero_point.data.round_().clamp_(integers.lowest, integers.highest)

    def shared(self) -> Iterator[Tensor]:
        """The scales that follow from what each process observed."""
        if self.scale is not None and self.zero_point is not None and self.is_on("observing"):
            yield self.scale
            yield self.zero_point

    def settle(self, unknown: Callable[[], Range] | None = None) -> None:
        """Round from now on by what is known, and observe no more.

        Args:
            unknown: Computes the range to know if nothing was observed.
        """
        if not self.is_on("known") and unknown is not None:
            self._take(unknown(), None)
        elif self.is_on("observing"):
            self._take((self.low, self.high), None)
        self.switch("observing", False)
        self.switch("quantizing", True)

    def _take(self, known: Range, before: tuple[Tensor, Tensor] | None) -> None:
        self.low.copy_(known[0])
        self.high.copy_(known[1])
        self.switch("known", True)
        if self.scale is None or self.zero_point is None:
            return
        scale, zero_point = self.rounding.parameters(self.low, self.high)
        with torch.no_grad():
            if before is None:
                self.scale.copy_(scale)
                self.zero_point.copy_(zero_point)
                return
            # coremltools sets them in the forward pass, and the optimizer's step comes on top.
            self.scale.copy_(scale + (self.scale - before[0]))
            moved = 0.0 if self.rounding.symmetric else self.zero_point - before[1]
            self.zero_point.copy_(zero_point + moved)

    def _candidate(self, tensor: Tensor) -> Range:
        candidate = self.rounding.observer.combine((self.low, self.high), self._range_of(tensor))
        if self._observed is None:
            self._observed = candidate
            if self.scale is not None and self.zero_point is not None:
                self._before = (self.scale.detach().clone(), self.zero_point.detach().clone())
        return candidate

    def _range_of(self, tensor: Tensor) -> Range:
        low, high = self.rounding.groups.range_of(tensor.float())
        return low.reshape(self.low.shape), high.reshape(self.high.shape)

    def _rounded(self, tensor: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        groups, integers = self.rounding.groups, self.rounding.integers
        scale, zero_point = scale.reshape(-1), zero_point.reshape(-1)
        if groups.axis is None:
            return torch.fake_quantize_per_tensor_affine(
                tensor, scale, zero_point, integers.lowest, integers.highest
            )
        if self.rounding.symmetric and integers.middle == 0:
            # torch looks at integer zero points on the host, and so waits for a GPU; zero is zero as a float too.
            zero_point = zero_point.float()
        if groups.block_size is None:
            return torch.fake_quantize_per_channel_affine(
                tensor, scale, zero_point, groups.axis, integers.lowest, integers.highest
            )
        rows = torch.fake_quantize_per_channel_affine(
            groups.rows(tensor), scale, zero_point, 0, integers.lowest, integers.highest
        )
        return groups.from_rows(rows, tensor)

    def _learned(self, tensor: Tensor, candidate: Range | None) -> Tensor:
        assert self.scale is not None
        assert self.zero_point is not None
        integers, groups = self.rounding.integers, self.rounding.groups
        # The values to round by, with the gradients of the parameters.
        value, point = self.parameters_for(candidate)
        scale = (self.scale - self.scale.detach()) + value
        zero_point = (self.zero_point - self.zero_point.detach()) + point
        step = (tensor.numel() / self.scale.numel() * integers.highest) ** -0.5
        scale = groups.broadcast(_scale_gradient(scale, step), tensor)
        if not self.rounding.symmetric:
            zero_point = _scale_gradient(zero_point, step)
        zero_point = groups.broadcast(zero_point, tensor)
        shifted = tensor / scale + zero_point
        passed = (shifted.round() - shifted).detach() + shifted
        return (passed.clamp(integers.lowest, integers.highest) - zero_point) * scale

    def _unrounded(self, tensor: Tensor) -> Tensor:
        if self.scale is None or self.zero_point is None or not torch.is_grad_enabled():
            return tensor
        # Data-parallel training waits for the gradient of every parameter.
        return tensor + self.unused().to(tensor.dtype)

    def unused(self) -> Tensor:
        """Zero, with the gradient of every learned parameter."""
        if self.scale is None or self.zero_point is None:
            return self.low.new_zeros(())
        return 0.0 * self.scale.sum() + 0.0 * self.zero_point.sum()


def _scale_gradient(value: Tensor, factor: float) -> Tensor:
    """The value as it is, its gradient multiplied."""
    scaled = value * factor
    return (value - scaled).detach() + scaled
