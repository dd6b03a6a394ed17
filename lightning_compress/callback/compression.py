"""The callback: when the things of `lightning_compress.methods` happen in a fit.

The hooks stand in the order in which Lightning calls them (2.6, `Trainer._run`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning_utilities.core.rank_zero import rank_zero_only, rank_zero_warn
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_compress.callback.averaging import ExactState, check_averaging
from lightning_compress.callback.checkpoints import (
    require_same_compression,
    warn_of_incomplete_best,
)
from lightning_compress.callback.distillation.distilling import Distilling
from lightning_compress.callback.distillation.requirements import require_automatic_optimization
from lightning_compress.callback.finishing import (
    Finished,
    export_in_rehearsal,
    finish,
    rehearse,
)
from lightning_compress.callback.fit import (
    callbacks_of,
    complete_resume,
    data_module,
    fit_steps,
    fits,
    loaded_checkpoint,
    rehearses,
    training_loader,
    will_log,
)
from lightning_compress.callback.losses import require_training_loss
from lightning_compress.callback.lost_values import LostValues
from lightning_compress.callback.placement import Placement
from lightning_compress.callback.prepared import PreparingCallback
from lightning_compress.callback.reporting import package_line, print_layers, print_plan
from lightning_compress.callback.strategies import check_precision, check_strategy
from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.calibration import needs_of
from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.mechanism.probe import WeightErrorProbe
from lightning_compress.methods.mechanism.schedule import FitLength
from lightning_compress.nice_to_have import nice_to_have
from lightning_compress.processes import broadcast, from_rank_zero, on_rank_zero


class Compression(PreparingCallback):
    """Compresses a module of a LightningModule while the Trainer trains it, and exports it at the end of the fit.

    The module is prepared when the fit begins, stepped after each optimizer step, and stays prepared, so that its
    checkpoints load again; `finalized` is a copy with the compression committed. With several methods the compression
    is a joint one, put in the one order that works. Before the first step a table tells what will be compressed and
    what stays dense, and the export is rehearsed, so that what cannot be exported is told then. Logged at each logging
    step: `compression/sparsity` of pruning and `compression/weight_error`, the relative distance of the compressed
    weights from those in training, and `compression/assignment_gap` of palettes, that of softly clustered weights from
    the ones that evaluation assigns.

    Args:
        methods: `DKMPalettization`, `MagnitudePruning`, `LinearQuantization`, which are trained, and
            `SensitivePalettization`, `GPTQPalettization`, `GPTQ`, `SparseGPT`, which are found from training data when
            the fit ends; none only exports.
        module: Dotted path of the module to compress inside the LightningModule; by default its only child with
            parameters.
        example_inputs: Inputs of the module's forward: a tensor, a tuple of them by position, or a dictionary by name;
            by default the LightningModule's `example_input_array`.
        export: Where and how to write a Core ML package when the fit ends; a path alone exports as `CoreMLExport` does
            by default.
        rehearse: Whether a copy is finalized, converted and loaded before the first step; a fit that goes on from a
            checkpoint does without.
        calibration_samples: How many training samples methods that are driven by data look at when the fit ends.
        distillation: Draws the module to a teacher, by default to itself as it was before; a `Distillation`, or a
            mapping of its arguments.

    Attributes:
        finalized: The finalized module on the CPU, after a fit.
        exported: What was written, after a fit with `export`.
        layers: The compression by layer, after a fit.

    Raises:
        CompressionError: Before the first training step wherever that is possible, naming what is wrong and what is
        valid.

    Example:
        >>> compression = Compression(DKMPalettization(n_bits=2), module="model", export=CoreMLExport("net.mlpackage"))
        >>> L.Trainer(max_epochs=5, callbacks=[compression]).fit(lit, datamodule=data)
    """

    # Keeps averaged models' masks and palettes those in training.
    _exact: ExactState | None = None
    # Stands from the start of a batch that is logged to its end.
    _probe: WeightErrorProbe | None = None
    # Tells, before torch does, why weights do not fit.
    _loading: RemovableHandle | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Prepare the module: the one place before weights load, DDP wraps and the optimizer collects parameters."""
        if stage == "fit":
            check_strategy(trainer)
            check_precision(trainer, self.methods)
            check_averaging(
                callbacks_of(trainer),
                self,
                pl_module,
                freezes_batch_norm=any(method.freezes_batch_norm for method in self.methods),
            )
            self._take_teacher(pl_module)
            self._prepare(pl_module)
            self._refuse_others(callbacks_of(trainer))
            prepared = self._require()
            if needs_of(prepared).any:
                require_training_loss(pl_module)
            self._exact = ExactState(pl_module, prepared.own_tensors())
            self._progress.is_resumed = False
            if self._distilling is not None:
                self._distilling.start(trainer, pl_module, prepared)
            self._announce(prepared)

        def before_loading(module: nn.Module, state_dict: Mapping[str, Any], *arguments: Any) -> None:
            assert isinstance(module, L.LightningModule)
            if stage == "fit":
                checkpoint = loaded_checkpoint(trainer)
                if checkpoint and state_dict.keys() != module.state_dict().keys():
                    require_same_compression(checkpoint, trainer.ckpt_path, self._path, self._describe())
            # Lightning does not tell a callback whether a checkpoint will be loaded: without one nothing is prepared.
            elif not self._is_prepared_in(module) and state_dict.keys() - module.state_dict().keys():
                self._prepare(module)

        self._loading = pl_module.register_load_state_dict_pre_hook(before_loading)  # type: ignore[no-untyped-call]

    def _take_teacher(self, pl_module: L.LightningModule) -> None:
        """Copy the module while it is float: nothing tells later what it was."""
        distillation = self.distillation
        if distillation is None:
            return
        require_automatic_optimization(pl_module)
        is_prepared = self._is_prepared_in(pl_module)
        if is_prepared and self._distilling is not None:
            return
        if is_prepared and distillation.teacher is None:
            raise ConfigurationError(
                f"{self._path!r} was prepared for compression before this fit, so that the float module that "
                "Distillation draws it to is gone; give a copy of that as Distillation(teacher=...), or begin the fit "
                "with a module that is not prepared yet"
            )
        network = (
            self._require().module if is_prepared else Placement.find(pl_module, self.module_path).module
        )
        self._distilling = Distilling(distillation, network)

    def _refuse_others(self, callbacks: list[Callback]) -> None:
        """Refuse another compression around this module, which would finalize it without this one."""
        module = self._require().module
        for other in callbacks:
            if isinstance(other, PreparingCallback) and other is not self and other.prepares(module):
                raise ConfigurationError(
                    f"{self._path!r} is already prepared for compression by another Compression of the Trainer; use "
                    "one for a module and all within it, with several methods and module_name_configs"
                )

    @rank_zero_only
    def _announce(self, prepared: PreparedModule) -> None:
        if not self.methods and self.export is None:
            rank_zero_warn(
                "Compression() has no methods and no export: it changes nothing and writes nothing. Give it methods, "
                "such as DKMPalettization(n_bits=4), an export='net.mlpackage', or both"
            )
        with nice_to_have("the plan of the compression"):
            print_plan(prepared)

    def _rehearse(self) -> None:
        assert self.export is not None
        assert self._example_inputs is not None
        seconds = rehearse(self._require(), self.export, self._example_inputs)
        with nice_to_have("the duration of the rehearsal"):
            print(
                f"The export was rehearsed in {seconds:.1f} s; Compression(rehearse=False) leaves that out."
            )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Rehearse the export, and resolve fractions of the fit into steps, now that data and model are there."""
        self._progress.epochs = trainer.max_epochs
        if self._progress.is_resumed:
            # The length of the fit is asked for later: it would make Lightning build the loaders too early.
            return
        if trainer.global_step == 0:
            self._progress.steps_before = self._require().steps
        # Only now does Lightning tell whether the fit goes on from a checkpoint.
        if self.export is not None and self.rehearse and trainer.ckpt_path is None and not rehearses(trainer):
            on_rank_zero(self._rehearse)
        self._resolve_schedule(trainer, pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember where the count of optimizer steps stands, which after a resume is not 0."""
        self._progress.global_step = trainer.global_step
        complete_resume(trainer)
        # BatchSizeFinder has changed the length of the fit by now.
        self._resolve_schedule(trainer, pl_module)
        self._require().start_training()
        self._lost_values = LostValues()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Complete averaged weights, which StochasticWeightAveraging may put in place after this hook."""
        self._share(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure the error of the weights where this step will be logged."""
        if will_log(trainer):
            self._probe = WeightErrorProbe(self._require().techniques())

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Step if an optimizer has: with gradient accumulation not every batch ends in a step."""
        prepared = self._require()
        if self._progress.took_step(trainer.global_step):
            prepared.step()
        if self._probe is not None:
            values: dict[str, float | Tensor] = {**prepared.metrics()}
            error, gap = self._probe.error(), self._probe.gap()
            self._lost_values.tell(self._probe.techniques_that_lost_values())
            self._probe = None
            if error is not None:
                values["weight_error"] = error
            if gap is not None:
                values["assignment_gap"] = gap
            if self._distilling is not None and self._distilling.distance is not None:
                values["distillation"] = self._distilling.distance
            pl_module.log_dict({f"compression/{key}": value for key, value in values.items()}, on_step=True)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep what the module is called with, to compare on it at the end."""
        if self._prepared is not None and fits(trainer):
            self._recorder.listen(self._prepared.module)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Complete averaged weights, before they are validated."""
        self._share(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen no longer."""
        self._recorder.stop()

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

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Complete averaged weights, which take the place of those in training after this hook."""
        self._share(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Calibrate, finalize a copy and export it; the model is on the CPU and unwrapped by now."""
        prepared = self._require()
        self._calibrate_in_fit(trainer, pl_module)
        self.finalized = self.exported = None
        on_rank_zero(lambda: self._finish_fit(trainer, prepared))
        if self.finalized is None:
            self._keep(self._finalized(trainer, prepared), None)
        # What is needed is done; what is nice to have can only be said.
        self._report(trainer, prepared)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Leave the module as a fit would: Lightning calls neither the ends of loops nor `teardown`."""
        if self._probe is not None:
            self._probe.error()
            self._probe = None
        self._stop_listening()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave no hook on the module."""
        self._stop_listening()
        if self._distilling is not None:
            self._distilling.leave()

    def _resolve_schedule(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        prepared = self._require()

        def length() -> FitLength:
            steps = fit_steps(trainer, pl_module, self._progress.epochs) + self._progress.steps_before
            return FitLength(steps, rehearsal=rehearses(trainer))

        if self._distilling is not None:
            self._distilling.resolve(length)
        if self._progress.steps_before and not prepared.unfinished():
            # A further fit keeps what an earlier one has completed.
            return
        prepared.resolve_schedule(length())

    def _calibrate_in_fit(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        prepared = self._require()
        if rehearses(trainer) or not needs_of(prepared).any:
            return

        def calibrated() -> dict[str, Tensor]:
            self._calibrate(pl_module, training_loader(trainer), data_module(trainer))
            return prepared.calibrated_state()

        prepared.take_calibrated_state(from_rank_zero(calibrated))

    def _finish_fit(self, trainer: L.Trainer, prepared: PreparedModule) -> None:
        export = self.export
        if export is not None and rehearses(trainer):
            export = export_in_rehearsal(export)
        self._keep(self._finalized(trainer, prepared), export)

    @rank_zero_only
    def _report(self, trainer: L.Trainer, prepared: PreparedModule) -> None:
        if not rehearses(trainer):
            for reason in prepared.unfinished():
                rank_zero_warn(
                    f"the fit ended before the compression did: {reason}; the result is compressed less than asked"
                )
        with nice_to_have("the table of layers"):
            print_layers(self.layers)
        with nice_to_have("whether the best checkpoint was compressed as far as asked"):
            warn_of_incomplete_best(trainer.checkpoint_callbacks, self._path)
        if self.exported is not None:
            with nice_to_have("the line on the package"):
                print(package_line(self.exported))

    def _finalized(self, trainer: L.Trainer, prepared: PreparedModule) -> Finished:
        if rehearses(trainer):
            examples = [] if self._example_inputs is None else [self._example_inputs]
            finalized = prepared.finalize(examples, rehearses=True)
            return Finished(finalized, finalized)
        return finish(prepared, self._recorder.calls(self._example_inputs))

    def _share(self, trainer: L.Trainer) -> None:
        if self._exact is not None and fits(trainer):
            self._exact.share(callbacks_of(trainer))

    def _stop_listening(self) -> None:
        self._recorder.stop()
        if self._distilling is not None:
            self._distilling.stop()
        if self._loading is not None:
            self._loading.remove()
            self._loading = None
