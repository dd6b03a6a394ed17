"""What the docstrings promise: every public name is described, with its arguments, and the examples run."""

from __future__ import annotations

import doctest
import enum
import importlib
import inspect
import pkgutil
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import lightning as L
import numpy as np
import pytest
import rich
import torch
import torchvision
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

import lightning_compress
from lightning_compress import Compression, CoreMLExport, DKMPalettization, coreml, methods, runtime
from lightning_compress.coreml import ImageInput
from lightning_compress.methods.mechanism.tensors import find_tensors
from tests.conftest import DigitData, DigitModule

ROOT = Path(__file__).resolve().parents[1]

REFERENCE = runpy.run_path(str(ROOT / ".ci" / "docs.py"))["AREAS"]
"""The areas that the API reference shows, each by the names in its `__all__`."""

LOADER = "lightning_compress.dkm.native._passes"
"""The compiled passes, which are no Python module."""


def modules() -> list[str]:
    """The names of all modules that are installed."""
    found = ["lightning_compress", "lightning_compress.recipes"]
    # The recipes lie beside the package until it is installed.
    for area in list(found):
        path = importlib.import_module(area).__path__
        found += [module.name for module in pkgutil.walk_packages(path, f"{area}.")]
    return sorted({*found} - {LOADER})


def public_objects() -> Iterator[tuple[str, object]]:
    """The classes and functions of the reference, each once."""
    seen: set[int] = set()
    for area in REFERENCE:
        module = importlib.import_module(area)
        for name in module.__all__:
            value = getattr(module, name)
            if id(value) not in seen and (inspect.isclass(value) or inspect.isfunction(value)):
                seen.add(id(value))
                yield f"{area}.{name}", value


def members(owner: type) -> Iterator[tuple[str, object]]:
    """Public methods and properties that a class of this package defines."""
    for name, value in vars(owner).items():
        if isinstance(value, classmethod | staticmethod):
            value = value.__func__
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
            yield name, value


def defined_in(module: ModuleType) -> Iterator[tuple[str, object]]:
    """Public classes and functions of a module, and what its classes define."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            yield name, value
            yield from ((f"{name}.{member}", given) for member, given in members(value))


@pytest.mark.parametrize("name", modules())
def test_a_module_and_all_that_is_public_in_it_say_what_they_are(name):
    module = importlib.import_module(name)
    assert module.__doc__
    assert [
        member for member, value in defined_in(module) if not (getattr(value, "__doc__", "") or "").strip()
    ] == []


def undescribed_parameters(value: object) -> list[str]:
    """Parameters that a docstring does not name under "Args:" or "Attributes:"."""
    text = inspect.getdoc(value) or ""
    if inspect.isclass(value) and issubclass(value, enum.Enum):
        return []
    if inspect.isclass(value):
        for base in value.__mro__[1:]:
            # A subclass takes what its base takes, and says only what is new.
            if base.__module__.startswith("lightning_compress"):
                text += "\n" + (inspect.getdoc(base) or "")
    described = set(re.findall(r"^ +\*{0,2}(\w+)(?: \(.*?\))?:", text, re.MULTILINE))
    parameters = inspect.signature(value).parameters.values()  # type: ignore[arg-type]
    unnamed = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [one.name for one in parameters if one.name not in described and one.kind not in unnamed]


@pytest.mark.parametrize(("name", "value"), [pytest.param(*one, id=one[0]) for one in public_objects()])
def test_each_argument_of_what_the_reference_shows_is_described(name, value):
    assert undescribed_parameters(value) == []


class Classifier(nn.Module):
    """Small enough to convert in a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layer(image.mean((2, 3))).softmax(-1)


class Detector(nn.Module):
    """Two boxes of a class each."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 10)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values = self.layer(image.mean((2, 3))).sigmoid()[0]
        return values[:2, None], values[2:].reshape(2, 4)


@pytest.fixture(scope="module")
def example_folder(tmp_path_factory):
    """What the examples read."""
    folder = tmp_path_factory.mktemp("examples")
    compression = Compression(DKMPalettization(n_bits=2), module="model")
    saving = ModelCheckpoint(folder, save_last=True)
    quiet_trainer(max_epochs=1, callbacks=[compression, saving], enable_checkpointing=True).fit(
        DigitModule(), datamodule=DigitData()
    )
    image = torch.zeros(1, 3, 224, 224)
    for name, module, outputs in (
        ("classifier", Classifier(), ["probabilities"]),
        ("detector", Detector(), ["confidence", "coordinates"]),
    ):
        export = CoreMLExport(
            folder / f"{name}.mlpackage", image=ImageInput(scale=1 / 255), output_names=outputs, card=False
        )
        export.run(module.eval(), image)
    return folder


def quiet_trainer(**settings):
    """What the examples call a Trainer, without its loggers and bars, and for one epoch."""
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return L.Trainer(**{**quiet, **settings, "max_epochs": 1})


@pytest.fixture(scope="module")
def names(example_folder):
    """What the examples take for granted: the imports of a training script, its module and its data."""
    return {
        **{name: getattr(area, name) for area in (coreml, lightning_compress) for name in area.__all__},
        "np": np,
        "nn": nn,
        "rich": rich,
        "torch": torch,
        "torchvision": torchvision,
        "runtime": runtime,
        "L": SimpleNamespace(Trainer=quiet_trainer),
        "LitClassifier": DigitModule,
        "lit": DigitModule(),
        "data": DigitData(),
        "images": torch.rand(2, 3, 224, 224),
        "compression": Compression.load_from_checkpoint(example_folder / "last.ckpt", DigitModule()),
    }


def data_to_compress_by() -> dict[str, object]:
    """What the examples of methods that are driven by data take for granted: a network of their own, and data."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    pairs = [(torch.rand(1, 64), torch.tensor([label])) for label in range(10)]
    return {
        "F": nn.functional,
        "PreparedModule": methods.PreparedModule,
        "calibrate": methods.calibrate,
        "squared_gradients": methods.squared_gradients,
        "find_tensors": find_tensors,
        "net": network,
        "network": network,
        "pairs": pairs,
        "examples": pairs,
        "loss": lambda pair: nn.functional.cross_entropy(network(pair[0]), pair[1]),
        "batches": [torch.rand(8, 64)],
    }


class WhatIsSaid(doctest.OutputChecker):
    """Compares what an example says that it prints; tables that it does not show are not compared."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


def examples() -> list[doctest.DocTest]:
    """The examples of all modules, one test for each docstring."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [
        test
        for name in modules()
        for test in finder.find(importlib.import_module(name), name)
        if test.examples
    ]


@pytest.mark.parametrize("example", examples(), ids=lambda test: test.name)
def test_an_example_prints_what_it_says(example, names, example_folder, tmp_path, monkeypatch):
    for path in example_folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    example.globs.update({**data_to_compress_by(), **names})
    runner = doctest.DocTestRunner(WhatIsSaid(), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    printed: list[str] = []
    assert runner.run(example, out=printed.append, clear_globs=False).failed == 0, "".join(printed)


def test_no_example_is_skipped():
    skipped = [test.name for test in examples() if any(doctest.SKIP in one.options for one in test.examples)]
    assert skipped == []


@pytest.mark.slow
def test_the_reference_is_built_without_a_warning(tmp_path):
    pytest.importorskip("pdoc", reason="the reference needs pdoc: pip install -e '.[docs]'")
    result = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "docs.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "lightning_compress.html").read_text()
    assert "class" in page
    assert all(name in page for name in lightning_compress.__all__)
