"""Mistakes that are typed after `lightning-compress`, each in a process of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lightning_compress import CoreMLExport
from tests.commands.tiny import WORDS
from tests.mistakes.bench import Mistake, Network


def package(folder: Path) -> None:
    CoreMLExport(folder / "net.mlpackage", card=False).run(Network().eval(), torch.rand(1, 64))


def save(module: nn.Module, inputs: Tensor, path: Path) -> None:
    torch.export.save(torch.export.export(module.eval(), (inputs,)), path)


def package_beside_another_module(folder: Path) -> None:
    package(folder)
    save(nn.Linear(8, 2), torch.rand(1, 8), folder / "other.pt2")


def package_and_other_array(folder: Path) -> None:
    package(folder)
    save(Network(), torch.rand(1, 64), folder / "net.pt2")
    np.savez(folder / "other.npz", other=np.zeros((2, 64), np.float32))


def package_and_text(folder: Path) -> None:
    package(folder)
    text(folder)


def text(folder: Path) -> None:
    (folder / "text.ckpt").write_text("hello")


def weights(folder: Path) -> None:
    torch.save({"state_dict": Network().state_dict()}, folder / "weights.ckpt")


def package_and_weights(folder: Path) -> None:
    package(folder)
    weights(folder)


def empty_folder(folder: Path) -> None:
    (folder / "empty").mkdir()


def small(name: str, told: str, *words: str, before: object = None) -> Mistake:
    """A mistake in a job that takes seconds."""
    return Mistake(name, told, words=("train", *WORDS, *words), before=before)  # type: ignore[arg-type]


TRAIN = [
    Mistake("a command misspelt", "unknown command 'trian'; did you mean 'train'", words=("trian",)),
    Mistake("an option misspelt", "'--halp' is no option; did you mean '--help'", words=("train", "--halp")),
    small(
        "a key misspelt",
        "float_fit.trainer.max_epoch is unknown; did you mean .*max_epochs",
        "float_fit.trainer.max_epoch=3",
    ),
    small(
        "a length for both fits",
        "trainer.max_epochs is unknown; did you mean float_fit",
        "trainer.max_epochs=3",
    ),
    small(
        "a recipe that there is not", "recipe=resnet51 is unknown; did you mean 'resnet50'", "recipe=resnet51"
    ),
    small(
        "a compression that there is not",
        "palettize_3bit is unknown; did you mean 'palettize_4bit'",
        "compression=palettize_3bit",
    ),
    small(
        "data of another group",
        "data=palettize_2bit is unknown.*There is compression=palettize_2bit",
        "data=palettize_2bit",
    ),
    small("a key taken away that is needed", "would take away a key that is needed", "~recipe.metric"),
    small(
        "a key that the job fills in",
        "export.path=x.mlpackage would be without effect.*hydra.run.dir",
        "export.path=x.mlpackage",
    ),
    small(
        "a word as a number",
        "max_steps=many is a text; a whole number is needed",
        "float_fit.trainer.max_steps=many",
    ),
    small("a seed below zero", "seed=-1 is out of range", "seed=-1"),
    small("a fraction as a seed", "seed=1.5 is a number; a whole number is needed", "seed=1.5"),
    small("one width that is no list", r"post_training_bits=4 is a number; a list", "post_training_bits=4"),
    small(
        "a width that no package has",
        r"post_training_bits=\[5\].*valid are \(1, 2, 3, 4, 6, 8\)",
        "post_training_bits=[5]",
    ),
    small(
        "a batch of nothing", "data.batch_size=0 must be a whole number of at least 1", "data.batch_size=0"
    ),
    small(
        "a learning rate below zero, in the second fit",
        "learning_rate=-1 is out of range",
        "recipe.module._target_=lightning_compress.recipes.resnet50.ImageClassifier",
        "compressed_fit.module.learning_rate=-1",
    ),
    small(
        "a sparsity in percent",
        r"target_sparsity .* is 75; valid is a number in \[0, 1\)",
        "compression=prune_75",
        "compression.methods.pruning.target_sparsity=75",
    ),
    small("data without a root", "data.root has no default; give data.root=", "data=coco"),
    small(
        "a root that is missing",
        "Data folder 'nowhere/train' does not exist",
        "data=image_folder",
        "data.root=nowhere",
    ),
    small(
        "a root without its parts",
        "'empty/train' does not exist; data.root must hold",
        "data=image_folder",
        "data.root=empty",
        before=empty_folder,
    ),
    small(
        "a network that is no part",
        "recipe.network='modell' is no module of Classifier; did you mean 'model'",
        "recipe.network=modell",
    ),
    small(
        "a class that cannot be imported",
        "recipe.module._target_=nowhere.Net: 'nowhere' is not installed, and there is no nowhere.py",
        "recipe.module._target_=nowhere.Net",
    ),
    small(
        "weights that are missing", "float_fit.weights='none.ckpt' is no file", "float_fit.weights=none.ckpt"
    ),
    small(
        "weights that are a text",
        "'text.ckpt' cannot be read as a checkpoint: it is no file of torch.save",
        "float_fit.weights=text.ckpt",
        before=text,
    ),
    small(
        "weights of another network",
        "'weights.ckpt' fits neither Classifier .*missing",
        "float_fit.weights=weights.ckpt",
        before=weights,
    ),
    small(
        "a checkpoint of weights to go on from",
        "holds weights alone.*set float_fit.weights",
        "float_fit.ckpt_path=weights.ckpt",
        before=weights,
    ),
    small(
        "a checkpoint of another fit",
        "compressed_fit.ckpt_path='weights.ckpt': .* no state of Compression",
        "compressed_fit.ckpt_path=weights.ckpt",
        before=weights,
    ),
    small(
        "a metric that nobody logs",
        "'val/accurac' is not among what .* did you mean 'val/accuracy'",
        "recipe.metric=val/accurac",
    ),
    small(
        "a target that cannot carry a joint",
        "'iOS16' cannot carry more than one compression.*is iOS18",
        "compression=prune_50_palettize_4bit",
        "export.minimum_deployment_target=iOS16",
    ),
    small(
        "a layer that is not there",
        "module_name_configs.'modl'. .*matches no module",
        "+compression.methods.palettization.module_name_configs={modl:null}",
    ),
    small(
        "a schedule longer than its fit",
        "ends at optimizer step 5001, but the fit has 12",
        "compression=quantize_w8a8",
        "compression.methods.quantization.milestones=[0,1,2,5000]",
    ),
    small(
        "integers in half precision, in the second fit",
        "'bf16-true' turns the weights",
        "compression=quantize_w8",
        "+compressed_fit.trainer.precision=bf16-true",
    ),
    small(
        "a strategy that shards, in the second fit",
        "cannot be used|shards",
        "+compressed_fit.trainer.strategy=fsdp",
    ),
    small(
        "a folder that cannot be written", "the folder '/proc/x' cannot be written", "hydra.run.dir=/proc/x"
    ),
    small("a folder of no job", "resume='nowhere' holds no job", "resume=nowhere"),
]
"""Mistakes in a job."""

OTHERS = [
    Mistake("no package to inspect", "package is empty", words=("inspect",)),
    Mistake("a package that is missing", "none.mlpackage", words=("inspect", "package=none.mlpackage")),
    Mistake(
        "a folder that is no package", "no Manifest.json", words=("inspect", "empty"), before=empty_folder
    ),
    Mistake(
        "a group where none is",
        "recipe is no group of lightning-compress inspect",
        words=("inspect", "net.mlpackage", "recipe=resnet50"),
        before=package,
    ),
    Mistake(
        "a report into no folder",
        "is in a folder that does not exist",
        words=("inspect", "net.mlpackage", "json=no/x.json"),
        before=package,
    ),
    Mistake(
        "nothing to verify with",
        "there is nothing to compare the package with; give recipe=",
        words=("verify", "net.mlpackage"),
        before=package,
    ),
    Mistake(
        "a text to verify with",
        "is neither a TorchScript archive nor a .pt2 program",
        words=("verify", "net.mlpackage", "checkpoint=text.ckpt"),
        before=package_and_text,
    ),
    Mistake(
        "another module to verify with",
        r"cannot be run on inputs of the shapes \[1, 64\], so that",
        words=("verify", "net.mlpackage", "checkpoint=other.pt2"),
        before=package_beside_another_module,
    ),
    Mistake(
        "weights of another recipe to verify with",
        "checkpoint='weights.ckpt' fits neither ImageClassifier",
        words=("verify", "net.mlpackage", "recipe=resnet50", "checkpoint=weights.ckpt"),
        before=package_and_weights,
    ),
    Mistake(
        "arrays of another name",
        "'other.npz' has no array input; it has other",
        words=("verify", "net.mlpackage", "checkpoint=net.pt2", "inputs=other.npz"),
        before=package_and_other_array,
    ),
    Mistake(
        "no samples",
        "samples=0 is out of range",
        words=("verify", "net.mlpackage", "samples=0"),
        before=package,
    ),
    Mistake(
        "no batches",
        "limit_batches=0 is out of range",
        words=("verify", "net.mlpackage", "limit_batches=0"),
        before=package,
    ),
    Mistake("no checkpoint to export", "ckpt is empty", words=("export",)),
    Mistake(
        "a checkpoint that is missing", "there is no checkpoint at 'none.ckpt'", words=("export", "none.ckpt")
    ),
    Mistake(
        "a checkpoint that is a text",
        "'text.ckpt' cannot be read as a checkpoint: it is no file of torch.save",
        words=("export", "text.ckpt"),
        before=text,
    ),
    Mistake(
        "a checkpoint without compression",
        "holds no state of Compression",
        words=("export", "weights.ckpt"),
        before=weights,
    ),
    Mistake(
        "a package of another ending",
        "does not end in '.mlpackage'; did you mean 'net.mlpackage'",
        words=("export", "weights.ckpt", "path=net.mlmodel"),
        before=weights,
    ),
    Mistake(
        "nothing asked of compress",
        "nothing is asked for; give prune, palettize or quantize",
        words=("compress", "net.mlpackage"),
        before=package,
    ),
    Mistake(
        "no width in a list",
        r"palettize=\[\] asks for no package",
        words=("compress", "net.mlpackage", "palettize=[]"),
        before=package,
    ),
    Mistake(
        "a width that there is not",
        "palettize=5 is no width",
        words=("compress", "net.mlpackage", "palettize=5"),
        before=package,
    ),
    Mistake(
        "percent to prune",
        "prune=75 is no share between 0 and 1",
        words=("compress", "net.mlpackage", "prune=75"),
        before=package,
    ),
    Mistake(
        "a joint that cannot be",
        "quantize='int4' cannot be joined with palettize",
        words=("compress", "net.mlpackage", "palettize=4", "quantize=int4"),
        before=package,
    ),
    Mistake(
        "groups below their target",
        "minimum_deployment_target='iOS18'",
        words=("compress", "net.mlpackage", "palettize=4", "group_size=8"),
        before=package,
    ),
    Mistake(
        "a configuration that is missing",
        "'none.yaml' cannot be read as a configuration",
        words=("compress", "net.mlpackage", "configuration=none.yaml"),
        before=package,
    ),
]
"""Mistakes with packages and checkpoints."""

COMMANDS = [*TRAIN, *OTHERS]
