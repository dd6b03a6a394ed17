"""Both recipes, at float16 and with every shipped compression: trained a little, exported, verified.

Prints how far each package is from its torch model on validation images, as `lightning-compress verify` finds it:

    python tests/benchmarks/verify_recipes.py --steps 60 --compressed-steps 40

`--set` passes overrides on, such as `--set recipe.module.weights=resnet18.pth`. With `--folder` checkpoints are kept,
and what was trained there before is exported and verified as it is, whatever the steps asked for. The exit status is 1
if a package differs from its model.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_module
from rich.console import Console
from rich.table import Table

from lightning_compress.commands import export, verify
from lightning_compress.commands.train import TrainingJob
from lightning_compress.errors import VerificationError

DATA = {
    "ssd_resnet18": [
        "data.image_size=300",
        "data.train_images=64",
        "data.val_images=40",
        "data.batch_size=8",
    ],
    "resnet50": ["data.image_size=32"],
}
COMPRESSIONS = [
    "none",
    "palettize_4bit",
    "palettize_2bit",
    "prune_75",
    "quantize_w8",
    "quantize_w8a8",
    "prune_50_palettize_4bit",
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the result is the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--compressions", nargs="+", default=COMPRESSIONS, choices=COMPRESSIONS)
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of the float fit")
    parser.add_argument("--compressed-steps", type=int, default=40)
    parser.add_argument("--samples", type=int, default=16, help="images compared output by output")
    parser.add_argument("--folder", type=Path, help="where checkpoints are kept")
    parser.add_argument(
        "--set", nargs="*", default=[], dest="overrides", help="further overrides of the recipe"
    )
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    table = Table("recipe", "compression", "output", "largest", "mean", "metric", "torch", "package", "")
    passed = True
    console = Console(width=140)
    for recipe in given.recipes:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(given.folder or temporary).absolute() / recipe
            for name, result in _verify_recipe(recipe, folder, given):
                passed = passed and result["passed"]
                _add_rows(table, recipe, name, result)
                console.print(f"{recipe} {name}: {'ok' if result['passed'] else 'differs'}")
    console.print(table)
    return 0 if passed else 1


def _verify_recipe(recipe: str, folder: Path, given: argparse.Namespace) -> Any:
    shared = [f"recipe={recipe}", *DATA[recipe], *given.overrides]
    float_checkpoint = folder / "none" / "float_fit" / "checkpoints" / "last.ckpt"
    if "none" in given.compressions or not float_checkpoint.exists():
        _train(shared, "none", folder, float_checkpoint, given)
    for name in given.compressions:
        own = folder / name
        checkpoint = (
            float_checkpoint if name == "none" else own / "compressed_fit" / "checkpoints" / "last.ckpt"
        )
        package = own / ("float16.mlpackage" if name == "none" else f"{name}.mlpackage")
        if name != "none" and checkpoint.exists():
            with contextlib.redirect_stdout(io.StringIO()):
                export.run(_compose("export", *shared, f"ckpt='{checkpoint}'", f"path='{package}'"))
        elif name != "none":
            _train(shared, name, folder, float_checkpoint, given)
        yield package.stem, _verify(shared, package, checkpoint, given)


def _train(
    shared: Sequence[str], name: str, folder: Path, float_checkpoint: Path, given: argparse.Namespace
) -> None:
    """A fit of `name` from the float weights; where there are none yet, their fit."""
    start = (
        ["float_fit.enabled=false", f"float_fit.weights='{float_checkpoint}'"]
        if float_checkpoint.exists()
        else [f"++float_fit.trainer.max_steps={given.steps}", "++float_fit.trainer.max_epochs=-1"]
    )
    config = _compose(
        "train",
        *shared,
        *start,
        f"compression={name}",
        f"++compressed_fit.trainer.max_steps={given.compressed_steps}",
        "++compressed_fit.trainer.max_epochs=-1",
        "post_training_bits=[]",
        "pictures.count=0",
        "callbacks.progress_bar=null",
        "callbacks.learning_rate=null",
        "trainer.accelerator=cpu",
        "trainer.limit_val_batches=0",
    )
    own = folder / name
    own.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(io.StringIO()):
        TrainingJob(config, own).run()


def _verify(
    shared: Sequence[str], package: Path, checkpoint: Path, given: argparse.Namespace
) -> dict[str, Any]:
    report = package.with_suffix(".json")
    report.unlink(missing_ok=True)
    config = _compose(
        "verify",
        *shared,
        f"package='{package}'",
        f"checkpoint='{checkpoint}'",
        f"samples={given.samples}",
        f"json='{report}'",
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(VerificationError):
        verify.run(config)
    content: dict[str, Any] = json.loads(report.read_text())
    return content


def _compose(command: str, *overrides: str) -> Any:
    with initialize_config_module("lightning_compress.conf", version_base="1.3"):
        return compose(command, overrides=list(overrides))


def _add_rows(table: Table, recipe: str, name: str, result: dict[str, Any]) -> None:
    metric = result["metric"]
    for index, output in enumerate(result["runs"][0]["outputs"]):
        pixel = output["pixels"]
        largest, mean = (
            f"{output[key] / pixel:.3f} px" if pixel else f"{output[key]:.2e}" for key in ("largest", "mean")
        )
        rest = (
            (metric["name"], f"{metric['module']:.4f}", f"{metric['package']:.4f}")
            if index == 0
            else ("", "", "")
        )
        passed = output["passed"] and (metric["passed"] or index > 0)
        table.add_row(recipe, name, output["name"], largest, mean, *rest, "ok" if passed else "differs")


if __name__ == "__main__":
    sys.exit(main())
