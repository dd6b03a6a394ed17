"""From the prepared module to a finalized one and its package: at the end of a fit, and in rehearsal before it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn
from torch.utils.hooks import RemovableHandle

from lightning_compress.callback.inputs import Inputs, on_cpu
from lightning_compress.coreml.export import CoreMLExport, ExportedPackage
from lightning_compress.methods.mechanism.agreement import Call, require_agreement
from lightning_compress.methods.mechanism.copies import copy_module
from lightning_compress.methods.mechanism.preparation import PreparedModule


@dataclasses.dataclass(frozen=True)
class Finished:
    """A module at the end of its compression.

    Attributes:
        finalized: What is exported.
        trained: What the package has to compute: a copy of the prepared module on the CPU, in float32 and evaluation
            mode; the finalized module where a schedule was cut short.
    """

    finalized: nn.Module
    trained: nn.Module

    def export(
        self, export: CoreMLExport, example_inputs: Inputs, prepared: PreparedModule
    ) -> ExportedPackage:
        """Write the package, judged by what was trained.

        Raises:
            CompressionError: As `CoreMLExport.run` raises it.
        """
        return export.run(
            self.finalized,
            example_inputs,
            prepared.capabilities,
            reference=self.trained,
            dense_reasons=prepared.dense_reasons(),
        )


def finish(prepared: PreparedModule, calls: Sequence[Call]) -> Finished:
    """Finalize a copy, and compare it with the prepared module in evaluation.

    Args:
        prepared: The prepared module; it is not changed.
        calls: Inputs to compare on.

    Raises:
        WeightError: A weight holds NaN or infinity.
        CompressionError: A technique has seen no data.
        VerificationError: The two differ beyond rounding.
    """
    finalized = prepared.finalize()
    if prepared.unfinished():
        # What has not begun in training is put in place at its end, and changes the module.
        return Finished(finalized, finalized)
    trained = copy_module(prepared.module)
    require_agreement(trained, finalized, calls)
    return Finished(finalized, trained)


def rehearse(prepared: PreparedModule, export: CoreMLExport, example_inputs: Inputs) -> float:
    """Find out before training whether the end of the fit can succeed: finalize, convert and load, and write nothing.

    The fit that follows draws the random numbers that it would have drawn without it.

    Args:
        prepared: The prepared module; it is not changed.
        export: What is asked for.
        example_inputs: Inputs of the module by position or by name.

    Returns:
        Seconds that it took.

    Raises:
        CompressionError: What would have ended the fit after its last step.
    """
    started = time.perf_counter()
    # A network that draws random numbers in its forward draws some here, on one process of several.
    with isolate_rng():
        finalized = prepared.finalize([example_inputs], rehearses=True)
        trained = copy_module(prepared.module)
        export.rehearse(finalized, example_inputs, prepared.capabilities, reference=trained)
    return time.perf_counter() - started


def export_in_rehearsal(export: CoreMLExport) -> CoreMLExport:
    """The export of a fit that only rehearses the code (`fast_dev_run`).

    It must not replace a package that somebody ships, and a network after one step may overflow in half precision:
    nothing to judge a package by.
    """
    return dataclasses.replace(export, path=path_in_rehearsal(Path(export.path)), verify=False)


def path_in_rehearsal(path: Path) -> Path:
    """Where such a fit writes its package."""
    return path.with_name(f"{path.stem}.fast_dev_run{path.suffix}")


class InputRecorder:
    """Keeps what a module is called with first, in validation, to compare on real data at the end.

    Attributes:
        call: The last inputs kept, on the CPU, or None.
    """

    def __init__(self) -> None:
        self.call: Call | None = None
        self._handle: RemovableHandle | None = None

    def listen(self, module: nn.Module) -> None:
        """Keep the inputs of the next call."""
        self.stop()
        self._handle = module.register_forward_pre_hook(self._keep, with_kwargs=True)

    def stop(self) -> None:
        """Listen no longer."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def calls(self, example_inputs: Inputs | None) -> list[Call]:
        """The example inputs and what was kept, as inputs on the CPU in float32."""
        if example_inputs is None:
            given = []
        elif isinstance(example_inputs, dict):
            given = [Call((), on_cpu(example_inputs))]
        else:
            given = [Call(on_cpu(example_inputs), {})]
        return given + ([] if self.call is None else [self.call])

    def _keep(self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        self.call = Call(on_cpu(arguments), on_cpu(keywords))
        self.stop()
