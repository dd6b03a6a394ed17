"""Small fits of networks that people bring, and what a right result of one is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from lightning_compress import (
    Compression,
    CoreMLExport,
    DKMPalettization,
    LinearQuantization,
    MagnitudePruning,
    runtime,
)
from lightning_compress.errors import CompressionError
from lightning_compress.methods import Method
from lightning_compress.package.inspection import Layer
from tests.training import Inputs, Training, outputs_of

STEPS = 3
LARGE = 256
"""Weights of this many values and two dimensions are looked at in the package."""


def of_shape(*shape: int) -> Inputs:
    """Samples of normal noise."""
    return lambda count: torch.randn(count, *shape)


def tokens(vocabulary: int, length: int = 8) -> Inputs:
    """Samples of random tokens."""
    return lambda count: torch.randint(0, vocabulary, (count, length))


def palettized(**keys: Any) -> DKMPalettization:
    """Palettes of 16 values, for small weights too."""
    return DKMPalettization(**{"n_bits": 4, "weight_threshold": 0, **keys})


def int8_weights(**keys: Any) -> LinearQuantization:
    """Weights at 8 bits, activations as they are."""
    return LinearQuantization(activation_dtype="float32", **keys)


METHODS: dict[str, Callable[[], Method]] = {
    "palettized": palettized,
    "pruned": lambda: MagnitudePruning(target_sparsity=0.5),
    "quantized": int8_weights,
}
"""A method of each technique, by what it makes of a tensor."""


@dataclass
class Outcome:
    """A fit that ended, with its package."""

    training: Training
    compression: Compression

    @property
    def layers(self) -> list[Layer]:
        """The weights of the package that are no biases."""
        assert self.compression.exported is not None
        layers = self.compression.exported.report.layers
        return [layer for layer in layers if layer.parameters >= LARGE and len(layer.shape) > 1]

    @property
    def operations(self) -> dict[str, int]:
        """How many operations of each type the package has."""
        assert self.compression.exported is not None
        return dict(self.compression.exported.report.operations)

    def check_right(self, *, finalized: float = 1e-3, package: float = 3e-2) -> None:
        """Assert that the trained module in `eval()`, the finalized one and the package compute the same.

        Args:
            finalized: Largest difference of finalized from trained, as a share of the largest value.
            package: The same of the package, which computes in half precision.
        """
        assert self.compression.finalized is not None
        assert self.compression.exported is not None
        trained = self.training.model.eval()
        shipped = self.compression.finalized.eval()
        wrapper = self.compression.export.wrapper if self.compression.export else None
        program = runtime.load(self.compression.exported.path)
        names = [feature.name for feature in self.compression.exported.report.outputs]
        for sample in self.training.inputs(3).split(1):
            with torch.no_grad():
                expected = outputs_of((wrapper(trained).eval() if wrapper else trained)(sample))
                close(
                    outputs_of((wrapper(shipped).eval() if wrapper else shipped)(sample)), expected, finalized
                )
                found = program(sample)
            close([found[name] for name in names], expected, package)

    def check_stored(self, technique: str, *, bits: int | None = None, sparsity: float | None = None) -> None:
        """Assert that every weight of the package that is no bias is stored as asked."""
        assert self.layers
        for layer in self.layers:
            assert technique in layer.technique, layer
            if bits is not None:
                assert layer.bits == bits, layer
            if technique == "palettized":
                assert layer.distinct_values <= 2**layer.bits, layer
            if sparsity is not None:
                assert layer.sparsity == pytest.approx(sparsity, abs=0.03), layer


def close(found: list[Tensor], expected: list[Tensor], share: float) -> None:
    """Assert that tensors differ by no more than a share of the largest value; indices and masks in one of 200."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        if not other.is_floating_point():
            assert float((one.to(other.dtype) != other).float().mean()) <= 5e-3
            continue
        largest = float(other.abs().max())
        assert torch.isfinite(other).all()
        assert largest > 0
        difference = float((one.float() - other.float()).abs().max())
        assert difference <= share * largest, f"differs by {difference:.3g} of {largest:.3g}"


class TableBeforeTraining(L.Callback):
    """Keeps what was printed before the first step."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.printed = ""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.printed = self.capsys.readouterr().out

    def tells_dense(self, name: str) -> bool:
        """Whether a line says that the weight, or the module, of this name stays dense."""
        pattern = rf"^\W*stays dense:.*\s{re.escape(name)}(\.\w+)?(,|\s)"
        return re.search(pattern, self.printed, re.MULTILINE) is not None


class Fitting:
    """Fits networks with `Compression`, and writes their packages to a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trainer: L.Trainer | None = None

    @property
    def steps(self) -> int:
        """Optimizer steps that the last fit took."""
        assert self.trainer is not None
        return self.trainer.global_step

    def __call__(
        self,
        network: nn.Module,
        inputs: Inputs,
        *methods: Method,
        wrapper: Callable[[nn.Module], nn.Module] | None = None,
        callbacks: tuple[L.Callback, ...] = (),
    ) -> Outcome:
        """Fit `network` with `methods`, and export it."""
        export = CoreMLExport(self.folder / "net.mlpackage", wrapper=wrapper, card=False)
        compression = Compression(*methods, module="model", export=export)
        return self.run(Training(network, inputs, steps=STEPS), compression, *callbacks)

    def run(self, training: Training, compression: Compression, *callbacks: L.Callback) -> Outcome:
        """Fit a LightningModule of one's own."""
        self.trainer = L.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=str(self.folder),
            callbacks=[compression, *callbacks],
        )
        self.trainer.fit(training)
        assert self.steps == STEPS
        return Outcome(training, compression)

    def refusal(self, network: nn.Module, inputs: Inputs, *methods: Method, **settings: Any) -> str:
        """What the fit is refused with, before its first step."""
        with pytest.raises(CompressionError) as caught:
            self(network, inputs, *methods, **settings)
        assert self.steps == 0, f"told after {self.steps} steps: {caught.value}"
        return str(caught.value)

    def outcome_or_refusal(
        self, network: nn.Module, inputs: Inputs, *methods: Method, **settings: Any
    ) -> Outcome | str:
        """What the fit made, or what it is refused with before its first step."""
        try:
            return self(network, inputs, *methods, **settings)
        except CompressionError as error:
            refusal = str(error)
        assert self.steps == 0, f"told after {self.steps} steps: {refusal}"
        return refusal
