"""Whether what a configuration names is in a model, and means anything there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lightning_compress.errors import ModuleNotFoundInModelError, nearest
from lightning_compress.methods.mechanism.configuration import (
    Configuration,
    Match,
    Section,
    name_source,
    type_source,
)
from lightning_compress.methods.mechanism.layers import KIND_NAMES, layer_kind, type_names
from lightning_compress.methods.mechanism.operations import is_operation
from lightning_compress.methods.mechanism.tensors import TensorReference, enclosing_modules

_SHOWN = 3
"""Names that a message gives."""


@dataclass(frozen=True)
class _Part:
    """A tensor, or a layer for its inputs, with the names and the types by which it can be meant."""

    name: str
    names: frozenset[str]
    types: frozenset[str]
    match: Match


def check_names(configuration: Configuration, root: nn.Module, references: Sequence[TensorReference]) -> None:
    """Refuse names and types that the model does not have, or that hold nothing which could be compressed.

    Raises:
        ModuleNotFoundInModelError: With the nearest names, or with what takes the place of what was given.
    """
    technique = configuration.schema.technique
    modules = dict(root.named_modules(remove_duplicate=False))
    parts = list(_parts(configuration, modules, references))
    tensors = {name for reference in references for name in reference.names}
    names = [name for name in (*modules, *sorted(tensors)) if name]
    for pattern, section in configuration.by_name.items():
        matched = [name for name in names if re.fullmatch(pattern, name)]
        if not matched:
            close = nearest(pattern, names)
            hint = f"the nearest are {close}" if close else f"the first are {names[:5]}"
            raise ModuleNotFoundInModelError(
                f"{name_source(pattern)} of {technique} matches no module and no tensor; names are regular "
                f"expressions matched against whole dotted names, and of {len(names)} {hint}"
            )
        reached = [part for part in parts if not part.names.isdisjoint(matched)]
        named = [modules[name] for name in matched if name in modules]
        if not reached and not any(_may_be_attention(configuration, module) for module in named):
            kinds = sorted({type(module).__name__ for module in named})
            raise ModuleNotFoundInModelError(
                f"{name_source(pattern)} of {technique} matches only {matched[:_SHOWN]} of type {kinds}, which "
                f"hold no weight of two or more dimensions; {technique} compresses {', '.join(KIND_NAMES)}, and "
                "parameters that are named themselves"
            )
        _require_used(configuration, pattern, section, reached)
    _check_types(configuration, modules, parts)


def without_effect(
    configuration: Configuration, root: nn.Module, references: Sequence[TensorReference]
) -> list[str]:
    """Types in a valid configuration that mean nothing in a model, each with why; a configuration may be for many."""
    modules = dict(root.named_modules(remove_duplicate=False))
    parts = list(_parts(configuration, modules, references))
    return [
        f"{type_source(name)} of {configuration.schema.technique}, because {reason}"
        for name, section in configuration.by_type.items()
        if (reason := _reason_for_nothing(configuration, name, section, modules.values(), parts)) is not None
    ]


def _reason_for_nothing(
    configuration: Configuration,
    name: str,
    section: Section,
    modules: Iterable[nn.Module],
    parts: Iterable[_Part],
) -> str | None:
    meant = [module for module in modules if name in type_names(module)]
    reached = [part for part in parts if name in part.types]
    if reached:
        used = any(part.match.source == type_source(name) for part in reached)
        return None if used else "module_name_configs names all of these layers"
    if not meant and name.removeprefix("torch.nn.") in KIND_NAMES:
        return "the module has no such layer"
    if any(_may_be_attention(configuration, module) for module in meant) and section.entries:
        return None
    return "it holds no weight"


def _parts(
    configuration: Configuration, modules: dict[str, nn.Module], references: Iterable[TensorReference]
) -> Iterator[_Part]:
    for reference in references:
        own = [module for owner in reference.owners for module in (owner.part_of, owner.module) if module]
        yield _part(
            reference.name,
            (*reference.aliases, *reference.names),
            own,
            reference.enclosing,
            configuration.match(reference),
        )
    aliases: dict[nn.Module, list[str]] = {}
    for name, module in modules.items():
        if "parametrizations" not in name.split(".") and not isinstance(module, torch.jit.ScriptModule):
            aliases.setdefault(module, []).append(name)
    for module, names in aliases.items():
        if layer_kind(module) is not None:
            enclosing = enclosing_modules(names, modules)
            match = configuration.match_layer(names, module, enclosing)
            yield _part(names[0], names, [module], enclosing, match)


def _part(
    name: str,
    names: Iterable[str],
    own: Iterable[nn.Module],
    enclosing: Iterable[tuple[str, nn.Module]],
    match: Match,
) -> _Part:
    around = dict(enclosing)
    types = {kind for module in (*own, *around.values()) for kind in type_names(module)}
    return _Part(name, frozenset((*names, *around)), frozenset(types), match)


def _require_used(
    configuration: Configuration, pattern: str, section: Section, reached: Sequence[_Part]
) -> None:
    """Refuse a name that decides nothing, because others that come before it decide otherwise."""
    source = name_source(pattern)
    if not reached or any(part.match.source == source for part in reached):
        return
    technique, names = configuration.schema.technique, [part.name for part in reached[:_SHOWN]]
    takers = list(dict.fromkeys(part.match.source for part in reached if part.match.source is not None))
    if not takers:
        raise ModuleNotFoundInModelError(
            f"{source} of {technique} stands for modules whose only weights are parameters of no known layer; name "
            f"them themselves: {names}"
        )
    if not section.entries and all(part.match.is_exclusion for part in reached):
        return
    raise ModuleNotFoundInModelError(
        f"{source} of {technique} changes nothing: it means {names}, which {' and '.join(takers[:_SHOWN])} mean too. "
        "Of several patterns for one name the first counts, and a layer's own goes before that of a module around it"
    )


def _check_types(configuration: Configuration, modules: dict[str, nn.Module], parts: Iterable[_Part]) -> None:
    technique = configuration.schema.technique
    present = {name for module in modules.values() for name in type_names(module)}
    compressible = {name for part in parts for name in part.types}
    for name in configuration.by_type:
        bare = name.removeprefix("torch.nn.")
        is_other = configuration.schema.other_types and is_operation(name)
        if name in compressible or bare in KIND_NAMES or is_other:
            continue
        if name not in present:
            raise ModuleNotFoundInModelError(
                f"module_type_configs of {technique} has the module type {name!r}, which the model does not have; "
                f"the nearest that it has are {nearest(bare, present)}, and {', '.join(KIND_NAMES)} are always known"
            )
        meant = [module for module in modules.values() if name in type_names(module)]
        if not any(_may_be_attention(configuration, module) for module in meant):
            raise ModuleNotFoundInModelError(
                f"module_type_configs of {technique} has the module type {name!r}, which holds no weight of two or "
                f"more dimensions; {technique} compresses {', '.join(KIND_NAMES)}"
            )


def _may_be_attention(configuration: Configuration, module: nn.Module) -> bool:
    """Whether a technique that knows more than layers may find products in a module of somebody's own."""
    return configuration.schema.other_types and not type(module).__module__.startswith("torch.nn.")
