"""Deployment targets: which one carries which compression.

The table follows the operation sets of coremltools 9 (`coremltools/converters/mil/mil/ops/defs`): a target
that is too low makes coremltools store weights dense without an error, so the lowest that works is chosen
here, and a request that cannot work is refused.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Collection, Iterable

import coremltools as ct

from lightning_compress.errors import ConfigurationError, TargetError, did_you_mean


class Capability(enum.Enum):
    """Something that the program of a package must be able to say, as errors name it."""

    SPARSE_WEIGHTS = "sparse weights"
    LUT = "a palette (LUT) of 1, 2, 4, 6 or 8 bits for a whole tensor"
    LUT_3_BIT = "a palette (LUT) of 3 bits"
    LUT_GROUPED = "palettes (LUTs) for groups of channels"
    LUT_PER_CHANNEL_SCALE = "a palette (LUT) with a scale for each channel"
    LUT_VECTOR = "a palette (LUT) of vectors"
    LUT_INT8 = "a palette (LUT) with int8 entries"
    INT8_WEIGHTS = "int8 weights"
    INT8_ACTIVATIONS = "int8 activations"
    INT4_WEIGHTS = "int4 weights"
    BLOCKWISE_WEIGHTS = "weights quantized in blocks"
    JOINT = "more than one compression of the same weight"
    RECURRENT_WEIGHTS = "compressed weights of recurrent layers"


_SPECIFICATION_OF = {
    Capability.SPARSE_WEIGHTS: 7,
    Capability.LUT: 7,
    Capability.INT8_WEIGHTS: 7,
    Capability.INT8_ACTIVATIONS: 8,
    Capability.LUT_3_BIT: 9,
    Capability.LUT_GROUPED: 9,
    Capability.LUT_PER_CHANNEL_SCALE: 9,
    Capability.LUT_VECTOR: 9,
    Capability.LUT_INT8: 9,
    Capability.INT4_WEIGHTS: 9,
    Capability.BLOCKWISE_WEIGHTS: 9,
    Capability.JOINT: 9,
    Capability.RECURRENT_WEIGHTS: 9,
}
"""The lowest specification version (7 is iOS16, 8 iOS17, 9 iOS18) of each capability."""

_LOWEST_SPECIFICATION = 6
"""ML Programs begin with iOS15."""

PALETTE_BITS = (1, 2, 3, 4, 6, 8)
"""Bits of an index that Core ML can store."""


def palettization_capabilities(
    n_bits: int,
    *,
    grouped: bool = False,
    per_channel_scale: bool = False,
    cluster_dim: int = 1,
    int8_lut: bool = False,
) -> frozenset[Capability]:
    """What a package needs to hold weights that are palettized in this way.

    Args:
        n_bits: Bits of an index.
        grouped: Whether groups of channels have palettes of their own.
        per_channel_scale: Whether each channel is scaled before it is palettized.
        cluster_dim: Number of weights that one palette entry stands for.
        int8_lut: Whether the palette's entries are stored as int8.

    Raises:
        ConfigurationError: If Core ML has no index of `n_bits`.
    """
    if n_bits not in PALETTE_BITS:
        raise ConfigurationError(
            f"n_bits={n_bits!r} is no width of a palette index; valid are {PALETTE_BITS}"
        )
    needed = {Capability.LUT_3_BIT if n_bits == 3 else Capability.LUT}
    if grouped:
        needed.add(Capability.LUT_GROUPED)
    if per_channel_scale:
        needed.add(Capability.LUT_PER_CHANNEL_SCALE)
    if cluster_dim > 1:
        needed.add(Capability.LUT_VECTOR)
    if int8_lut:
        needed.add(Capability.LUT_INT8)
    return frozenset(needed)


def target_names() -> list[str]:
    """Every target that can be asked for, in coremltools' spelling, lowest first."""
    members = ct.target.__members__.items()
    return [name for name, target in members if target.value >= _LOWEST_SPECIFICATION]


def specification_versions() -> list[int]:
    """The versions of Core ML's specification that an ML Program can have, lowest first."""
    return sorted({int(target.value) for target in ct.target if target.value >= _LOWEST_SPECIFICATION})


def target_name(specification_version: int) -> str:
    """The targets of a specification version as people know them.

    Example:
        >>> target_name(9)
        'iOS18 / macOS15'
    """
    names = [name for name, target in ct.target.__members__.items() if target.value == specification_version]
    known = [name for name in names if name.startswith(("iOS", "macOS"))]
    return " / ".join(known) or f"specification version {specification_version}"


def lowest_target(capabilities: Iterable[Capability]) -> ct.target:
    """The lowest target that carries all of `capabilities`; without any, iOS15."""
    version = max(
        (_SPECIFICATION_OF[capability] for capability in capabilities), default=_LOWEST_SPECIFICATION
    )
    return ct.target(version)


def resolve_target(requested: str | None, capabilities: Collection[Capability] = ()) -> ct.target:
    """The target to convert for.

    Args:
        requested: A name such as "iOS18" or "macos15" in any case, or None for the lowest that works.
        capabilities: What the package must carry.

    Returns:
        The requested target, or the lowest one that carries `capabilities`.

    Raises:
        TargetError: If the name is unknown, or the target cannot carry one of `capabilities`.

    Example:
        >>> resolve_target("macOS15") == ct.target.iOS18
        True
    """
    lowest = lowest_target(capabilities)
    if requested is None:
        return lowest
    target = _parse(requested)
    if target.value >= lowest.value:
        return target
    too_high = sorted(c.value for c in capabilities if _SPECIFICATION_OF[c] > target.value)
    raise TargetError(
        f"minimum_deployment_target={requested!r} cannot carry {', '.join(too_high)}; "
        f"the lowest target that can is {_same_platform(requested, lowest)}. Ask for that or a later one, "
        "or leave minimum_deployment_target out to get the lowest that works."
    )


def _parse(requested: str) -> ct.target:
    by_name = {name.lower(): target for name, target in ct.target.__members__.items()}
    target = by_name.get(str(requested).replace(" ", "").lower())
    if target is None:
        hint = did_you_mean(str(requested), target_names())
        raise TargetError(
            f"minimum_deployment_target={requested!r} is unknown{hint} Valid are {', '.join(target_names())}"
        )
    if target.value < _LOWEST_SPECIFICATION:
        lowest = _same_platform(requested, ct.target(_LOWEST_SPECIFICATION))
        raise TargetError(
            f"minimum_deployment_target={requested!r} cannot hold an ML Program; "
            f"the lowest target that can is {lowest}"
        )
    return target


def _same_platform(requested: str, target: ct.target) -> str:
    platform = re.sub(r"[\d.]+$", "", requested.replace(" ", "")).lower()
    for name, member in ct.target.__members__.items():
        if member.value == target.value and name.lower().startswith(platform):
            return str(name)
    return target_name(target.value)
