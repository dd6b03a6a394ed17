"""The buffers by which a finalized module says how its tensors are to be stored.

`_COREML_/<parameter>/<key>` is coremltools' own convention, read here for tensors of any rank.
`_BY_VALUE_/<parameter>/<key>` says the same of tensors that coremltools' converter takes apart before it makes
constants of them, such as the weights of recurrent layers; it does not look at these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from lightning_compress.errors import CompressionError
from lightning_compress.metadata_names import (
    BY_VALUE,
    CONVERTED,
    METADATA_VERSION,
    PALETTIZED,
    PRUNED,
    QUANTIZED,
)


@dataclass(frozen=True)
class Metadata:
    """How one tensor is to be stored.

    Attributes:
        compression_type: Techniques in the order in which they were applied: 1 pruning, 2 palettization, 3
            quantization.
        lut: Palettes, with two axes more than the tensor: entries and elements of a vector.
        palettization_scale: What palette entries are multiplied by, one a block.
        vector_axis: Axis along which vectors lie.
        quantization_n_bits: Bits of an integer.
        quantization_scale: One a block of the tensor, or of its palettes.
        zero_point: The integer that stands for zero, one a block.
    """

    compression_type: tuple[int, ...]
    lut: npt.NDArray[Any] | None = None
    palettization_scale: npt.NDArray[Any] | None = None
    vector_axis: int | None = None
    quantization_n_bits: int | None = None
    quantization_scale: npt.NDArray[Any] | None = None
    zero_point: npt.NDArray[Any] | None = None


@dataclass(frozen=True)
class Selected:
    """A tensor of a module with its metadata.

    Attributes:
        name: Dotted name of the parameter.
        values: Its values, in float32.
        metadata: How it is to be stored.
        by_value: Whether its values are looked for in the program.
    """

    name: str
    values: npt.NDArray[np.float32]
    metadata: Metadata
    by_value: bool


def selected_tensors(module: nn.Module) -> dict[str, Selected]:
    """Every tensor of a finalized module that has metadata, by its dotted name.

    Raises:
        CompressionError: If a buffer names a tensor that is not there, or holds what cannot be understood.
    """
    found: dict[str, Selected] = {}
    for path, owner in module.named_modules():
        groups: dict[tuple[str, str], dict[str, Tensor]] = {}
        for name, buffer in owner.named_buffers(recurse=False):
            prefix, _, rest = name.partition("/")
            if prefix in (CONVERTED, BY_VALUE) and name != METADATA_VERSION:
                parameter, _, key = rest.rpartition("/")
                groups.setdefault((prefix, parameter), {})[key] = buffer
        for (prefix, parameter), buffers in groups.items():
            name = f"{path}.{parameter}" if path else parameter
            tensor = getattr(owner, parameter, None)
            if not isinstance(tensor, Tensor):
                raise CompressionError(
                    f"buffers say how {name!r} is to be stored, and there is no such tensor"
                )
            values = tensor.detach().cpu().float().numpy()
            found[name] = Selected(name, values, _metadata(buffers, name), prefix == BY_VALUE)
    return found


def metadata_of(information: Any, name: str) -> Metadata:
    """What coremltools' converter has read from the buffers of one tensor (its `CompressionInfo`)."""
    keys = [field.name for field in fields(Metadata)]
    given = {key: getattr(information, key) for key in keys}
    return _checked({key: _array(value) for key, value in given.items() if value is not None}, name)


def _metadata(buffers: Mapping[str, Tensor], name: str) -> Metadata:
    unknown = set(buffers) - {field.name for field in fields(Metadata)}
    if unknown:
        raise CompressionError(
            f"the buffers of {name!r} hold {', '.join(sorted(unknown))}; "
            f"valid are {', '.join(field.name for field in fields(Metadata))}"
        )
    return _checked({key: _array(value) for key, value in buffers.items()}, name)


def _array(value: Any) -> npt.NDArray[Any]:
    if not isinstance(value, Tensor):
        return np.asarray(value)
    value = value.detach().cpu()
    return np.asarray((value.float() if value.is_floating_point() else value).numpy())


def _checked(arrays: Mapping[str, npt.NDArray[Any]], name: str) -> Metadata:
    techniques = tuple(int(value) for value in arrays.get("compression_type", np.empty(0)).reshape(-1))
    if not techniques or set(techniques) - {PRUNED, PALETTIZED, QUANTIZED}:
        raise CompressionError(
            f"the compression_type of {name!r} is {list(techniques)}; it is a list of 1 (pruning), "
            "2 (palettization) and 3 (quantization)"
        )
    numbers: dict[str, Any] = {
        key: int(arrays[key].reshape(()).item())
        for key in ("vector_axis", "quantization_n_bits")
        if key in arrays
    }
    rest: dict[str, Any] = {
        key: value for key, value in arrays.items() if key not in numbers and key != "compression_type"
    }
    return Metadata(compression_type=techniques, **numbers, **rest)
