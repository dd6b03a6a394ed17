"""The subcommands: what each is for, and which key a lone path stands for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A subcommand of `lightning-compress`.

    Attributes:
        summary: What it does, in a line.
        path_key: The key whose value may be given alone, without `key=`; None where there is no such key.
        example: How it is called.
    """

    summary: str
    path_key: str | None
    example: str


COMMANDS = {
    "train": Command(
        "train a recipe, compress it, export packages, and compare their size and quality",
        None,
        "lightning-compress train recipe=ssd_resnet18 compression=palettize_2bit",
    ),
    "curve": Command(
        "measure quality over compression, after training and in training, and draw the curve",
        None,
        "lightning-compress curve recipe=resnet50 curve.bits=[4,2,1] curve.sparsities=[0.5,0.9]",
    ),
    "explore": Command(
        "search for the smallest package that still does the job, without training first and then with",
        None,
        "lightning-compress explore recipe=ssd_resnet18 weights=float.ckpt explore.max_drop=0.01",
    ),
    "export": Command(
        "write the package of a checkpoint, without training",
        "ckpt",
        "lightning-compress export last.ckpt recipe=ssd_resnet18",
    ),
    "compress": Command(
        "compress the weights of a Core ML package that is there, without data, and show what that changes",
        "package",
        "lightning-compress compress net.mlpackage palettize=[6,4,2]",
    ),
    "inspect": Command(
        "show what a Core ML package holds: operations, weights, compression, inputs and outputs",
        "package",
        "lightning-compress inspect net.mlpackage",
    ),
    "profile": Command(
        "time the packages of a search by Core ML, here or on a Mac that they are carried to",
        "folder",
        "lightning-compress profile outputs/explore/2026-11-28_12-00-00",
    ),
    "verify": Command(
        "compare a Core ML package with its torch model, output by output and by its metric",
        "package",
        "lightning-compress verify net.mlpackage recipe=ssd_resnet18 checkpoint=last.ckpt",
    ),
}
