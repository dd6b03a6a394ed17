"""The callback: when the things of `lightning_compress.methods` happen in a fit.

The hooks stand in the order in which Lightning calls them (2.6, `Trainer._run`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.rank_zero import rank_zero_warn
from rich.console import Console
from torch import nn
from torch.utils.hooks import RemovableHandle

from lightning_compress.coreml.export import CoreMLExport, ExportedPackage
from lightning_compress.errors import (
    CompressionError,
    ConfigurationError,
    ModuleNotFoundInModelError,
    nearest,
)
from lightning_compress.methods.base import Method
from lightning_compress.methods.joint import PreparedModule, in_order
from lightning_compress.methods.probe import WeightErrorProbe
from lightning_compress.methods.schedule import FitLength
from lightning_compress.methods.summary import LayerSummary, summarize, summary_table
from lightning_compress.processes import on_rank_zero
from lightning_compress.strategies import check_strategy

_STATE_VERSION = 1


class Compression(Callback):
    """Compresses a module of a LightningModule while the Trainer trains it, and exports it at the end of the fit.

    The module is prepared when the fit begins, stepped after each optimizer step, and stays prepared, so that its
    checkpoints load again; `finalized` is a copy with the compression committed. With several methods the compression
    is a joint one, put in the one order that works. Logged at each logging step: `compression/sparsity` of pruning
    and `compression/weight_error`, the relative distance of the compressed weights from those in training.

    Args:
        methods: `DKMPalettization`, `MagnitudePruning`, `LinearQuantization`; none only exports.
        module: Dotted path of the module to compress inside the LightningModule; by default its only child with
            parameters.
        example_inputs: Inputs of the module's forward, a tensor or a tuple; by default the LightningModule's
            `example_input_array`.
        export: Where and how to write a Core ML package when the fit ends.

    Attributes:
        finalized: The finalized module on the CPU, after a fit.
        exported: What was written, after a fit with `export`.
        layers: The compression by layer, after a fit.

    Raises:
        CompressionError: Before the first training step wherever that is possible, naming what is wrong and what is
        valid.

    Example:
        >>> compression = Compression(DKMPalettization(n_bits=2), module="model", export=CoreMLExport("net.mlpackage"))
        >>> Trainer(max_epochs=5, callbacks=[compression]).fit(lit, datamodule=data)
    """

    def __init__(
        self,
        *methods: Method,
        module: str | None = None,
        example_inputs: torch.Tensor | tuple[Any, ...] | None = None,
        export: CoreMLExport | None = None,
    ) -> None:
        self.methods = in_order(methods)
        self.module_path = module
        self.export = export
        self.finalized: nn.Module | None = None
        self.exported: ExportedPackage | None = None
        self.layers: list[LayerSummary] = []
        self._given_inputs = example_inputs
        self._example_inputs: tuple[Any, ...] | None = None
        self._prepared: PreparedModule | None = None
        self._global_step = 0
        self._probe: WeightErrorProbe | None = None
        self._loading: RemovableHandle | None = None

    @property
    def state_key(self) -> str:
        """Separates the states of callbacks that compress different modules."""
        return self._generate_state_key(module=self.module_path)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Prepare the module: the one place before weights load, DDP wraps and the optimizer collects parameters."""
        if stage == "fit":
            check_strategy(trainer)
            self._check_order(trainer)
            self._prepare(pl_module)
        elif not self._is_prepared_in(pl_module):
            # Lightning does not tell a callback whether a checkpoint will be loaded: without one nothing is prepared.
            self._loading = pl_module.register_load_state_dict_pre_hook(self._prepare_for_state)

    def _prepare(self, pl_module: L.LightningModule) -> None:
        if self._is_prepared_in(pl_module):
            return
        path, module = self._find_module(pl_module)
        self._example_inputs = self._inputs_for(pl_module)
        self._prepared = PreparedModule(module, self.methods, self._example_inputs)
        _set_submodule(pl_module, path, self._prepared.module)
        if self.export is not None:
            self.export.validate(self._prepared.capabilities)

    def _prepare_for_state(self, module: nn.Module, state_dict: Mapping[str, Any], *_: Any) -> None:
        """Prepare a network that is about to load the state of a prepared one."""
        assert isinstance(module, L.LightningModule)
        if any(key not in module.state_dict() for key in state_dict):
            self._prepare(module)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Resolve fractions of the fit into steps, now that data and model are there."""
        self._require().resolve_schedule(
            FitLength(trainer.estimated_stepping_batches, rehearsal=_rehearses(trainer))
        )

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let observers rest."""
        self._require().evaluate(True)

    def on_sanity_check_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wake observers."""
        self._require().evaluate(False)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember where the count of optimizer steps stands, which after a resume is not 0."""
        self._global_step = trainer.global_step
        self._require().start_training()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure the error of the weights where this step will be logged."""
        if (trainer.global_step + 1) % _log_interval(trainer) == 0:
            self._probe = WeightErrorProbe(self._require().module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Step if the optimizer has: with gradient accumulation not every batch ends in a step."""
        prepared = self._require()
        if trainer.global_step != self._global_step:
            self._global_step = trainer.global_step
            prepared.step()
        if self._probe is not None:
            values = prepared.metrics()
            error = self._probe.error()
            self._probe = None
            if error is not None:
                values["weight_error"] = error
            pl_module.log_dict({f"compression/{key}": value for key, value in values.items()}, on_step=True)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let observers rest."""
        self._rest(True)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wake observers, before ModelCheckpoint saves."""
        self._rest(False)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let observers rest."""
        self._rest(True)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wake observers."""
        self._rest(False)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let observers rest."""
        self._rest(True)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wake observers."""
        self._rest(False)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Finalize a copy and export it; the model is on the CPU and unwrapped by now."""
        prepared = self._require()
        self.finalized = self.exported = None
        for reason in prepared.unfinished():
            if not _rehearses(trainer):
                rank_zero_warn(
                    f"the fit ended before the compression did: {reason}; the result is compressed less than asked"
                )
        on_rank_zero(lambda: self._finish(trainer, prepared))
        if self.finalized is None:
            self.finalized = prepared.finalize()
            self.layers = summarize(self.finalized)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave no hook on the module."""
        if self._loading is not None:
            self._loading.remove()
            self._loading = None

    def state_dict(self) -> dict[str, Any]:
        """Progress that the module's buffers do not hold, in plain types."""
        if self._prepared is None:
            return {}
        return {
            "version": _STATE_VERSION,
            "configuration": self._describe(),
            "progress": self._prepared.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore progress; Lightning may call this more than once.

        Raises:
            ConfigurationError: The checkpoint was written with another configuration; says what differs.
        """
        if not state_dict:
            return
        if state_dict.get("version") != _STATE_VERSION:
            raise ConfigurationError(
                f"the checkpoint holds compression state of version {state_dict.get('version')!r}; "
                f"valid is {_STATE_VERSION}"
            )
        differences = _differences(state_dict["configuration"], self._describe())
        if differences:
            raise ConfigurationError(
                "the checkpoint was written with another compression: "
                + "; ".join(differences)
                + ". Resume with the same "
                "configuration, or start a new fit from the weights alone"
            )
        self._require().load_state_dict(state_dict["progress"])

    def _finish(self, trainer: L.Trainer, prepared: PreparedModule) -> None:
        self.finalized = prepared.finalize()
        self.layers = summarize(self.finalized)
        Console().print(summary_table(self.layers))
        if self.export is None:
            return
        export = self.export
        if _rehearses(trainer):
            # A rehearsal must not replace a package that somebody ships.
            path = Path(export.path)
            export = dataclasses.replace(
                export, path=path.with_name(f"{path.stem}.fast_dev_run{path.suffix}")
            )
        assert self._example_inputs is not None
        self.exported = export.run(self.finalized, self._example_inputs, prepared.capabilities)
        print(package_line(self.exported))

    def _rest(self, active: bool) -> None:
        if self._prepared is not None:
            self._prepared.evaluate(active)

    def _require(self) -> PreparedModule:
        if self._prepared is None:
            raise CompressionError(
                "the module is not prepared yet; Compression prepares it when a fit begins"
            )
        return self._prepared

    def _describe(self) -> list[dict[str, Any]]:
        return [method.describe() for method in self.methods]

    def _is_prepared_in(self, pl_module: L.LightningModule) -> bool:
        prepared = self._prepared
        return prepared is not None and any(submodule is prepared.module for submodule in pl_module.modules())

    def _find_module(self, pl_module: L.LightningModule) -> tuple[str, nn.Module]:
        path = self.module_path
        missing = path is None or not _has_submodule(pl_module, path)
        if missing and is_overridden("configure_model", pl_module):
            # Lightning calls it after this hook, and documents that it may be called twice.
            pl_module.configure_model()
        if path is None:
            path = _only_child(pl_module)
        if path == "" or not _has_submodule(pl_module, path):
            names = [name for name, _ in pl_module.named_modules() if name]
            close = nearest(path, names)
            raise ModuleNotFoundInModelError(
                f"module={path!r} of Compression is no module of {type(pl_module).__name__}; "
                + (
                    f"the nearest are {close}"
                    if close
                    else f"it has {[n for n, _ in pl_module.named_children()]}"
                )
                + ". A network built in LightningModule.setup is not there yet when callbacks prepare: build it in "
                "__init__ or configure_model"
            )
        return path, pl_module.get_submodule(path)

    def _inputs_for(self, pl_module: L.LightningModule) -> tuple[Any, ...] | None:
        given = self._given_inputs if self._given_inputs is not None else pl_module.example_input_array
        needed = [type(method).__name__ for method in self.methods if method.needs_example_inputs]
        needed += ["CoreMLExport"] if self.export is not None else []
        if given is None:
            if needed:
                raise ConfigurationError(
                    f"{' and '.join(needed)} needs example inputs, and there are none; set example_input_array in "
                    f"{type(pl_module).__name__}, or give Compression(example_inputs=...)"
                )
            return None
        if isinstance(given, torch.Tensor):
            return (given,)
        if isinstance(given, tuple | list):
            return tuple(given)
        raise ConfigurationError(
            f"example inputs are of type {type(given).__name__}; valid is a tensor, or a tuple of the "
            "positional inputs of "
            f"the module's forward"
        )

    def _check_order(self, trainer: L.Trainer) -> None:
        for callback in _before(trainer, self):
            if isinstance(callback, WeightAveraging | StochasticWeightAveraging):
                raise ConfigurationError(
                    f"{type(callback).__name__} comes before Compression in the list of callbacks, "
                    "and would average the "
                    f"module as it was before it was prepared; put Compression first"
                )


def package_line(package: ExportedPackage) -> str:
    """One line on what was written: where, for which systems, and how much smaller than float16."""
    ratio = package.float16_weight_bytes / max(package.weight_bytes, 1)
    smaller = f", {ratio:.1f} times smaller than at float16" if ratio > 1.05 else ""
    megabytes = package.package_bytes / 1e6, package.weight_bytes / 1e6
    return f"{package.path} ({package.target}): {megabytes[0]:.2f} MB, weights {megabytes[1]:.2f} MB{smaller}"


# The Trainer gets these attributes from its connectors, which type checkers do not see.


def _rehearses(trainer: L.Trainer) -> bool:
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def _log_interval(trainer: L.Trainer) -> int:
    return max(int(trainer.log_every_n_steps), 1)  # type: ignore[attr-defined]


def _before(trainer: L.Trainer, callback: Callback) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks[: callbacks.index(callback)]


def _has_submodule(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def _set_submodule(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)


def _only_child(pl_module: L.LightningModule) -> str:
    candidates = [
        name for name, child in pl_module.named_children() if next(child.parameters(), None) is not None
    ]
    if len(candidates) != 1:
        raise ConfigurationError(
            "Compression(module=None) needs a LightningModule with one child that has parameters; "
            f"{type(pl_module).__name__} "
            f"has {candidates or 'none'}; name the one to compress with module=..."
        )
    return candidates[0]


def _differences(saved: Any, current: Any, path: str = "compression") -> list[str]:
    if isinstance(saved, Mapping) and isinstance(current, Mapping):
        keys = [*saved, *(key for key in current if key not in saved)]
        return [d for key in keys for d in _differences(saved.get(key), current.get(key), f"{path}.{key}")]
    if isinstance(saved, list) and isinstance(current, list) and len(saved) == len(current):
        pairs = enumerate(zip(saved, current, strict=True))
        return [d for index, pair in pairs for d in _differences(*pair, f"{path}[{index}]")]
    return [] if saved == current else [f"{path} was {saved!r} and is {current!r}"]
