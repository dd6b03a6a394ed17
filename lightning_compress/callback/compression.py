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
from lightning.pytorch.callbacks import Callback
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import nn
from torch.utils.hooks import RemovableHandle

from lightning_compress.callback.averaging import ExactState, check_averaging
from lightning_compress.callback.checkpoints import (
    STATE_VERSION,
    check_configuration,
    check_version,
    compression_states,
    read_checkpoint,
    select_state,
    warn_of_incomplete_best,
)
from lightning_compress.callback.fit import (
    callbacks_of,
    complete_resume,
    fit_steps,
    fits,
    rehearses,
    will_log,
)
from lightning_compress.callback.inputs import example_inputs_of
from lightning_compress.callback.placement import Placement
from lightning_compress.callback.reporting import package_line, print_layers
from lightning_compress.callback.strategies import check_precision, check_strategy
from lightning_compress.coreml.export import CoreMLExport, ExportedPackage
from lightning_compress.errors import CompressionError, ConfigurationError
from lightning_compress.methods.base import Method
from lightning_compress.methods.joint import PreparedModule, from_descriptions, in_order
from lightning_compress.methods.probe import WeightErrorProbe
from lightning_compress.methods.schedule import FitLength
from lightning_compress.methods.summary import LayerSummary, summarize
from lightning_compress.processes import broadcast, on_rank_zero


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
        self._path: str | None = None
        self._exact: ExactState | None = None
        self._steps = 0
        self._steps_before = 0
        self._resumed = False
        self._epochs: int | None = None
        self._global_step = 0
        self._probe: WeightErrorProbe | None = None
        self._loading: RemovableHandle | None = None

    @classmethod
    def load_from_checkpoint(
        cls,
        path: str | Path,
        pl_module: L.LightningModule,
        *,
        module: str | None = None,
        example_inputs: torch.Tensor | tuple[Any, ...] | None = None,
        export: CoreMLExport | None = None,
    ) -> Compression:
        """Prepare a fresh LightningModule as a checkpoint says, and load its weights.

        Afterwards `pl_module` is prepared and can be run, validated, or trained on with the callback returned;
        `finalize` makes the finalized module, and the package if `export` is given.

        Args:
            path: A checkpoint that a Trainer with `Compression` wrote.
            pl_module: A fresh instance of the LightningModule that was trained.
            module: Which compression to take, where the checkpoint holds several.
            example_inputs: As in the constructor.
            export: As in the constructor.

        Raises:
            ConfigurationError: The file is missing, is no checkpoint, or holds no compression.

        Example:
            >>> compression = Compression.load_from_checkpoint("last.ckpt", LitDetector())
            >>> compression.finalize()
        """
        checkpoint = read_checkpoint(path)
        state = select_state(checkpoint, module, path)
        compression = cls(
            *from_descriptions(state["configuration"]),
            module=state["module"],
            example_inputs=example_inputs,
            export=export,
        )
        compression._prepare(pl_module)
        pl_module.load_state_dict(checkpoint["state_dict"])
        compression.load_state_dict(state)
        for reason in state["unfinished"]:
            rank_zero_warn(
                f"the checkpoint {str(path)!r} was written before the compression ended: {reason}; the result is "
                "compressed less than asked"
            )
        return compression

    @property
    def state_key(self) -> str:
        """Separates the states of callbacks that compress different modules."""
        return self._generate_state_key(module=self.module_path)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Prepare the module: the one place before weights load, DDP wraps and the optimizer collects parameters."""
        if stage == "fit":
            check_strategy(trainer)
            check_precision(trainer, quantizes=any(method.fake_quantizes for method in self.methods))
            check_averaging(
                callbacks_of(trainer),
                self,
                pl_module,
                freezes_batch_norm=any(method.freezes_batch_norm for method in self.methods),
            )
            self._prepare(pl_module)
            self._exact = ExactState(pl_module, self._require().module)
            self._resumed = False

        def before_loading(module: nn.Module, state_dict: Mapping[str, Any], *arguments: Any) -> None:
            assert isinstance(module, L.LightningModule)
            if stage == "fit":
                self._explain_misfit(trainer, module, state_dict)
            # Lightning does not tell a callback whether a checkpoint will be loaded: without one nothing is prepared.
            elif not self._is_prepared_in(module) and state_dict.keys() - module.state_dict().keys():
                self._prepare(module)

        self._loading = pl_module.register_load_state_dict_pre_hook(before_loading)  # type: ignore[no-untyped-call]

    def _prepare(self, pl_module: L.LightningModule) -> None:
        if self._is_prepared_in(pl_module):
            return
        placement = Placement.find(pl_module, self.module_path)
        needed_by = [type(method).__name__ for method in self.methods if method.needs_example_inputs]
        needed_by += ["CoreMLExport"] if self.export is not None else []
        self._example_inputs = example_inputs_of(pl_module, self._given_inputs, needed_by)
        self._prepared = PreparedModule(placement.module, self.methods, self._example_inputs)
        self._path = placement.path
        self._steps = self._steps_before = 0
        placement.replace(pl_module, self._prepared.module)
        if self.export is not None:
            export, capabilities = self.export, self._prepared.capabilities
            # It writes to the package's folder for a try, and clears what a killed process left there.
            on_rank_zero(lambda: export.validate(capabilities))

    def _explain_misfit(
        self, trainer: L.Trainer, pl_module: L.LightningModule, state_dict: Mapping[str, Any]
    ) -> None:
        """Say why the weights of a checkpoint do not fit, before torch lists the names of tensors."""
        if trainer.ckpt_path is None or state_dict.keys() == pl_module.state_dict().keys():
            return
        states = compression_states(trainer.strategy.load_checkpoint(trainer.ckpt_path))
        if not states:
            raise ConfigurationError(
                f"the checkpoint {str(trainer.ckpt_path)!r} was written without Compression and cannot be resumed with "
                "it; to compress what it holds, load its weights before the fit: "
                'lit.load_state_dict(torch.load(path)["state_dict"])'
            )
        for state in states:
            if state["module"] == self._path:
                check_configuration(state["configuration"], self._describe())

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Find this callback's state, whichever way the module was named when it was written.

        Raises:
            ConfigurationError: A fit would go on without its progress.
        """
        states = checkpoint.setdefault("callbacks", {})
        if self.state_key in states or self._prepared is None:
            return
        state = next((s for s in compression_states(checkpoint) if s["module"] == self._path), None)
        if state is not None:
            states[self.state_key] = state
        elif fits(trainer):
            raise ConfigurationError(
                f"the checkpoint {str(trainer.ckpt_path)!r} holds no state of Compression for the module "
                f"{self._path!r}; it compresses {[s['module'] for s in compression_states(checkpoint)]}"
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore progress; Lightning may call this more than once.

        Raises:
            ConfigurationError: The checkpoint was written with another configuration; says what differs.
        """
        if not state_dict or self._prepared is None:
            return
        check_version(state_dict)
        check_configuration(state_dict["configuration"], self._describe())
        self._prepared.load_state_dict(state_dict["progress"])
        self._steps, self._steps_before = state_dict["steps"], state_dict["steps_before"]
        self._resumed = True

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Resolve fractions of the fit into steps, now that data and model are there."""
        # StochasticWeightAveraging adds an epoch that steps no optimizer after this hook.
        self._epochs = trainer.max_epochs
        if self._resumed:
            # The length of the fit is asked for later: it would make Lightning build the loaders too early.
            return
        if trainer.global_step == 0:
            self._steps_before = self._steps
        self._resolve_schedule(trainer, pl_module)

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let observers rest."""
        self._require().evaluate(True)

    def on_sanity_check_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wake observers."""
        self._require().evaluate(False)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember where the count of optimizer steps stands, which after a resume is not 0."""
        self._global_step = trainer.global_step
        complete_resume(trainer)
        # BatchSizeFinder has changed the length of the fit by now.
        self._resolve_schedule(trainer, pl_module)
        self._require().start_training()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Complete averaged weights, which StochasticWeightAveraging may put in place after this hook."""
        self._share(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure the error of the weights where this step will be logged."""
        if will_log(trainer):
            self._probe = WeightErrorProbe(self._require().module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Step if an optimizer has: with gradient accumulation not every batch ends in a step."""
        prepared = self._require()
        if trainer.global_step != self._global_step:
            # With several optimizers the count advances by more than one, for one step of the training.
            self._global_step = trainer.global_step
            self._steps += 1
            prepared.step()
        if self._exact is not None:
            self._exact.fit_shapes(callbacks_of(trainer))
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

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Complete averaged weights, before they are validated."""
        self._share(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wake observers, before ModelCheckpoint saves."""
        self._rest(False)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make observers and running means the same on every process.

        DDP does so before each forward pass, so training is not changed; between the last pass of an epoch and the
        next, buffers that follow a process's own data would differ.
        """
        broadcast(self._require().module.buffers())

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Complete averaged weights, before they are saved."""
        self._share(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Progress that the module's buffers do not hold, in plain types."""
        if self._prepared is None:
            return {}
        return {
            "version": STATE_VERSION,
            "module": self._path,
            "configuration": self._describe(),
            "progress": self._prepared.state_dict(),
            "steps": self._steps,
            "steps_before": self._steps_before,
            "unfinished": self._prepared.unfinished(),
        }

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Complete averaged weights, which take the place of those in training after this hook."""
        self._require().end_training()
        self._share(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Finalize a copy and export it; the model is on the CPU and unwrapped by now."""
        prepared = self._require()
        self.finalized = self.exported = None
        if not rehearses(trainer):
            for reason in prepared.unfinished():
                rank_zero_warn(
                    f"the fit ended before the compression did: {reason}; the result is compressed less than asked"
                )
        on_rank_zero(lambda: self._finish(trainer, prepared))
        if self.finalized is None:
            self.finalized = prepared.finalize()
            self.layers = summarize(self.finalized)

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

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Leave the module as a fit would: Lightning calls neither the ends of loops nor `teardown`."""
        if self._probe is not None:
            self._probe.error()
            self._probe = None
        self._rest(False)
        self._stop_listening()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave no hook on the module."""
        self._stop_listening()

    def finalize(self) -> nn.Module:
        """Finalize a copy of the prepared module on the CPU, and write the package if there is an `export`.

        A fit does this at its end, and prints the outcome; call it after `load_from_checkpoint`. What it made is in
        `layers` and `exported`.

        Returns:
            The finalized module, which is also `finalized`.

        Raises:
            CompressionError: Nothing is prepared, a weight is not finite, or the export fails.
        """
        prepared = self._require()
        self.exported = None
        self._finalize(prepared)
        if self.export is not None:
            self._export(prepared, self.export)
        assert self.finalized is not None
        return self.finalized

    def _resolve_schedule(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        prepared = self._require()
        if self._steps_before and not prepared.unfinished():
            # A further fit keeps what an earlier one has completed.
            return
        steps = fit_steps(trainer, pl_module, self._epochs)
        prepared.resolve_schedule(FitLength(steps + self._steps_before, rehearsal=rehearses(trainer)))

    def _finish(self, trainer: L.Trainer, prepared: PreparedModule) -> None:
        self._finalize(prepared)
        print_layers(self.layers)
        warn_of_incomplete_best(trainer.checkpoint_callbacks, self._path)
        if self.export is not None:
            print(package_line(self._export(prepared, self._export_of(trainer, self.export))))

    @staticmethod
    def _export_of(trainer: L.Trainer, export: CoreMLExport) -> CoreMLExport:
        if rehearses(trainer):
            # A rehearsal must not replace a package that somebody ships, and a network after one step may overflow in
            # half precision: nothing to judge a package by.
            path = Path(export.path)
            path = path.with_name(f"{path.stem}.fast_dev_run{path.suffix}")
            export = dataclasses.replace(export, path=path, verify=False)
        return export

    def _finalize(self, prepared: PreparedModule) -> None:
        self.finalized = prepared.finalize()
        self.layers = summarize(self.finalized)

    def _export(self, prepared: PreparedModule, export: CoreMLExport) -> ExportedPackage:
        assert self.finalized is not None
        assert self._example_inputs is not None
        self.exported = export.run(self.finalized, self._example_inputs, prepared.capabilities)
        return self.exported

    def _share(self, trainer: L.Trainer) -> None:
        if self._exact is not None and fits(trainer):
            self._exact.share(callbacks_of(trainer))

    def _stop_listening(self) -> None:
        if self._loading is not None:
            self._loading.remove()
            self._loading = None

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
