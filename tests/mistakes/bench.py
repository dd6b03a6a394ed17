"""What a mistake is, how one is made, and who tells it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_compress import Compression
from lightning_compress.errors import CompressionError


@dataclass(frozen=True)
class Mistake:
    """Something that people get wrong.

    Attributes:
        name: What, in few words.
        told: A regular expression that is found in what is told.
        call: Makes it in Python.
        words: Or what is typed after `lightning-compress`.
        before: Lays what the words name, into the folder where they are typed.
        is_refused: Whether it is an error; some are only said, and the fit goes on.
    """

    name: str
    told: str
    call: Callable[[Bench], object] | None = None
    words: tuple[str, ...] = ()
    is_refused: bool = True
    before: Callable[[Path], object] | None = None


@dataclass(frozen=True)
class Outcome:
    """How a mistake was told.

    Attributes:
        told_by: The type of the error, "warning", "table", or what went wrong.
        seconds: Until it was told.
        message: What was told.
        is_told: Whether that was before the first step, by an error of ours, and in the words asked for.
    """

    told_by: str
    seconds: float
    message: str
    is_told: bool


class TrainingBeganError(Exception):
    """The first step is taken: too late to tell anything."""


class Network(nn.Module):
    """Two layers, the first large enough for a palette."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, 64)
        self.head = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Any:
        return self.head(torch.relu(self.hidden(x)))


class Practice(L.LightningModule):
    """A module whose training never begins."""

    def __init__(self, network: nn.Module | None = None, inputs: Any = None) -> None:
        super().__init__()
        self.model = Network() if network is None else network
        self.example_input_array = torch.zeros(1, 64) if inputs is None else inputs

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise TrainingBeganError

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.zeros(8, 64)), batch_size=2)


class Bench:
    """Where mistakes are made.

    Args:
        folder: Where they may write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.package = folder / "net.mlpackage"

    def fit(self, compression: Compression, module: L.LightningModule | None = None, **settings: Any) -> None:
        """Fit, as far as the first step."""
        trainer = L.Trainer(
            **{
                "max_epochs": 1,
                "accelerator": "cpu",
                "logger": False,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "default_root_dir": str(self.folder),
                "callbacks": [compression],
                **settings,
            }
        )
        trainer.fit(Practice() if module is None else module)


def make(mistake: Mistake, folder: Path) -> Outcome:
    """Make a mistake, and see who tells it."""
    return _call(mistake, folder) if mistake.call is not None else _type(mistake, folder)


def _call(mistake: Mistake, folder: Path) -> Outcome:
    assert mistake.call is not None
    torch.manual_seed(0)
    printed = io.StringIO()
    started = time.perf_counter()
    with _quiet(), warnings.catch_warnings(record=True) as warned, contextlib.redirect_stdout(printed):
        warnings.simplefilter("always")
        try:
            mistake.call(Bench(folder))
        except CompressionError as error:
            return _judged(mistake, type(error).__name__, time.perf_counter() - started, str(error))
        except TrainingBeganError:
            pass
        except Exception as error:
            return Outcome(f"{type(error).__name__}!", time.perf_counter() - started, str(error), False)
    seconds = time.perf_counter() - started
    said = [str(warning.message) for warning in warned]
    if mistake.is_refused:
        return Outcome("nobody!", seconds, " ".join([*said, printed.getvalue()]), False)
    if any(re.search(mistake.told, text) for text in said):
        return Outcome("warning", seconds, " ".join(said), True)
    return _judged(mistake, "table", seconds, printed.getvalue())


def _type(mistake: Mistake, folder: Path) -> Outcome:
    """Run a command as its user would; a fit that began has left a checkpoint or numbers of its steps."""
    laid = lay(mistake, folder)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    started = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-m", "lightning_compress.cli", *mistake.words],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        check=False,
    )
    seconds = time.perf_counter() - started
    return judge(mistake, folder, laid, result.returncode, result.stdout + result.stderr, seconds)


def lay(mistake: Mistake, folder: Path) -> set[Path]:
    """Lay what a mistake names into a folder; the checkpoints that lie there then."""
    if mistake.before is not None:
        mistake.before(folder)
    return set(folder.rglob("*.ckpt"))


def judge(
    mistake: Mistake, folder: Path, laid: set[Path], code: int, text: str, seconds: float = 0.0
) -> Outcome:
    """How a mistake was told that was typed in a folder, by the status of the command and what it has printed."""
    if "Traceback (most recent call last)" in text:
        return Outcome("a traceback!", seconds, text, False)
    if set(folder.rglob("*.ckpt")) - laid or any(folder.rglob("metrics.csv")):
        return Outcome("too late!", seconds, text, False)
    if bool(code) != mistake.is_refused:
        return Outcome(f"exit {code}!", seconds, text, False)
    return _judged(mistake, f"exit {code}", seconds, text)


def _judged(mistake: Mistake, told_by: str, seconds: float, message: str) -> Outcome:
    is_told = re.search(mistake.told, message, re.DOTALL) is not None
    return Outcome(told_by if is_told else f"{told_by}, in other words!", seconds, message, is_told)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Lightning says on each fit what devices there are."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
