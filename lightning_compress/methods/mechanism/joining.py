"""Several techniques on one tensor: which go together, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from lightning_compress.arguments import shown
from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.method import Method
from lightning_compress.methods.mechanism.plan import Plan, PlannedTensor
from lightning_compress.methods.mechanism.technique import Stage, Technique
from lightning_compress.package.targets import Capability


def in_order(methods: Sequence[Method]) -> list[Method]:
    """The methods in an order that does not depend on the one given.

    Raises:
        ConfigurationError: Something that is no method, or a technique twice.
    """
    for method in methods:
        if not isinstance(method, Method):
            raise ConfigurationError(
                f"{shown(method)} is no compression method; {_remedy(method)}valid are instances of "
                f"{', '.join(sorted(kind.__name__ for kind in known_methods()))}"
            )
    names = [method.schema.technique for method in methods]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(
                f"{name} is given {names.count(name)} times; give it once, with module_type_configs and "
                "module_name_configs for what differs"
            )
    return sorted(methods, key=lambda method: method.schema.technique)


def _remedy(given: object) -> str:
    if isinstance(given, type) and issubclass(given, Method):
        return f"give an instance, {given.__name__}(...); "
    if isinstance(given, Iterable) and not isinstance(given, str | nn.Module):
        return "give methods one by one, Compression(*methods); "
    return ""


def known_methods() -> list[type[Method]]:
    """Every technique that there is: those of this package, and any that was imported besides."""
    found: dict[type[Method], None] = {}
    waiting = list(Method.__subclasses__())
    while waiting:
        kind = waiting.pop(0)
        waiting += kind.__subclasses__()
        if "schema" in vars(kind):
            found[kind] = None
    return list(found)


def from_descriptions(descriptions: Sequence[Mapping[str, object]]) -> list[Method]:
    """Build methods again from what their `describe` returned.

    Raises:
        ConfigurationError: A technique that this version does not have.
    """
    known = {kind.schema.technique: kind for kind in known_methods()}
    for description in descriptions:
        if description["technique"] not in known:
            raise ConfigurationError(
                f"unknown technique {description['technique']!r}; valid are {sorted(known)}"
            )
    return [
        known[str(description["technique"])].from_description(description) for description in descriptions
    ]


def chained(planned: PlannedTensor) -> dict[Method, Technique]:
    """The techniques for a tensor in the order in which they apply, each knowing of the others.

    Raises:
        ConfigurationError: Two techniques decide the same of the tensor, or Core ML cannot store what they make.
    """
    made = {
        method: technique
        for method, keys in planned.keys.items()
        if (technique := method.technique(planned.reference, keys)) is not None
    }
    ordered = dict(sorted(made.items(), key=lambda item: item[1].stage))
    methods, techniques = list(ordered), list(ordered.values())
    for first, second, one, other in zip(methods, methods[1:], techniques, techniques[1:], strict=False):
        if one.stage == other.stage:
            decided = (
                f"which elements of {planned.reference.name!r} are zero"
                if one.stage == Stage.ZEROS
                else f"which values {planned.reference.name!r} may have"
            )
            raise ConfigurationError(
                f"{first.schema.technique} and {second.schema.technique} both decide {decided}, and Core ML stores one "
                "such form of a weight; give each layers of its own with module_type_configs or module_name_configs"
            )
    for index, technique in enumerate(techniques):
        technique.join(techniques[:index], techniques[index + 1 :])
    return ordered


def needed_capabilities(plan: Plan) -> set[Capability]:
    """What a package must be able to hold for a plan."""
    needed: set[Capability] = set()
    for planned in plan.tensors:
        for method, keys in planned.keys.items():
            needed |= set(method.capabilities(planned.reference, keys))
        if len(planned.keys) > 1:
            needed.add(Capability.JOINT)
        kind = planned.reference.kind
        if planned.keys and kind is not None and kind.is_recurrent and kind.name != "GRU":
            # GRUs become other operations, which take compressed constants earlier.
            needed.add(Capability.RECURRENT_WEIGHTS)
    for layer in plan.layers:
        needed |= set(layer.method.input_capabilities())
    return needed
