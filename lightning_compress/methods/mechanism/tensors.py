"""The tensors of a module that can be compressed: found once, each with every module that owns it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.layers import LayerKind, Layout, layer_kind


@dataclass(frozen=True)
class Owner:
    """A module that holds a tensor, and the name under which it does.

    Attributes:
        module_name: Dotted name of the module.
        module: The module.
        parameter: The tensor's name in it.
        part_of: The layer that the module is only a part of, such as the attention of an output projection.
    """

    module_name: str
    module: nn.Module
    parameter: str
    part_of: nn.Module | None = None

    @property
    def name(self) -> str:
        """Dotted name of the tensor."""
        return f"{self.module_name}.{self.parameter}".lstrip(".")


@dataclass(frozen=True)
class TensorReference:
    """A tensor of a module, whoever owns it.

    Attributes:
        owners: The modules that hold it, in the order of `named_modules`; several for a tied weight.
        aliases: Every dotted name of an owner: a module may stand under several.
        kind: The layer of the first owner that is one; None for parameters of other modules.
        shape: Its shape.
        dtype: Its type.
        enclosing: The modules around its owners; see `enclosing_modules`.
    """

    owners: tuple[Owner, ...]
    aliases: tuple[str, ...]
    kind: LayerKind | None
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device = field(compare=False)
    enclosing: tuple[tuple[str, nn.Module], ...] = field(compare=False)

    @property
    def name(self) -> str:
        """Dotted name under its first owner."""
        return self.owners[0].name

    @property
    def names(self) -> tuple[str, ...]:
        """Dotted names of the tensor under all of its owners."""
        return tuple(dict.fromkeys(owner.name for owner in self.owners))

    @property
    def layout(self) -> Layout:
        """What its axes mean."""
        return Layout() if self.kind is None else self.kind.layout

    @property
    def numel(self) -> int:
        """Number of elements."""
        return self.shape.numel()

    def value(self) -> torch.Tensor:
        """The tensor as its owners see it; with parametrizations, what they make of the original."""
        value = getattr(self.owners[0].module, self.owners[0].parameter)
        assert isinstance(value, torch.Tensor)
        return value


def find_tensors(root: nn.Module) -> list[TensorReference]:
    """The parameters of `root` with two or more dimensions, each once, in the order of `named_modules`.

    A weight with parametrizations (`torch.nn.utils.parametrizations`) is found as what these make of it.
    """
    modules = dict(root.named_modules(remove_duplicate=False))
    owners: dict[int, list[Owner]] = {}
    aliases: dict[int, list[str]] = {}
    for module_name, module in modules.items():
        if isinstance(module, torch.jit.ScriptModule) or "parametrizations" in module_name.split("."):
            continue
        attention = _attention_of(module_name, modules)
        for parameter, identity in _tensors_of(module):
            found = owners.setdefault(identity, [])
            if not any(owner.module is module and owner.parameter == parameter for owner in found):
                found.append(Owner(module_name, module, parameter, attention))
            names = aliases.setdefault(identity, [])
            names += [module_name] if attention is None else [module_name, module_name.rpartition(".")[0]]
    references = [
        _reference(tuple(found), tuple(aliases[identity]), modules) for identity, found in owners.items()
    ]
    return [reference for reference in references if len(reference.shape) > 1]


def enclosing_modules(
    names: Iterable[str], modules: Mapping[str, nn.Module]
) -> tuple[tuple[str, nn.Module], ...]:
    """The modules around those of some names, the nearest first and the whole, whose name is empty, last.

    Args:
        names: Dotted names.
        modules: Every module by its dotted names.
    """
    found: dict[str, nn.Module] = {}
    inner = [name for name in names if name]
    while inner:
        outer = [name.rpartition(".")[0] for name in inner]
        found.update({name: modules[name] for name in outer if name and name not in found})
        inner = [name for name in outer if name]
    return (*found.items(), ("", modules[""]))


def scripted_modules(root: nn.Module) -> list[str]:
    """Names of the outermost modules that `torch.jit` has scripted or traced, whose weights nobody can reach."""
    names: list[str] = []
    for name, module in root.named_modules():
        if isinstance(module, torch.jit.ScriptModule) and not any(
            name.startswith(f"{outer}.") or not outer for outer in names
        ):
            names.append(name)
    return names


def refuse_hooked_weights(root: nn.Module) -> None:
    """Refuse weights that a hook computes anew before each forward, and so nobody else can.

    Raises:
        ConfigurationError: Naming the layer, what was applied to it, and what to apply instead.
    """
    for name, module in root.named_modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm | SpectralNorm):
                function = "weight_norm" if isinstance(hook, WeightNorm) else "spectral_norm"
                raise ConfigurationError(
                    f"{name or type(root).__name__!r} has the old torch.nn.utils.{function}, a hook that overwrites "
                    f"its {hook.name} before each forward; use torch.nn.utils.parametrizations.{function}, which "
                    "computes the same and can be compressed"
                )
            if isinstance(hook, BasePruningMethod):
                raise ConfigurationError(
                    f"{name or type(root).__name__!r} is pruned by torch.nn.utils.prune, a hook that overwrites its "
                    f"{hook._tensor_name} before each forward; make that permanent with "
                    f"torch.nn.utils.prune.remove(module, {hook._tensor_name!r}), or prune with MagnitudePruning alone"
                )


def _tensors_of(module: nn.Module) -> Iterator[tuple[str, int]]:
    """Names of a module's own parameters, each with a number that says which are the same."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield name, id(parameter)
    if parametrize.is_parametrized(module):
        parametrizations = module.parametrizations
        assert isinstance(parametrizations, nn.ModuleDict)
        for name, chain in parametrizations.items():
            assert isinstance(chain, parametrize.ParametrizationList)
            if chain.is_tensor:
                yield name, id(chain.original)
            else:
                yield name, id(chain)


def _attention_of(name: str, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    """The attention that a module is the output projection of: its weight is read, its forward never called."""
    outer, _, own = name.rpartition(".")
    parent = modules[outer] if own == "out_proj" else None
    return parent if isinstance(parent, nn.MultiheadAttention) else None


def _reference(
    owners: tuple[Owner, ...], aliases: tuple[str, ...], modules: Mapping[str, nn.Module]
) -> TensorReference:
    kind = next((kind for owner in owners if (kind := _kind_of_weight(owner)) is not None), None)
    value = _representative(owners[0])
    enclosing = enclosing_modules(aliases, modules)
    return TensorReference(owners, aliases, kind, value.shape, value.dtype, value.device, enclosing)


def _representative(owner: Owner) -> torch.Tensor:
    """A tensor of the shape and type of the owner's, computed only where several make it up."""
    parameter = owner.module._parameters.get(owner.parameter)
    if parameter is not None:
        return parameter
    with torch.no_grad():
        value = getattr(owner.module, owner.parameter)
    assert isinstance(value, torch.Tensor)
    return value


def _kind_of_weight(owner: Owner) -> LayerKind | None:
    kind = layer_kind(owner.module)
    if owner.part_of is not None:
        return layer_kind(owner.part_of)
    return kind if kind is not None and owner.parameter in kind.weights(owner.module) else None
