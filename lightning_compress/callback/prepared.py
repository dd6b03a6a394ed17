"""A module that a callback prepares, keeps prepared, finalizes, and finds again in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import nn

from lightning_compress.arguments import require_flag, require_path, require_type, require_whole
from lightning_compress.callback.calibration import calibrate_by_training_data, training_batches
from lightning_compress.callback.checkpoints import (
    STATE_VERSION,
    VERSION_KEY,
    check_configuration,
    check_version,
    compression_states,
    read_checkpoint,
    select_state,
)
from lightning_compress.callback.distillation.distilling import Distilling
from lightning_compress.callback.distillation.options import Distillation, as_distillation
from lightning_compress.callback.distillation.requirements import require_same_distillation
from lightning_compress.callback.finishing import Finished, InputRecorder, finish
from lightning_compress.callback.fit import fits
from lightning_compress.callback.inputs import Inputs, as_inputs, example_inputs_of
from lightning_compress.callback.placement import Placement
from lightning_compress.callback.progress import FitProgress
from lightning_compress.coreml.export import CoreMLExport, ExportedPackage
from lightning_compress.coreml.structure import ExampleInputs
from lightning_compress.errors import CompressionError, ConfigurationError
from lightning_compress.methods.mechanism.calibration import needs_of
from lightning_compress.methods.mechanism.copies import copy_module
from lightning_compress.methods.mechanism.joining import from_descriptions, in_order
from lightning_compress.methods.mechanism.method import Method
from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.mechanism.report import Report
from lightning_compress.methods.mechanism.summary import LayerSummary, summarize
from lightning_compress.nice_to_have import nice_to_have
from lightning_compress.processes import on_rank_zero

CALIBRATION_SAMPLES = 256
"""How many samples methods that are driven by data look at, unless it is said."""

CallbackType = TypeVar("CallbackType", bound="PreparingCallback")


class PreparingCallback(Callback):
    """What `Compression` is apart from a fit: a prepared module, its state in checkpoints, its finalized copy."""

    def __init__(
        self,
        *methods: Method,
        module: str | None = None,
        example_inputs: ExampleInputs | None = None,
        export: CoreMLExport | str | Path | None = None,
        rehearse: bool = True,
        calibration_samples: int = CALIBRATION_SAMPLES,
        distillation: Distillation | Mapping[str, Any] | None = None,
    ) -> None:
        self.methods: list[Method] = in_order(methods)
        require_type("module", module, str, _MODULE, optional=True)
        require_flag("rehearse", rehearse)
        require_whole("calibration_samples", calibration_samples, 1)
        if example_inputs is not None:
            as_inputs(example_inputs, "example_inputs")
        self.module_path = module
        self.export = _as_export(export)
        self.rehearse = rehearse
        self.calibration_samples = calibration_samples
        self.distillation = as_distillation(distillation)
        self.finalized: nn.Module | None = None
        self.exported: ExportedPackage | None = None
        self.layers: list[LayerSummary] = []
        self._given_inputs = example_inputs
        self._example_inputs: Inputs | None = None
        self._prepared: PreparedModule | None = None
        # Dotted path at which the module was found, whichever way it was named.
        self._path: str | None = None
        self._progress = FitProgress()
        self._recorder = InputRecorder()
        # Stands from the first fit on, with the teacher as the module was before that.
        self._distilling: Distilling | None = None

    @classmethod
    def load_from_checkpoint(
        cls: type[CallbackType],
        path: str | Path,
        pl_module: L.LightningModule,
        *,
        module: str | None = None,
        example_inputs: ExampleInputs | None = None,
        export: CoreMLExport | str | Path | None = None,
    ) -> CallbackType:
        """Prepare a fresh LightningModule as a checkpoint says, and load its weights.

        Afterwards `pl_module` is prepared and can be run, validated, or trained on with the callback returned, without
        distillation; `finalize` makes the finalized module, and the package if `export` is given.

        Args:
            path: A checkpoint that a Trainer with `Compression` wrote.
            pl_module: A fresh instance of the LightningModule that was trained.
            module: Which compression to take, where the checkpoint holds several.
            example_inputs: As in the constructor.
            export: As in the constructor.

        Raises:
            ConfigurationError: The file is missing, is no checkpoint, or holds no compression.

        Example:
            >>> compression = Compression.load_from_checkpoint("last.ckpt", LitClassifier())
            >>> network = compression.finalize()
        """
        require_path("path", path, "last.ckpt")
        require_type(
            "pl_module", pl_module, L.LightningModule, "an instance of the LightningModule that was trained"
        )
        require_type("module", module, str, _MODULE, optional=True)
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

    def _prepare(self, pl_module: L.LightningModule) -> None:
        if self._is_prepared_in(pl_module):
            return
        placement = Placement.find(pl_module, self.module_path)
        needed_by = ["CoreMLExport"] if self.export is not None else []
        self._example_inputs = example_inputs_of(pl_module, self._given_inputs, needed_by)
        self._prepared = PreparedModule(placement.module, self.methods)
        self._path = placement.path
        self._progress = FitProgress()
        if self.export is not None:
            export, capabilities = self.export, self._prepared.capabilities
            # It writes to the package's folder for a try, and clears what a killed process left there.
            on_rank_zero(lambda: export.validate(capabilities))

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Find this callback's state, whichever way the module was named when it was written.

        Raises:
            ConfigurationError: A fit would go on without its progress, or towards another teacher.
        """
        states = checkpoint.setdefault("callbacks", {})
        if self._prepared is None:
            return
        if self.state_key not in states:
            state = next((s for s in compression_states(checkpoint) if s["module"] == self._path), None)
            if state is not None:
                states[self.state_key] = state
            elif fits(trainer):
                raise ConfigurationError(
                    f"the checkpoint {str(trainer.ckpt_path)!r} holds no state of Compression for the module "
                    f"{self._path!r}; it compresses {[s['module'] for s in compression_states(checkpoint)]}"
                )
        if fits(trainer):
            saved = states[self.state_key].get("distillation")
            # Teachers come from the first process, whose checkpoint it is.
            on_rank_zero(
                lambda: require_same_distillation(saved, self._describe_distillation(), trainer.ckpt_path)
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
        self._progress.steps_before = state_dict["steps_before"]
        self._progress.is_resumed = True

    def state_dict(self) -> dict[str, Any]:
        """Progress that the module's buffers do not hold, in plain types."""
        if self._prepared is None:
            return {}
        return {
            VERSION_KEY: STATE_VERSION,
            "module": self._path,
            "configuration": self._describe(),
            "progress": self._prepared.state_dict(),
            "steps_before": self._progress.steps_before,
            "unfinished": self._prepared.unfinished(),
            "distillation": self._describe_distillation(),
        }

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
        self._keep(finish(prepared, self._recorder.calls(self._example_inputs)), self.export)
        assert self.finalized is not None
        return self.finalized

    def calibrate(self, pl_module: L.LightningModule, data: Any) -> None:
        """Show data to techniques that are driven by them, without a fit or after one; then `finalize`.

        A fit does this at its end, with what it trains by.

        Args:
            pl_module: The LightningModule; its module is prepared if it is not yet.
            data: A LightningDataModule, whose training data are taken, a DataLoader, or a list of batches as
                `training_step` takes them.

        Raises:
            CompressionError: As before a fit, or nothing can be learned from the data.

        Example:
            >>> compression = Compression(GPTQPalettization(n_bits=3), export="net.mlpackage")
            >>> compression.calibrate(LitClassifier(), data)
            >>> network = compression.finalize()
        """
        require_type("pl_module", pl_module, L.LightningModule, "an instance of a LightningModule")
        loader, source = training_batches(data)
        self._prepare(pl_module)
        prepared = self._require()
        if not needs_of(prepared).any:
            raise ConfigurationError(
                f"none of {[method.schema.technique for method in self.methods]} is driven by data; valid are methods "
                "such as SensitivePalettization, GPTQPalettization, GPTQ and SparseGPT, others are trained in a fit"
            )
        self._calibrate(pl_module, loader, source)

    def _calibrate(
        self, pl_module: L.LightningModule, loader: Any, data: L.LightningDataModule | None
    ) -> None:
        prepared = self._require()
        assert self._path is not None
        seconds = calibrate_by_training_data(
            prepared, pl_module, self._path, loader, self.calibration_samples, data
        )
        with nice_to_have("the duration of the calibration"):
            print(f"Calibrated by {self.calibration_samples} samples at most in {seconds:.1f} s.")

    def trained(self) -> nn.Module:
        """A copy of the module as it is trained, on the CPU, in float32 and evaluation mode."""
        return copy_module(self._require().module)

    def report(self) -> Report:
        """Palette, share of each entry, scales and error by tensor, in training too; prints as a table with rich.

        Example:
            >>> rich.print(compression.report())
            >>> palette = compression.report()["features.3.weight"].values["palette"]
        """
        return self._require().report()

    def _keep(self, finished: Finished, export: CoreMLExport | None) -> None:
        self.finalized, self.exported = finished.finalized, None
        self.layers = []
        if export is not None:
            assert self._example_inputs is not None
            self.exported = finished.export(export, self._example_inputs, self._require())
        with nice_to_have("the compression by layer"):
            self.layers = summarize(finished.finalized, self._require().dense_reasons())

    def prepares(self, module: nn.Module) -> bool:
        """Whether a module is the one prepared, or stands within it, or around it."""
        if self._prepared is None:
            return False
        own = self._prepared.module
        return any(part is module for part in own.modules()) or any(part is own for part in module.modules())

    def _require(self) -> PreparedModule:
        if self._prepared is None:
            raise CompressionError(
                "the module is not prepared yet; Compression prepares it when a fit begins"
            )
        return self._prepared

    def _describe(self) -> list[dict[str, Any]]:
        return [method.describe() for method in self.methods]

    def _describe_distillation(self) -> dict[str, Any] | None:
        return None if self._distilling is None else self._distilling.describe()

    def _is_prepared_in(self, pl_module: L.LightningModule) -> bool:
        prepared = self._prepared
        return prepared is not None and any(submodule is prepared.module for submodule in pl_module.modules())


_MODULE = "the dotted path of a module inside the LightningModule, or None for its only child with parameters"


def _as_export(export: CoreMLExport | str | Path | None) -> CoreMLExport | None:
    """The export that is asked for; a path stands for one of defaults."""
    if isinstance(export, str | Path):
        return CoreMLExport(export)
    valid = "CoreMLExport('net.mlpackage'), the path of a package, or None"
    require_type("export", export, CoreMLExport, valid, optional=True)
    return export
