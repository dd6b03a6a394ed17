"""A task: what the package of a network looks like to an app, and what it has returned to a LightningModule."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from lightning_compress.arguments import require_type
from lightning_compress.coreml.export import CoreMLExport
from lightning_compress.errors import ConfigurationError


class Task:
    """Tensors in, tensors out: the package returns what the network does. The base of all tasks.

    A task answers five questions, and a new one is a subclass that answers some of them otherwise: how a package is
    presented (`interface`), how what it returns becomes again what the network returned (`run`, `restored`), how it is
    drawn (`picture`), how near it has to be to its network (`pixel`), and which differences matter alike
    (`comparable`).

    Args:
        labels: Names of the classes, in the order of the network's outputs; None takes those that the data module knows
            as `class_names`, if it does.

    Attributes:
        name: Of the task, as data modules call it.
    """

    name: ClassVar[str] = "tensors"

    def __init__(self, labels: Sequence[str] | None = None) -> None:
        require_type("labels of the task", labels, Sequence, "a list of names, or null", optional=True)
        if isinstance(labels, str):
            raise ConfigurationError(f"labels={labels!r} of the task is a text; valid is a list of names")
        self.labels = None if labels is None else [str(label) for label in labels]

    def names_of_classes(self, data: Any) -> list[str]:
        """The labels given, or those of the data module; none where neither knows them."""
        return self.labels if self.labels is not None else list(getattr(data, "class_names", None) or [])

    def interface(self, export: CoreMLExport, classes: Sequence[str]) -> CoreMLExport:
        """An export with what this task adds to it.

        Args:
            export: As the user asks for it.
            classes: Names of the classes, or none.
        """
        return export

    def run(self, package: nn.Module, inputs: Sequence[Tensor]) -> Mapping[str, Any]:
        """Run a loaded package.

        Args:
            package: What `runtime.load` returns.
            inputs: Its inputs in order; an image holds pixels of 0 to 255.

        Returns:
            Its outputs by name.
        """
        outputs: Mapping[str, Any] = package(*inputs)
        return outputs

    def restored(self, outputs: Mapping[str, Any], expected: Sequence[Tensor]) -> list[Tensor]:
        """What the network itself would have returned.

        Args:
            outputs: What `run` has returned.
            expected: What the network has returned for other inputs, to know shapes by.
        """
        return [value for value in outputs.values() if isinstance(value, Tensor)]

    def comparable(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """What the network returns in a measure in which equal distances matter equally, differentiable.

        Args:
            outputs: The tensors with floating point that the network has returned, in their order.
        """
        return list(outputs)

    def pixel(self, export: CoreMLExport, size: tuple[int, int] | None) -> float | None:
        """One pixel in the unit of the package's coordinates; None where it has none.

        Args:
            export: How it was exported.
            size: Height and width of the image input; None if there is no image.
        """
        return None

    def picture(
        self,
        images: Tensor,
        outputs: Mapping[str, Any],
        classes: Sequence[str],
        *,
        threshold: float,
        columns: int | None = None,
    ) -> Tensor | None:
        """A picture of what a package finds in images; None for tasks that have none.

        Args:
            images: N x channels x H x W, pixels of 0 to 255.
            outputs: What `run` has returned for them.
            classes: Names of the classes, or none.
            threshold: Least confidence that is drawn.
            columns: Images in a row; None for as many as suit the task.

        Returns:
            3 x height x width in [0, 1].
        """
        return None


def with_labels(export: CoreMLExport, classes: Sequence[str]) -> CoreMLExport:
    """An export with labels, unless it has its own."""
    if export.class_labels is not None or not classes:
        return export
    return dataclasses.replace(export, class_labels=list(classes))


def with_output_names(export: CoreMLExport, *names: str) -> CoreMLExport:
    """An export whose outputs have names, unless the user has named them."""
    return (
        export if export.output_names is not None else dataclasses.replace(export, output_names=list(names))
    )


def then(export: CoreMLExport, wrapper: Any) -> CoreMLExport:
    """An export with a wrapper around the network, and within the one that it has."""
    outer = export.wrapper
    if outer is None:
        return dataclasses.replace(export, wrapper=wrapper)
    return dataclasses.replace(export, wrapper=_Both(wrapper, outer))


@dataclasses.dataclass(frozen=True)
class _Both:
    inner: Any
    outer: Any

    def __call__(self, module: nn.Module) -> nn.Module:
        wrapped: nn.Module = self.outer(self.inner(module))
        return wrapped
