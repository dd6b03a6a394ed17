"""What shares one palette or one scale: a tensor cut into blocks of one shape."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Granularity:
    """How a tensor is cut into blocks, each with a palette or a scale of its own.

    Attributes:
        shape: Shape of the tensor.
        groups: Number of blocks along each axis; it divides the extent.

    Example:
        >>> str(Granularity(shape=(64, 32, 3, 3), groups=(4, 1, 1, 1)))
        'groups of 16'
    """

    shape: tuple[int, ...]
    groups: tuple[int, ...]

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> Granularity:
        """One palette or scale for a whole tensor of `shape`."""
        return cls(shape, (1,) * len(shape))

    @property
    def block(self) -> tuple[int, ...]:
        """Shape of one block."""
        return tuple(extent // count for extent, count in zip(self.shape, self.groups, strict=True))

    @property
    def is_per_tensor(self) -> bool:
        """Whether the whole tensor is one block."""
        return math.prod(self.groups) == 1

    @property
    def is_per_channel(self) -> bool:
        """Whether each index of one axis is a block."""
        return len(self._split) == 1 and self.block[self._split[0]] == 1

    @property
    def separates_channels(self) -> bool:
        """Whether along an axis no two indices share a block."""
        return any(self.block[axis] == 1 for axis in self._split)

    @property
    def is_grouped(self) -> bool:
        """Whether a block is a run of several output channels, whole."""
        return self._split == [0] and not self.is_per_channel

    @property
    def is_blockwise(self) -> bool:
        """Whether a block is a part of a channel, or a run along another axis than that of the output channels."""
        return not (self.is_per_tensor or self.is_per_channel or self.is_grouped)

    @property
    def _split(self) -> list[int]:
        """The axes that are cut."""
        return [axis for axis, count in enumerate(self.groups) if count > 1]

    def __str__(self) -> str:
        """As people say it: "per tensor", "per channel", "groups of 4", "blocks of 32"."""
        if self.is_per_tensor:
            return "per tensor"
        if self.is_per_channel:
            return "per channel"
        sides = [str(self.block[axis]) for axis in self._split if self.block[axis] > 1]
        return f"{'groups' if self.is_grouped else 'blocks'} of {' x '.join(sides) or '1'}"
