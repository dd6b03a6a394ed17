"""Rules that say when a call treats the samples along axis 0 one by one.

A package is converted for one sample: its shapes begin with a 1 that the program may or may not treat as a batch.
Where every call on the way from the inputs does, the program is run on many samples at once.
"""

from __future__ import annotations

from lightning_compress.runtime.registry import BatchRule, Call


def elementwise(call: Call) -> bool:
    """Broadcast ops: every batched operand must have the rank of the result, or axis 0 would not be its axis 0."""
    rank = len(call.results[0])
    return all(
        len(operand.shape) == rank
        for operands in call.operands.values()
        for operand in operands
        if operand.batched
    )


def only(*parameters: str) -> BatchRule:
    """Ops that are samplewise in the parameters named, and must get all others unbatched."""

    def rule(call: Call) -> bool:
        return all(
            parameter in parameters or not operand.batched
            for parameter, operands in call.operands.items()
            for operand in operands
        )

    return rule


def all_batched(parameter: str, axis: str | None = None) -> BatchRule:
    """Ops on a list of operands (concat, stack): all batched, and joined along an axis other than 0."""

    def rule(call: Call) -> bool:
        operands = call.operands[parameter]
        rank = max(len(operands[0].shape), len(call.results[0]))
        return all(operand.batched for operand in operands) and (
            axis is None or call.attributes[axis] % rank != 0
        )

    return rule


def away_from_axis_0(parameter: str, attribute: str, default: int | None = None) -> BatchRule:
    """Ops that work along the axis or axes in an attribute, of which none may be axis 0.

    An attribute that is missing means `default`, or all axes when that is None.
    """

    def rule(call: Call) -> bool:
        if not only(parameter)(call):
            return False
        rank = len(call.operands[parameter][0].shape)
        axes = call.attributes.get(attribute, default)
        if axes is None:
            return False
        return all(axis % rank != 0 for axis in (axes if isinstance(axes, list) else [axes]))

    return rule


def inner_ranks(*parameters: str, minimum: int) -> BatchRule:
    """Ops on the last axes: batched operands need `minimum` axes at least, and the rank of the result."""

    def rule(call: Call) -> bool:
        rank = len(call.results[0])
        return only(*parameters)(call) and all(
            len(operand.shape) >= minimum and len(operand.shape) == rank
            for parameter in parameters
            for operand in call.operands.get(parameter, ())
            if operand.batched
        )

    return rule
