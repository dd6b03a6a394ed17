"""Compression after training as coremltools' own configuration files say it, operation by operation."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cattrs
import coremltools as ct
import yaml
from coremltools.converters.mil.mil.passes.graph_pass import PassOption
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

from lightning_compress.coreml.post_training.constants import dense_constants
from lightning_compress.coreml.programs import blocks_of
from lightning_compress.coreml.quiet import quiet_conversion
from lightning_compress.coreml.rewriting import LOWEST_SPECIFICATION, model_of_program, raised_to
from lightning_compress.errors import CompressionError, ConfigurationError, did_you_mean
from lightning_compress.package.opening import open_package
from lightning_compress.package.targets import Capability
from lightning_compress.package.versions import read_one_version

_PASSES = {
    "OpMagnitudePrunerConfig": "prune_weights",
    "OpThresholdPrunerConfig": "prune_weights",
    "OpPalettizerConfig": "palettize_weights",
    "OpLinearQuantizerConfig": "linear_quantize_weights",
}
"""coremltools' pass for each type of configuration."""


def read_configuration(path: str | Path) -> ct.optimize.coreml.OptimizationConfig:
    """Read coremltools' YAML form of an `OptimizationConfig`.

    Raises:
        ConfigurationError: The file cannot be read, or says something that coremltools does not know.
    """
    try:
        text = Path(path).expanduser().read_text()
        return ct.optimize.coreml.OptimizationConfig.from_dict(yaml.safe_load(text))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, cattrs.BaseValidationError) as error:
        raise ConfigurationError(
            f"{str(path)!r} cannot be read as a configuration: {_told(error)}"
        ) from error
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ConfigurationError(
            f"{str(path)!r} is no OptimizationConfig of coremltools: {error}. It has a config_type, one of "
            f"{', '.join(_PASSES)}, and global_config, op_type_configs or op_name_configs"
        ) from error


def configured_package(
    package: str | Path | ct.models.MLModel,
    configurations: Sequence[ct.optimize.coreml.OptimizationConfig],
    *,
    minimum_deployment_target: str | None = None,
) -> tuple[ct.models.MLModel, Mapping[str, str]]:
    """Compress a package by coremltools' own passes, one after the other; several are a joint compression.

    Args:
        package: Path of an `.mlpackage` folder, or a converted model.
        configurations: What each pass shall do.
        minimum_deployment_target: Raise the package's target.

    Returns:
        The model, and what coremltools said of the weights that it left as they were, by name.

    Raises:
        ConfigurationError: A configuration names an operation that is not there, or cannot be followed.
        TargetError: The package's target cannot carry it.
        PackageError: The package cannot be read.
    """
    if not configurations:
        raise ConfigurationError("configurations is empty; give at least one OptimizationConfig")
    return read_one_version(package, lambda: _passed(package, configurations, minimum_deployment_target))


def _passed(
    package: str | Path | ct.models.MLModel,
    configurations: Sequence[ct.optimize.coreml.OptimizationConfig],
    minimum_deployment_target: str | None,
) -> tuple[ct.models.MLModel, Mapping[str, str]]:
    opened = open_package(package)
    needed = [Capability.JOINT] if len(configurations) > 1 else []
    version = raised_to(opened, needed, minimum_deployment_target)
    with quiet_conversion(), _messages() as messages:
        program = opened.program(max(version, LOWEST_SPECIFICATION))
        names = {constant.name for constant in dense_constants(program)}
        for position, configuration in enumerate(configurations):
            _require_names(configuration, program)
            compression = PASS_REGISTRY[f"compression::{_pass_of(configuration)}"]
            compression.set_options(
                [PassOption("config", configuration), PassOption("joint_compression", position > 0)]
            )
            try:
                compression.apply(program)
            except CompressionError:
                raise
            except Exception as error:
                raise ConfigurationError(
                    f"coremltools cannot compress {str(opened.path)!r} in this way: {error}"
                ) from error
        left = names & {constant.name for constant in dense_constants(program)}
        reasons = {
            name: "; ".join(text for text in messages if name in text) or "coremltools left it as it was"
            for name in sorted(left)
        }
        return model_of_program(opened, program), reasons


def _pass_of(configuration: ct.optimize.coreml.OptimizationConfig) -> str:
    entries = [
        configuration.global_config,
        *configuration.op_type_configs.values(),
        *configuration.op_name_configs.values(),
    ]
    kinds = {type(entry).__name__ for entry in entries if entry is not None}
    passes = {_PASSES[kind] for kind in kinds}
    if len(passes) != 1:
        raise ConfigurationError(
            f"one configuration holds {', '.join(sorted(kinds)) or 'nothing'}; give a file for each technique"
        )
    return passes.pop()


def _require_names(configuration: ct.optimize.coreml.OptimizationConfig, program: Any) -> None:
    operations = [operation for block in blocks_of(program) for operation in block.operations]
    for key, given, known in (
        ("op_name_configs", configuration.op_name_configs, {operation.name for operation in operations}),
        ("op_type_configs", configuration.op_type_configs, {operation.op_type for operation in operations}),
    ):
        for name in given:
            if name not in known:
                raise ConfigurationError(
                    f"{key} names {name!r}, which the package has not{did_you_mean(name, known)}"
                )


@contextmanager
def _messages() -> Iterator[list[str]]:
    """What coremltools warns of, kept instead of printed."""
    kept: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record.getMessage())

    logger, keeper = logging.getLogger("coremltools"), Keeper(logging.WARNING)
    propagates, handlers = logger.propagate, list(logger.handlers)
    logger.handlers, logger.propagate = [keeper], False
    try:
        yield kept
    finally:
        logger.handlers, logger.propagate = handlers, propagates


def _told(error: BaseException) -> str:
    """What went wrong, with the reasons inside of cattrs' groups of errors."""
    if isinstance(error, cattrs.BaseValidationError):
        return "; ".join(_told(inner) for inner in error.exceptions)
    return str(error)
