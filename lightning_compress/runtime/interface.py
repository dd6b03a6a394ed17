"""What goes into a program and what comes out: names, shapes and types, checked with errors that say what is valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_compress.counted import counted
from lightning_compress.errors import PackageError, did_you_mean

FLOATS = (torch.float16, torch.float32, torch.float64, torch.bfloat16)
_INTEGERS = (torch.int32, torch.int64, torch.int16, torch.int8, torch.uint8, torch.bool)


@dataclass(frozen=True)
class Size:
    """The sizes that one axis may take, both ends included; `upper` None means no limit."""

    lower: int
    upper: int | None

    def allows(self, size: int) -> bool:
        """Whether an axis may have this size."""
        return size >= self.lower and (self.upper is None or size <= self.upper)

    def __str__(self) -> str:
        if self.lower == self.upper:
            return str(self.lower)
        return f"{self.lower}..{'' if self.upper is None else self.upper}"


@dataclass(frozen=True)
class ProgramInput:
    """One input of a program.

    Attributes:
        name: the name in the package.
        dtype: torch.float32, torch.float16 or torch.int32, as the program types it.
        sizes: what each axis may be.
        shapes: the shapes allowed, where the package lists them one by one; else empty.
        color: "RGB", "BGR" or "GRAYSCALE" for an image, None for an array.
    """

    name: str
    dtype: torch.dtype
    sizes: tuple[Size, ...]
    shapes: tuple[tuple[int, ...], ...] = ()
    color: str | None = None

    @property
    def may_stack(self) -> bool:
        """Whether the program fixes axis 0 at one sample, so that more can be stacked along it."""
        return bool(self.sizes) and self.sizes[0] == Size(1, 1)

    def samples(self, value: Any, package: str) -> int:
        """Check a value against this input and return how many samples are stacked in it.

        Raises:
            PackageError: when it is no tensor, or of the wrong type or size.
        """
        if not isinstance(value, Tensor):
            raise PackageError(
                f"Input {self.name!r} of {package} got a {type(value).__name__}; it takes a torch.Tensor {self}."
            )
        accepted: tuple[torch.dtype, ...] = FLOATS if self.dtype in FLOATS else _INTEGERS
        if self.color is not None:
            accepted = (*FLOATS, torch.uint8)
        if value.dtype not in accepted:
            raise PackageError(
                f"Input {self.name!r} of {package} got values of type {value.dtype}; it takes {self}."
            )
        shape = tuple(value.shape)
        if self._allows(shape):
            return 1
        if self.may_stack and shape and shape[0] > 0 and self._allows((1, *shape[1:])):
            return shape[0]
        raise PackageError(f"Input {self.name!r} of {package} got the shape {list(shape)}; it takes {self}.")

    def _allows(self, shape: tuple[int, ...]) -> bool:
        if self.shapes:
            return shape in self.shapes
        return len(shape) == len(self.sizes) and all(map(Size.allows, self.sizes, shape))

    def __str__(self) -> str:
        sizes = [str(size) for size in self.sizes]
        shape = "[" + ", ".join(["N", *sizes[1:]] if self.may_stack else sizes) + "]"
        if self.shapes:
            shape = " or ".join(str(list(allowed)) for allowed in self.shapes)
        if self.color is None:
            return f"of shape {shape} and type {str(self.dtype).removeprefix('torch.')}"
        order = "grey values" if self.color == "GRAYSCALE" else "RGB values"
        return f"of shape {shape} with {order} from 0 to 255, float or uint8"


def bind(
    inputs: Sequence[ProgramInput], args: Sequence[Any], kwargs: Mapping[str, Any], package: str
) -> list[Any]:
    """Put positional and named arguments in the program's order.

    Raises:
        PackageError: for a name that the program does not have, one given twice, or one that is missing.
    """
    names = [item.name for item in inputs]
    if len(args) > len(names):
        raise PackageError(
            f"{package} got {counted(len(args), 'input')}; it takes {len(names)}: {', '.join(names)}."
        )
    values = dict(zip(names, args, strict=False))
    for name, value in kwargs.items():
        if name not in names:
            hint = did_you_mean(name, names)
            raise PackageError(f"{package} has no input {name!r}{hint} Its inputs: {', '.join(names)}.")
        if name in values:
            raise PackageError(f"Input {name!r} of {package} was given twice, by position and by name.")
        values[name] = value
    missing = [name for name in names if name not in values]
    if missing:
        raise PackageError(f"{package} misses its input {', '.join(map(repr, missing))}.")
    return [values[name] for name in names]


def read_inputs(
    descriptions: Sequence[Any],
    types: Mapping[str, tuple[torch.dtype, tuple[int | None, ...]]],
    package: str,
) -> list[ProgramInput]:
    """The inputs of a program, from their descriptions in the specification and their types in the program.

    Raises:
        PackageError: when an image is described for what is none in the program.
    """
    return [_read_input(description, *types[description.name], package) for description in descriptions]


def _read_input(
    description: Any, dtype: torch.dtype, shape: tuple[int | None, ...], package: str
) -> ProgramInput:
    kind = description.type.WhichOneof("Type")
    sizes = [Size(size, size) if size is not None else Size(1, None) for size in shape]
    shapes: tuple[tuple[int, ...], ...] = ()
    color = None
    if kind == "imageType":
        image = description.type.imageType
        if len(shape) != 4 or image.colorSpace not in image.ColorSpace.values():
            raise PackageError(
                f"{package} describes its input {description.name!r} as an image of colour space {image.colorSpace}, "
                f"and the program takes the shape {list(shape)}; an image has four axes."
            )
        color = image.ColorSpace.Name(image.colorSpace).removesuffix("_FLOAT16")
        flexibility = image.WhichOneof("SizeFlexibility")
        if flexibility == "imageSizeRange":
            sizes[-2:] = [_size(image.imageSizeRange.heightRange), _size(image.imageSizeRange.widthRange)]
        elif flexibility == "enumeratedSizes":
            channels = 1 if color == "GRAYSCALE" else 3
            shapes = tuple((1, channels, item.height, item.width) for item in image.enumeratedSizes.sizes)
    elif kind == "multiArrayType":
        array = description.type.multiArrayType
        flexibility = array.WhichOneof("ShapeFlexibility")
        if flexibility == "shapeRange":
            sizes = [_size(item) for item in array.shapeRange.sizeRanges]
        elif flexibility == "enumeratedShapes":
            shapes = tuple(tuple(item.shape) for item in array.enumeratedShapes.shapes)
    return ProgramInput(description.name, dtype, tuple(sizes), shapes, color)


def _size(message: Any) -> Size:
    return Size(int(message.lowerBound), int(message.upperBound) if message.upperBound >= 0 else None)
