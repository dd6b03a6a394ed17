"""What every compression technique has in common.

A `Method` is what the user asked for and never changes; `Method.prepare` puts the technique into a module and returns
a `PreparedMethod`, which steps, finalizes and holds the progress. Neither knows Lightning.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, ClassVar, TypeVar

import torch
from torch import nn

from lightning_compress.errors import ConfigurationError, WeightError
from lightning_compress.methods.configuration import Configuration, Schema, read_yaml
from lightning_compress.methods.schedule import FitLength
from lightning_compress.package.targets import Capability

MethodType = TypeVar("MethodType", bound="Method")


class PreparedMethod(abc.ABC):
    """A technique inside a module, from `prepare` to `finalize`.

    Attributes:
        module: The prepared module, which replaces the original.
    """

    module: nn.Module

    @abc.abstractmethod
    def resolve_schedule(self, length: FitLength) -> None:
        """Turn fractions of the fit into steps, once the length of the fit is known.

        Raises:
            ConfigurationError: The schedule is longer than the fit.
        """

    @abc.abstractmethod
    def step(self) -> None:
        """Advance by one optimizer step."""

    @abc.abstractmethod
    def finalize(self, module: nn.Module) -> nn.Module:
        """Commit the technique to `module`, a copy of the prepared one; may change it in place.

        Returns:
            The finalized module, with the buffers that carry the compression into coremltools' converter.
        """

    @abc.abstractmethod
    def metrics(self) -> dict[str, float]:
        """Numbers worth logging: the sparsity reached, the error of palette or quantization."""

    @abc.abstractmethod
    def unfinished(self) -> str | None:
        """Why the schedule has not ended yet, or `None` once it has."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Progress that the buffers of the module do not hold, in plain types."""

    @abc.abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore progress; may be called more than once, after the module's own state was loaded."""

    def start_training(self) -> None:  # noqa: B027 - most techniques keep everything in buffers
        """Called when training starts or goes on: apply what follows from the progress and stands in no buffer."""

    def end_training(self) -> None:  # noqa: B027 - most techniques wait for nobody
        """Called on every process when training ends, before one of them finalizes."""

    def evaluate(self, active: bool) -> None:  # noqa: B027 - most techniques observe nothing
        """Called with True before and False after validation, test or prediction; observers rest in between."""


class Method(abc.ABC):
    """One compression technique as the user configured it.

    Keyword arguments are the keys of the technique's coremltools configuration: those of one module hold for all
    modules, `module_type_configs` and `module_name_configs` override them by type and by name (a regular expression
    matched against the whole dotted name); `None` there excludes a module.

    Raises:
        ConfigurationError: An unknown key or an invalid value, with the valid ones.
    """

    schema: ClassVar[Schema]

    def __init__(self, **configuration: Any) -> None:
        self.configuration = Configuration.parse(self.schema, configuration)
        self.configuration.map_modules(self.check_values)

    @classmethod
    def from_yaml(cls: type[MethodType], source: str | Path | IO[str], **own: Any) -> MethodType:
        """Build the method from coremltools' own YAML form.

        Args:
            source: Path of the file, or an open file.
            own: Further keyword arguments of this class.
        """
        return cls(**read_yaml(source), **own)

    @classmethod
    def from_description(cls: type[MethodType], description: Mapping[str, Any]) -> MethodType:
        """Build the method again from what `describe` returned, which a checkpoint holds."""
        return cls(**{key: value for key, value in description.items() if key != "technique"})

    @property
    def needs_example_inputs(self) -> bool:
        """Whether `prepare` runs or traces the module."""
        return False

    @property
    def fake_quantizes(self) -> bool:
        """Whether the forward pass goes through torch's fake quantization."""
        return False

    @property
    def freezes_batch_norm(self) -> bool:
        """Whether the statistics of batch norm are fixed before the end of the fit."""
        return False

    def describe(self) -> dict[str, Any]:
        """The configuration as plain types."""
        return self.configuration.describe()

    @abc.abstractmethod
    def check_values(self, keys: Mapping[str, Any], source: str) -> None:
        """Refuse values that no module could use.

        Raises:
            ConfigurationError: With the value, `source` and what is valid.
        """

    @abc.abstractmethod
    def select(self, module: nn.Module) -> dict[str, dict[str, Any]]:
        """The modules to compress, by name, each with its keys; decided before anything is prepared.

        Raises:
            ModuleNotFoundInModelError: A name pattern matches nothing.
            ConfigurationError: Nothing is left to compress, or a module cannot be compressed as asked.
            WeightError: A weight holds NaN or infinity.
        """

    @abc.abstractmethod
    def capabilities(self, selection: Mapping[str, Mapping[str, Any]]) -> set[Capability]:
        """What a package must be able to hold for the selected modules."""

    @abc.abstractmethod
    def prepare(
        self,
        module: nn.Module,
        selection: Mapping[str, Mapping[str, Any]],
        example_inputs: tuple[Any, ...] | None,
    ) -> PreparedMethod:
        """Put the technique into `module`, in place; the parameters stay the same objects."""


def check_finite(name: str, weight: torch.Tensor) -> None:
    """Refuse a weight that no technique can compress.

    Raises:
        WeightError: The weight holds NaN or infinity.
    """
    finite = torch.isfinite(weight.detach())
    if not bool(finite.all()):
        bad = int((~finite).sum())
        raise WeightError(
            f"the weight of {name!r} holds {bad} of {weight.numel()} values that are NaN or infinite; "
            "such a weight cannot "
            f"be compressed. Check the checkpoint it came from, the learning rate and the loss"
        )


def refuse_empty(selection: Mapping[str, Any], technique: str, reason: str) -> None:
    """Refuse a configuration that leaves nothing to compress.

    Raises:
        ConfigurationError: The selection is empty.
    """
    if not selection:
        raise ConfigurationError(f"{technique} finds nothing to compress: {reason}")
