"""One network under one method: a fit of two steps as a user writes it, and what became of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from lightning_compress import (
    Compression,
    CoreMLExport,
    DKMPalettization,
    LinearQuantization,
    MagnitudePruning,
)
from lightning_compress.errors import CompressionError
from lightning_compress.methods import Method
from lightning_compress.package.inspection import Layer
from tests.benchmarks.breadth_networks import NETWORKS, Inputs
from tests.training import BATCH, Training

STEPS = 2

_SMALL = 2048
"""`weight_threshold`: weights of no more values than this stay dense under palettization."""

_STATE = 256
"""Constants of no more values than this are the states that recurrent layers begin with."""

_DENSE = 0.1
"""Largest share of the bytes of a package's layers that may stay dense."""

_SPARSITY = 0.03
"""How far a sparsity may be from what was asked."""

_DIFFERENCE, _QUANTIZED_DIFFERENCE = 1e-2, 0.15
"""Largest difference of finalized from trained, as a share of the largest value. Where activations are rounded, a
rounding that falls to the other side is carried on by every later layer."""

_LAYERS = ("conv", "conv_transpose", "linear", "matmul", "lstm", "gru", "rnn")
"""Operations whose weights every method takes."""


@dataclass(frozen=True)
class Asked:
    """What the weights of a method's package must be.

    Attributes:
        methods: Builds the methods.
        technique: A word of each layer's technique, or None for dense ones.
        bits: Bits of an index or of an integer.
        sparsity: Share of zeros.
        integers: Whether layers take integers as inputs.
    """

    methods: Callable[[], list[Method]]
    technique: str | None = None
    bits: int | None = None
    sparsity: float | None = None
    integers: bool = False


METHODS: dict[str, Asked] = {
    "plain": Asked(list),
    "palettize 4": Asked(lambda: [DKMPalettization(n_bits=4)], "palettized", 4),
    "palettize 2": Asked(lambda: [DKMPalettization(n_bits=2)], "palettized", 2),
    "prune 75%": Asked(lambda: [MagnitudePruning(target_sparsity=0.75)], "pruned", sparsity=0.75),
    "int8 weights": Asked(lambda: [LinearQuantization(activation_dtype="float32")], "quantized", 8),
    "int8 weights and activations": Asked(lambda: [LinearQuantization()], "quantized", 8, integers=True),
    "prune 50% + palettize 4": Asked(
        lambda: [MagnitudePruning(target_sparsity=0.5), DKMPalettization(n_bits=4)], "palettized", 4, 0.5
    ),
    "palettize 4 + int8 activations": Asked(
        lambda: [DKMPalettization(n_bits=4), LinearQuantization(weight_dtype="float32")],
        "palettized",
        4,
        integers=True,
    ),
}


@dataclass
class Cell:
    """The result of one network under one method.

    Attributes:
        network: A key of `NETWORKS`.
        method: A key of `METHODS`.
        outcome: "ok", "refused", "failed" or "wrong".
        reason: Why it is not ok.
        steps: Optimizer steps that were taken.
        seconds: How long it took, with its process.
        dense: Share of the bytes of all weights, at float16, that are stored dense.
        selected: Share of the finalized module's parameters that are compressed.
        difference: Largest difference of the finalized from the trained module, as a share of the largest value.
        distinct_values: Largest number of different values of a palettized layer.
        sparsity: Share of zeros in the layers that are pruned.
        quantize_operations: Operations of type `quantize` in the package.
        ratio: How many times smaller the weights are than at float16.
    """

    network: str
    method: str
    outcome: str
    reason: str = ""
    steps: int = 0
    seconds: float = 0.0
    dense: float | None = None
    selected: float | None = None
    difference: float | None = None
    distinct_values: int | None = None
    sparsity: float | None = None
    quantize_operations: int | None = None
    ratio: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain types."""
        return asdict(self)

    def line(self) -> str:
        """What is printed when it ends."""
        numbers = [
            f"{name} {value:.3g}"
            for name, value in (
                ("dense", self.dense),
                ("selected", self.selected),
                ("difference", self.difference),
                ("sparsity", self.sparsity),
                ("ratio", self.ratio),
            )
            if value is not None
        ]
        reason = " ".join(self.reason.split())[:160]
        return f"{self.network}, {self.method}: {self.outcome} in {self.seconds:.0f} s; {', '.join(numbers)} {reason}"


def calibrate(network: nn.Module, inputs: Inputs) -> None:
    """Give batch norms the statistics of a batch, so that random weights stay in the range of half precision.

    Args:
        network: The network, in place.
        inputs: Makes its inputs.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(*inputs(BATCH))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def run_cell(network: str, method: str) -> Cell:
    """Fit a network by a method and judge what it made.

    Args:
        network: A key of `NETWORKS`.
        method: A key of `METHODS`.
    """
    torch.set_num_threads(1)
    L.seed_everything(1, verbose=False)
    began = time.monotonic()
    cell = Cell(network, method, "ok")
    trainer: L.Trainer | None = None
    with tempfile.TemporaryDirectory() as folder:
        try:
            training = Training(*NETWORKS[network](), steps=STEPS, learning_rate=1e-4)
            calibrate(training.model, training.inputs)
            export = CoreMLExport(Path(folder) / "net.mlpackage")
            compression = Compression(*METHODS[method].methods(), module="model", export=export)
            trainer = L.Trainer(
                max_epochs=1,
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=folder,
                callbacks=[compression],
            )
            trainer.fit(training)
            wrong = _judge(cell, training, compression, METHODS[method])
            if wrong:
                cell.outcome, cell.reason = "wrong", "; ".join(wrong)
        except CompressionError as error:
            told_in_time = trainer is None or trainer.global_step == 0
            cell.outcome = "refused" if told_in_time else "failed"
            cell.reason = f"{type(error).__name__}: {error}"
        except Exception as error:
            cell.outcome, cell.reason = "failed", f"{type(error).__name__}: {error}"
    cell.steps = 0 if trainer is None else trainer.global_step
    cell.seconds = time.monotonic() - began
    return cell


def _judge(cell: Cell, training: Training, compression: Compression, asked: Asked) -> list[str]:
    """Fill in the numbers of a cell, and say what is not as asked."""
    exported = compression.exported
    assert exported is not None
    layers = [layer for layer in exported.report.layers if len(layer.shape) > 1]
    cell.ratio = exported.float16_weight_bytes / max(exported.weight_bytes, 1)
    cell.dense = 1.0 if asked.technique is None else _dense_share(layers, asked.technique)
    cell.selected = sum(one.parameters for one in compression.layers if one.technique != "dense") / max(
        sum(one.parameters for one in compression.layers), 1
    )
    cell.quantize_operations = int(exported.report.operations.get("quantize", 0))
    cell.difference = _difference(training, compression)
    wrong = _wrong_weights(cell, layers, asked) if asked.technique else []
    allowed = _QUANTIZED_DIFFERENCE if asked.integers else _DIFFERENCE
    if not cell.difference <= allowed:
        wrong.append(
            f"the finalized module differs from the trained one by {cell.difference:.3g} of the largest value"
        )
    if asked.integers and not cell.quantize_operations:
        wrong.append("no operation takes integers")
    return wrong


def _dense_share(layers: list[Layer], technique: str) -> float:
    total = sum(layer.float16_bytes for layer in layers)
    dense = sum(layer.float16_bytes for layer in layers if technique not in layer.technique)
    return dense / max(total, 1)


def _wrong_weights(cell: Cell, layers: list[Layer], asked: Asked) -> list[str]:
    assert asked.technique is not None
    wrong = []
    least = _SMALL if asked.technique == "palettized" else _STATE
    taken = [layer for layer in layers if layer.operation in _LAYERS and layer.parameters > least]
    stored = [layer for layer in layers if asked.technique in layer.technique]
    dense = [layer for layer in taken if asked.technique not in layer.technique]
    share = _dense_share(taken, asked.technique)
    if share > _DENSE or not stored:
        names = ", ".join(layer.name for layer in dense[:3])
        wrong.append(f"{share:.0%} of the bytes of layers are not {asked.technique}: {names}")
    if asked.technique == "palettized" and asked.bits is not None:
        cell.distinct_values = max((layer.distinct_values for layer in stored), default=0)
        if cell.distinct_values > 2**asked.bits:
            wrong.append(f"a palettized layer has {cell.distinct_values} values")
    if asked.bits is not None and any(layer.bits != asked.bits for layer in stored):
        wrong.append(f"bits are {sorted({layer.bits for layer in stored})} where {asked.bits} are asked")
    if asked.sparsity is not None:
        # Embeddings are palettized, and not pruned.
        pruned = [layer for layer in taken if asked.technique in layer.technique]
        zeros = sum(layer.sparsity * layer.parameters for layer in pruned)
        cell.sparsity = zeros / max(sum(layer.parameters for layer in pruned), 1)
        # An entry of a palette may be zero, and adds to the zeros of the mask.
        above = cell.sparsity - asked.sparsity if asked.technique == "pruned" else 0.0
        if above > _SPARSITY or cell.sparsity < asked.sparsity - _SPARSITY:
            wrong.append(f"sparsity is {cell.sparsity:.3f} where {asked.sparsity} is asked")
    return wrong


def _difference(training: Training, compression: Compression) -> float:
    """Of the finalized module from the trained one in `eval()`, as a share of the largest value."""
    assert compression.finalized is not None
    trained, finalized = training.model.eval(), compression.finalized.eval()
    example = training.example_input_array
    assert isinstance(example, tuple)
    with torch.no_grad():
        expected, found = trained(*example), finalized(*example)
    if not isinstance(expected, tuple):
        expected, found = (expected,), (found,)
    return max(
        float((one - other).abs().max() / other.abs().max().clamp(min=1e-12))
        for one, other in zip(found, expected, strict=True)
    )
