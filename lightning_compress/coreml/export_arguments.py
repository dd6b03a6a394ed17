"""What a user may say to `CoreMLExport`: wrong types and combinations are refused where they are given."""

from __future__ import annotations

import functools
import numbers
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from lightning_compress.arguments import (
    refusal,
    require_flag,
    require_names,
    require_one_of,
    require_path,
    require_texts_by_key,
    require_type,
    shown,
)
from lightning_compress.coreml.convert import PRECISIONS, require_identifiers
from lightning_compress.coreml.detector import CONFIDENCE, COORDINATES, NonMaximumSuppression
from lightning_compress.coreml.image import ImageInput
from lightning_compress.coreml.tolerance import Tolerance
from lightning_compress.errors import ConfigurationError
from lightning_compress.package.save import resolve
from lightning_compress.package.targets import resolve_target

if TYPE_CHECKING:
    from lightning_compress.coreml.export import CoreMLExport


def check_arguments(export: CoreMLExport) -> None:
    """Refuse what no export could use.

    Raises:
        ConfigurationError: With the argument, its value, and what is valid.
        TargetError: If the deployment target is unknown.
    """
    require_path("path", export.path, "net.mlpackage")
    resolve(export.path)
    require_type("minimum_deployment_target", export.minimum_deployment_target, str, _TARGETS, optional=True)
    resolve_target(export.minimum_deployment_target)
    require_one_of("compute_precision", export.compute_precision, PRECISIONS)
    _require_instance("image", export.image, ImageInput, "ImageInput(scale=1 / 255)")
    _require_instance("nms", export.nms, NonMaximumSuppression, "NonMaximumSuppression()")
    _require_instance("tolerance", export.tolerance, Tolerance, "Tolerance(relative=0.1)")
    for argument in ("input_names", "output_names"):
        names = getattr(export, argument)
        require_names(argument, names)
        if names is not None:
            require_identifiers(list(names), argument)
    _check_labels(export.class_labels)
    for argument in ("author", "license", "description", "version"):
        require_type(argument, getattr(export, argument), (str, numbers.Real), "a text", optional=True)
    for argument in ("input_descriptions", "output_descriptions"):
        require_texts_by_key(argument, getattr(export, argument))
    require_type(
        "user_metadata", export.user_metadata, Mapping, "a mapping from keys to texts", optional=True
    )
    _check_wrapper(export.wrapper)
    for argument in ("verify", "card"):
        require_flag(argument, getattr(export, argument))
    _check_outputs(export)


def wrapped(wrapper: Callable[[nn.Module], nn.Module], module: nn.Module) -> nn.Module:
    """What a wrapper makes of a module.

    Raises:
        ConfigurationError: If it fails, with its own error as the cause, or returns no module.
    """
    name = _name_of(wrapper)
    try:
        result = wrapper(module)
    except Exception as error:
        raise ConfigurationError(
            f"wrapper={name} of CoreMLExport failed on {type(module).__name__}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(result, nn.Module):
        raise ConfigurationError(
            f"wrapper={name} of CoreMLExport returned {shown(result)}; valid is a module, such as one that calls "
            f"{type(module).__name__} in its forward"
        )
    return result


_TARGETS = (
    "the name of a system such as 'iOS18' or 'macOS15', or None for the lowest that carries the compression"
)


def _require_instance(argument: str, value: Any, kind: type, example: str) -> None:
    require_type(argument, value, kind, f"{example} or another {kind.__name__}, or None", optional=True)


def _check_labels(labels: Any) -> None:
    valid = "a list of labels, or the path of a text file with one label a line"
    if isinstance(labels, str | os.PathLike):
        require_path("class_labels", labels, "labels.txt")
        return
    require_type("class_labels", labels, Sequence, valid, optional=True)
    for label in labels or ():
        require_type("a label in class_labels", label, (str, numbers.Integral), "a text")


def _check_wrapper(wrapper: Any) -> None:
    valid = "a function that is called with the finalized module and returns another, such as softmax_outputs"
    if wrapper is None:
        return
    if isinstance(wrapper, nn.Module):
        raise ConfigurationError(
            f"wrapper={type(wrapper).__name__}(...) is a module; valid is {valid}, or "
            f"lambda module: nn.Sequential(module, {type(wrapper).__name__}(...))"
        )
    if not callable(wrapper):
        raise refusal("wrapper", wrapper, valid)


def _check_outputs(export: CoreMLExport) -> None:
    if export.output_names is None:
        return
    if export.nms is not None:
        if tuple(export.output_names) != (CONFIDENCE, COORDINATES):
            raise ConfigurationError(
                f"output_names={list(export.output_names)!r} cannot be given with nms; a detector's outputs are "
                f"{CONFIDENCE!r} and {COORDINATES!r}"
            )
    elif export.class_labels is not None:
        raise ConfigurationError(
            "output_names cannot be given with class_labels; "
            "a classifier's outputs are 'classLabel' and 'classLabel_probs'"
        )


def _name_of(function: Any) -> str:
    if isinstance(function, functools.partial):
        return f"a partial {_name_of(function.func)}"
    name = getattr(function, "__qualname__", None) or repr(function)
    return str(re.sub(r" at 0x[0-9a-f]+", "", name))
