"""The names of a module's parameters as a package of it will have them."""

from __future__ import annotations

from torch import nn

from lightning_compress.package.layer_metadata import converted_name


def layer_names(exported: nn.Module, module: nn.Module) -> dict[str, str]:
    """Dotted names in `module`, by the names that the converter derives from those in `exported`.

    Args:
        exported: What is converted: the module, or what a wrapper made of it or of a copy of it.
        module: The finalized module.
    """
    own = {id(parameter): name for name, parameter in module.named_parameters()}
    names = dict(module.named_parameters(remove_duplicate=False))
    found = {}
    for name, parameter in exported.named_parameters(remove_duplicate=False):
        known = own.get(id(parameter)) or _longest_end(name, names)
        if known is not None:
            found[converted_name(name)] = known
    return found


def _longest_end(name: str, names: dict[str, nn.Parameter]) -> str | None:
    """The longest name that a copy's name ends with."""
    parts = name.split(".")
    ends = (".".join(parts[place:]) for place in range(len(parts)))
    return next((end for end in ends if end in names), None)
