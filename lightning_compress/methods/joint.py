"""Several techniques in one module: the order that works, and names that survive it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lightning_compress.dkm.pruned import apply_masks
from lightning_compress.errors import ConfigurationError, WeightError
from lightning_compress.methods.base import Method, PreparedMethod
from lightning_compress.methods.palettization import DKMPalettization
from lightning_compress.methods.pruning import MagnitudePruning
from lightning_compress.methods.quantization import LinearQuantization
from lightning_compress.methods.schedule import FitLength
from lightning_compress.package.targets import Capability

_ORDER: tuple[type[Method], ...] = (LinearQuantization, DKMPalettization, MagnitudePruning)
"""coremltools inserts fake quantization first, whose swap of modules would lose pruning hooks. Finalize runs the same
way."""


def in_order(methods: Sequence[Method]) -> list[Method]:
    """Check that the methods can be joined, and sort them.

    Raises:
        ConfigurationError: Something that is no method, a technique twice, or a pair that does not exist.
    """
    for method in methods:
        if not isinstance(method, _ORDER):
            valid = [kind.__name__ for kind in _ORDER]
            raise ConfigurationError(f"{method!r} is no compression method; valid are instances of {valid}")
    kinds = [next(kind for kind in _ORDER if isinstance(method, kind)) for method in methods]
    for kind in _ORDER:
        if kinds.count(kind) > 1:
            raise ConfigurationError(
                f"{kind.__name__} is given {kinds.count(kind)} times; give it once, with module_type_configs and "
                f"module_name_configs for what differs"
            )
    if LinearQuantization in kinds and DKMPalettization in kinds:
        raise ConfigurationError(
            "LinearQuantization and DKMPalettization both replace a layer's weights and cannot be "
            "joined; valid pairs are "
            "MagnitudePruning with either of them"
        )
    return sorted(methods, key=lambda method: _ORDER.index(next(k for k in _ORDER if isinstance(method, k))))


def from_descriptions(descriptions: Sequence[Mapping[str, Any]]) -> list[Method]:
    """Build methods again from what their `describe` returned.

    Raises:
        ConfigurationError: A technique that this version does not have.
    """
    known = {kind.schema.technique: kind for kind in _ORDER}
    for description in descriptions:
        if description["technique"] not in known:
            raise ConfigurationError(
                f"unknown technique {description['technique']!r}; valid are {list(known)}"
            )
    return [known[description["technique"]].from_description(description) for description in descriptions]


class PreparedModule:
    """A module with every technique inside, from `prepare` to `finalize`.

    Args:
        module: The module to compress, changed in place; use `self.module` in its place.
        methods: The techniques, in any order; none prepares nothing.
        example_inputs: Inputs of the module's forward, for techniques that trace it.

    Attributes:
        module: The prepared module.
        capabilities: What a package must be able to hold.

    Raises:
        CompressionError: What the methods' `select` and `prepare` raise.
    """

    def __init__(
        self, module: nn.Module, methods: Sequence[Method], example_inputs: tuple[Any, ...] | None = None
    ) -> None:
        _refuse_prepared(module)
        self.module = module
        self.prepared: dict[str, PreparedMethod] = {}
        ordered = in_order(methods)
        # Selected on the original: preparing swaps types and may move modules.
        selections = [method.select(module) for method in ordered]
        self.capabilities = _capabilities(ordered, selections)
        originals = dict(module.named_modules())
        for method, selection in zip(ordered, selections, strict=True):
            moved = _follow(selection, originals, self.module) if self.prepared else selection
            prepared = method.prepare(self.module, moved, example_inputs)
            self.prepared[method.schema.technique] = prepared
            self.module = prepared.module

    def resolve_schedule(self, length: FitLength) -> None:
        """Turn fractions of the fit into steps, in every technique."""
        for prepared in self.prepared.values():
            prepared.resolve_schedule(length)

    def start_training(self) -> None:
        """Apply what follows from the progress restored, in every technique."""
        for prepared in self.prepared.values():
            prepared.start_training()

    def end_training(self) -> None:
        """Tell every technique that training has ended; call it on every process."""
        for prepared in self.prepared.values():
            prepared.end_training()

    def step(self) -> None:
        """Advance every technique by one optimizer step."""
        for prepared in self.prepared.values():
            prepared.step()

    def evaluate(self, active: bool) -> None:
        """Tell every technique that an evaluation begins (True) or has ended (False)."""
        for prepared in self.prepared.values():
            prepared.evaluate(active)

    def metrics(self) -> dict[str, float]:
        """The numbers of every technique."""
        return {
            key: value for prepared in self.prepared.values() for key, value in prepared.metrics().items()
        }

    def unfinished(self) -> list[str]:
        """What each technique still has to do."""
        return [
            reason for prepared in self.prepared.values() if (reason := prepared.unfinished()) is not None
        ]

    def state_dict(self) -> dict[str, Any]:
        """The progress of every technique."""
        return {name: prepared.state_dict() for name, prepared in self.prepared.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the progress of every technique."""
        for name, prepared in self.prepared.items():
            prepared.load_state_dict(state[name])

    def finalize(self) -> nn.Module:
        """A finalized copy on the CPU, in float32 and evaluation mode; the prepared module stays as it is.

        Raises:
            WeightError: A weight holds NaN or infinity.
        """
        for name, parameter in self.module.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise WeightError(
                    f"the parameter {name!r} holds NaN or infinity at the end of the fit; nothing can "
                    "be finalized. Check the "
                    f"learning rate and the loss"
                )
        finalized = copy.deepcopy(self.module).cpu().eval()
        # Palettes and scales are computed in float32, and converters trace in it.
        finalized._apply(_in_float32)  # type: ignore[no-untyped-call]
        apply_masks(finalized)
        for prepared in self.prepared.values():
            finalized = prepared.finalize(finalized)
        return finalized.eval()


def _in_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _refuse_prepared(module: nn.Module) -> None:
    for name, submodule in module.named_modules():
        if hasattr(submodule, "pruning_method") or hasattr(submodule, "weight_fake_quant"):
            raise ConfigurationError(
                f"{name!r} is already prepared for compression; use one Compression for a module, "
                "with several methods for a "
                f"joint compression, and a fresh module for a new one"
            )


def _capabilities(methods: Sequence[Method], selections: Sequence[Mapping[str, Any]]) -> set[Capability]:
    needed: set[Capability] = set()
    for method, selection in zip(methods, selections, strict=True):
        needed |= method.capabilities(selection)
    seen: set[str] = set()
    for selection in selections:
        if seen & set(selection):
            needed.add(Capability.JOINT)
        seen |= set(selection)
    return needed


def _follow(
    selection: Mapping[str, Mapping[str, Any]], originals: Mapping[str, nn.Module], module: nn.Module
) -> dict[str, Mapping[str, Any]]:
    """The names under which selected modules are found after another technique was prepared.

    Tracing fuses layers and moves them; the Parameter objects stay the same, so they tell which is which.
    """
    names: dict[int, list[str]] = {}
    for name, submodule in module.named_modules():
        for parameter in submodule.parameters(recurse=False):
            names.setdefault(id(parameter), []).append(name)
    moved: dict[str, Mapping[str, Any]] = {}
    for name, keys in selection.items():
        candidates = names.get(id(getattr(originals[name], keys.get("param_name", "weight"))), [])
        # Several modules that share a weight stay as many.
        free = [candidate for candidate in candidates if candidate not in moved]
        if not free:
            raise ConfigurationError(
                f"the weight of {name!r} is not found again after the other technique was prepared; exclude the module"
            )
        moved[name if name in free else free[0]] = keys
    return moved
