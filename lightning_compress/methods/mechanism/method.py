"""What a user asks for: a technique's configuration, and all that the mechanism must know of the technique.

A new technique is one file with a subclass of `Method` and one of `Technique`. Everything else, finding tensors and
their owners, chaining, stepping, finalizing, writing metadata, checking, is done for it.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from lightning_compress.errors import ConfigurationError, WeightError
from lightning_compress.methods.mechanism.configuration import (
    Configuration,
    Keys,
    Match,
    Schema,
    read_yaml,
)
from lightning_compress.methods.mechanism.layers import LayerKind
from lightning_compress.methods.mechanism.named_parts import check_names
from lightning_compress.methods.mechanism.technique import InputTechnique, Stepped, Technique
from lightning_compress.methods.mechanism.tensors import (
    TensorReference,
    find_tensors,
    refuse_hooked_weights,
)
from lightning_compress.package.targets import Capability

MethodType = TypeVar("MethodType", bound="Method")


class Companion(Stepped):
    """Something that a method does to the whole module, beside its tensors, such as freezing statistics."""

    def advance(self, step: int) -> None:
        """Follow the schedule; `step` is the number of optimizer steps taken."""

    def remove(self, module: nn.Module) -> None:
        """Take out of a copy that is finalized whatever this has put into it."""


class TensorState:
    """One technique in place, as its method sees it.

    Attributes:
        reference: The tensor.
        keys: The keys that hold for it.
        technique: The technique.
        tensor: Computes the tensor as it comes to the technique.
    """

    def __init__(
        self,
        reference: TensorReference,
        keys: Keys,
        technique: Technique,
        tensor: Callable[[], Tensor],
    ) -> None:
        self.reference = reference
        self.keys = keys
        self.technique = technique
        self.tensor = tensor


class Method(abc.ABC):
    """One compression technique as the user configured it; it never changes.

    Keyword arguments are the keys of the technique's coremltools configuration: those of one tensor hold for all
    layers, `module_type_configs` and `module_name_configs` override them by type and by name (a regular expression
    matched against the whole dotted name of a module or of a tensor); `None` there excludes it. A module stands for all
    layers in it, of which the nearest module that is named counts.

    Raises:
        ConfigurationError: An unknown key or an invalid value, with the valid ones.
    """

    schema: ClassVar[Schema]

    def __init__(self, **configuration: Any) -> None:
        self.configuration = Configuration.parse(self.schema, configuration)
        for keys, source in self.configuration.entries():
            self.check_values(keys, source)

    @classmethod
    def from_yaml(cls: type[MethodType], source: str | Path | IO[str], **own: Any) -> MethodType:
        """Build the method from coremltools' own YAML form.

        Args:
            source: Path of the file, or an open file.
            own: Further keyword arguments of this class.
        """
        return cls(**{**read_yaml(source), **own})

    @classmethod
    def from_description(cls: type[MethodType], description: Mapping[str, Any]) -> MethodType:
        """Build the method again from what `describe` returned, which a checkpoint holds."""
        return cls(**{key: value for key, value in description.items() if key != "technique"})

    def describe(self) -> dict[str, Any]:
        """The configuration as plain types."""
        return self.configuration.describe()

    def select(self, module: nn.Module) -> dict[str, Keys]:
        """The modules whose weights would be compressed, by name, each with its keys; nothing is changed.

        Raises:
            CompressionError: As before a fit: names that match nothing, values that no tensor can have.

        Example:
            >>> method = DKMPalettization(module_type_configs={"Conv2d": {"n_bits": 2}})
            >>> sorted(method.select(torchvision.models.resnet18()))[:2]
            ['conv1', 'layer1.0.conv1']
        """
        refuse_hooked_weights(module)
        references = find_tensors(module)
        check_names(self.configuration, module, references)
        decisions = [(reference, self.decide(reference)) for reference in references]
        self.check_plan([reference for reference, keys in decisions if not isinstance(keys, str)], [])
        return {
            owner.module_name: keys
            for reference, keys in decisions
            if not isinstance(keys, str)
            for owner in reference.owners
        }

    def decide(self, reference: TensorReference) -> Keys | str:
        """The keys for a tensor, or why it stays as it is.

        Raises:
            ConfigurationError: It cannot be compressed as asked.
            WeightError: It holds NaN or infinity.
        """
        match = self.configuration.match(reference)
        if match.keys is None:
            if match.is_exclusion:
                return f"excluded by {match.source}"
            if reference.kind is None:
                return "a parameter of no known layer; name it in module_name_configs to compress it"
            return "not named by the configuration"
        reason = self.reason_to_leave(reference, match)
        if reason is not None:
            return reason
        _require_finite(reference)
        self.check_tensor(reference, match.keys)
        return match.keys

    # What the technique is.

    @abc.abstractmethod
    def check_values(self, keys: Keys, source: str) -> None:
        """Refuse values that no tensor could use.

        Raises:
            ConfigurationError: With the value, `source` and what is valid.
        """

    @property
    def is_trained(self) -> bool:
        """Whether training is any different for it; otherwise data decide when it has ended."""
        return True

    @property
    def trains_in_half_precision(self) -> bool:
        """Whether the technique works on weights that are themselves in half precision ("bf16-true")."""
        return True

    @property
    def freezes_batch_norm(self) -> bool:
        """Whether the statistics of batch norm are fixed before the end of the fit."""
        return False

    # Tensors.

    def reason_to_leave(self, reference: TensorReference, match: Match) -> str | None:
        """Why a tensor stays as it is although the configuration names it, or None."""
        return None

    def check_tensor(self, reference: TensorReference, keys: Keys) -> None:  # noqa: B027
        """Refuse a tensor that cannot be compressed as asked.

        Raises:
            ConfigurationError: Naming the tensor, the key, and what is valid.
        """

    @abc.abstractmethod
    def technique(self, reference: TensorReference, keys: Keys) -> Technique | None:
        """The technique for a tensor, or None where the keys ask for none."""

    @abc.abstractmethod
    def capabilities(self, reference: TensorReference, keys: Keys) -> Collection[Capability]:
        """What a package must be able to hold for a tensor."""

    def connect(self, states: Sequence[TensorState]) -> None:  # noqa: B027
        """Called once every technique is in place.

        Args:
            states: Every tensor of the method.
        """

    # Inputs of layers.

    def input_technique(self, name: str, kind: LayerKind, keys: Keys) -> InputTechnique | None:
        """The technique for the inputs of a layer, or None."""
        return None

    def input_capabilities(self) -> Collection[Capability]:
        """What a package must be able to hold where a layer's inputs are compressed."""
        return ()

    # The whole module.

    def companion(self, module: nn.Module) -> Companion | None:
        """What the method does to the whole module."""
        return None

    def check_plan(self, tensors: Collection[TensorReference], inputs: Collection[str]) -> None:
        """Refuse a configuration that leaves nothing to do.

        Raises:
            ConfigurationError: Nothing is selected.
        """
        if not tensors and not inputs:
            raise ConfigurationError(
                f"{self.schema.technique} finds nothing to compress: its configuration leaves no weight of two or more "
                "dimensions in any layer"
            )

    def advance(self, step: int, states: Sequence[TensorState]) -> None:
        """Follow the schedule on every tensor; to be overridden where tensors depend on each other.

        Args:
            step: Number of optimizer steps taken, 1 after the first.
            states: Every tensor of the method.
        """
        for state in states:
            state.technique.advance(step, state.tensor)

    def metrics(self, states: Sequence[TensorState]) -> dict[str, float]:
        """Numbers worth logging."""
        return {}

    def unfinished(self, step: int, parts: Sequence[Stepped]) -> str | None:
        """Why the schedule has not ended after `step` optimizer steps, or None once it has."""
        return next((reason for part in parts if (reason := part.unfinished(step)) is not None), None)


def _require_finite(reference: TensorReference) -> None:
    """Refuse a weight that no technique can compress.

    Raises:
        WeightError: The weight holds NaN or infinity.
    """
    with torch.no_grad():
        finite = torch.isfinite(reference.value())
    if not bool(finite.all()):
        bad = int((~finite).sum())
        raise WeightError(
            f"{reference.name!r} holds {bad} of {reference.numel} values that are NaN or infinite; such a weight "
            "cannot be compressed. Check the checkpoint it came from, the learning rate and the loss"
        )
