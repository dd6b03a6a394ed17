"""Mistakes that are told where something is made, before any fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lightning_compress import (
    Compression,
    CoreMLExport,
    DKMPalettization,
    LinearQuantization,
    MagnitudePruning,
)
from lightning_compress.coreml import ImageInput, NonMaximumSuppression, SizeRange, Tolerance
from lightning_compress.dkm import palettize
from tests.mistakes.bench import Bench, Mistake, Network


def compression(*arguments: Any, **keywords: Any) -> Any:
    return lambda bench: Compression(*arguments, **keywords)


def export(**keywords: Any) -> Any:
    return lambda bench: CoreMLExport(**{"path": "net.mlpackage", **keywords})


def palettes(**keywords: Any) -> Any:
    return lambda bench: DKMPalettization(**keywords)


def zeros(**keywords: Any) -> Any:
    return lambda bench: MagnitudePruning(**keywords)


def integers(**keywords: Any) -> Any:
    return lambda bench: LinearQuantization(**keywords)


def read(content: bytes) -> Any:
    def call(bench: Bench) -> None:
        path = bench.folder / "compression.yaml"
        path.write_bytes(content)
        DKMPalettization.from_yaml(path)

    return call


COMPRESSION = [
    Mistake("a list of methods", "a list|one by one", compression([DKMPalettization()])),
    Mistake(
        "a method's class", r"give an instance, DKMPalettization\(\.\.\.\)", compression(DKMPalettization)
    ),
    Mistake("a method's name", "'palettize' is no compression method", compression("palettize")),
    Mistake(
        "an export among the methods", "no compression method", compression(CoreMLExport("net.mlpackage"))
    ),
    Mistake(
        "a method twice",
        "given 2 times; give it once",
        compression(DKMPalettization(n_bits=2), DKMPalettization(n_bits=4)),
    ),
    Mistake("module=5", "module=5; valid is the dotted path", compression(module=5)),
    Mistake("a module itself", "module=.*Network.*valid is the dotted path", compression(module=Network())),
    Mistake("export=True", "export=True; valid is CoreMLExport", compression(export=True)),
    Mistake("the class of an export", r"export=CoreMLExport \(a class\)", compression(export=CoreMLExport)),
    Mistake("a path of another format", r"did you mean .*net\.mlpackage", compression(export="net.onnx")),
    Mistake("rehearse='no'", "rehearse='no'; valid is True or False", compression(rehearse="no")),
    Mistake(
        "an array of inputs", "example_inputs=.*valid is a tensor", compression(example_inputs=np.zeros(3))
    ),
    Mistake("a shape for inputs", "example_inputs=64; valid is a tensor", compression(example_inputs=64)),
]

EXPORT = [
    Mistake("CoreMLExport(None)", r"path=None; valid is a path such as 'net\.mlpackage'", export(path=None)),
    Mistake("an empty path", "path=''; valid is a path", export(path="")),
    Mistake("a path without its end", r"did you mean .*net\.mlpackage", export(path="net")),
    Mistake("an unknown target", "'iOS81' is unknown.*iOS18", export(minimum_deployment_target="iOS81")),
    Mistake(
        "a target as a number", "minimum_deployment_target=18; valid", export(minimum_deployment_target=18)
    ),
    Mistake("an old target", "iOS14.*cannot hold an ML Program", export(minimum_deployment_target="iOS14")),
    Mistake("half for float16", "compute_precision='half' is unknown", export(compute_precision="half")),
    Mistake(
        "a torch type for a precision",
        "compute_precision=torch.float16",
        export(compute_precision=torch.float16),
    ),
    Mistake("image={'scale': 1}", r"image=\{'scale': 1\}; valid is ImageInput", export(image={"scale": 1})),
    Mistake("image=True", "image=True; valid is ImageInput", export(image=True)),
    Mistake("tolerance=0.1", r"tolerance=0\.1; valid is Tolerance\(relative=0\.1\)", export(tolerance=0.1)),
    Mistake("user_metadata='x'", "user_metadata='x'; valid is a mapping", export(user_metadata="x")),
    Mistake("class_labels=5", "class_labels=5; valid is a list of labels", export(class_labels=5)),
    Mistake("labels by number", "class_labels=.*valid is a list of labels", export(class_labels={0: "cat"})),
    Mistake("labels that are none", "a label in class_labels=None", export(class_labels=["cat", None])),
    Mistake("a name for a list of names", "output_names='out' is a string", export(output_names="out")),
    Mistake("names that are numbers", "a name in input_names=1", export(input_names=[1, 2])),
    Mistake("a name with a space", "input_names holds 'my image'", export(input_names=["my image"])),
    Mistake(
        "output names for a classifier",
        "cannot be given with class_labels",
        export(class_labels=["a", "b"], output_names=["probabilities"]),
    ),
    Mistake(
        "descriptions in a list", "input_descriptions=.*a mapping", export(input_descriptions=["an image"])
    ),
    Mistake(
        "a description of no text",
        r"input_descriptions\['x'\]=5; valid is a text",
        export(input_descriptions={"x": 5}),
    ),
    Mistake("a module for a wrapper", "wrapper=Softmax.*is a module", export(wrapper=nn.Softmax(1))),
    Mistake("a name for a wrapper", "wrapper='softmax'; valid is a function", export(wrapper="softmax")),
    Mistake("nms=True", r"nms=True; valid is NonMaximumSuppression\(\)", export(nms=True)),
    Mistake("verify='yes'", "verify='yes'; valid is True or False", export(verify="yes")),
    Mistake("an author in a list", "author=.*valid is a text", export(author=["Ada"])),
    Mistake(
        "an unknown layout",
        "color_layout='CMYK' is unknown; valid are RGB",
        lambda bench: ImageInput(color_layout="CMYK"),
    ),
    Mistake("scales for two channels", "has 2 values", lambda bench: ImageInput(scale=[1.0, 2.0])),
    Mistake("a scale of text", "scale of an image input='1/255'", lambda bench: ImageInput(scale="1/255")),
    Mistake(
        "a deviation of 0",
        "no deviation of 0",
        lambda bench: ImageInput.normalized(mean=[0.5] * 3, std=[0.2, 0, 0.2]),
    ),
    Mistake("a size for sizes", "sizes=224; valid is a list of pairs", lambda bench: ImageInput(sizes=224)),
    Mistake(
        "a range upside down", "no pair of a least and a greatest", lambda bench: SizeRange((2, 1), (1, 2))
    ),
    Mistake(
        "an overlap of 45",
        r"iou_threshold=45 is not in \[0, 1\]",
        lambda bench: NonMaximumSuppression(iou_threshold=45),
    ),
    Mistake(
        "a threshold of text",
        "confidence_threshold='low'",
        lambda bench: NonMaximumSuppression(confidence_threshold="low"),
    ),
    Mistake(
        "a tolerance of nothing",
        "relative=0 of a tolerance is not positive",
        lambda bench: Tolerance(relative=0),
    ),
    Mistake(
        "one absolute tolerance",
        "absolute of a tolerance=0.1; valid is a mapping",
        lambda bench: Tolerance(absolute=0.1),
    ),
]

METHODS = [
    Mistake(
        "n_bits=5",
        r"n_bits of DKMPalettization, global is 5; valid are \[1, 2, 3, 4, 6, 8\]",
        palettes(n_bits=5),
    ),
    Mistake("n_bits='4'", "n_bits of .* is '4'; valid are", palettes(n_bits="4")),
    Mistake("a key misspelt", "unknown key 'n_bit'.*did you mean 'n_bits'", palettes(n_bit=4)),
    Mistake(
        "module_type_configs='x'",
        "module_type_configs of .* is 'x'; valid is a mapping",
        palettes(module_type_configs="x"),
    ),
    Mistake(
        "bits without their key",
        r"module_name_configs\['head'\] is 4; valid is a mapping",
        palettes(module_name_configs={"head": 4}),
    ),
    Mistake(
        "a pattern of shells",
        r"'\*head' *, which is no regular expression",
        palettes(module_name_configs={"*head": None}),
    ),
    Mistake("groups without their size", "needs a group_size", palettes(granularity="per_grouped_channel")),
    Mistake(
        "a milestone of 150%", "milestone of .* is 1.5; valid are optimizer steps", palettes(milestone=1.5)
    ),
    Mistake("a negative milestone", "milestone of .* is -1", palettes(milestone=-1)),
    Mistake(
        "activations of palettes",
        "quantize_activations.*join LinearQuantization",
        palettes(quantize_activations=True),
    ),
    Mistake(
        "a sparsity of 75",
        r"target_sparsity of .* is 75; valid is a number in \[0, 1\)",
        zeros(target_sparsity=75),
    ),
    Mistake("everything pruned", "target_sparsity of .* is 1.0", zeros(target_sparsity=1.0)),
    Mistake(
        "a schedule by name", "scheduler of .* is 'cosine'; valid is a mapping", zeros(scheduler="cosine")
    ),
    Mistake(
        "a schedule that ends before",
        "ends at 5, not after its begin_step 10",
        zeros(scheduler={"begin_step": 10, "end_step": 5}),
    ),
    Mistake("a ratio upside down", "n_m_ratio of .* 0 < n < m", zeros(n_m_ratio=[4, 2])),
    Mistake(
        "int8 for qint8", "weight_dtype of .* is 'int8'; valid are .*qint8", integers(weight_dtype="int8")
    ),
    Mistake("two milestones", "milestones of .* a list of four", integers(milestones=[0, 100])),
    Mistake("rounding before observing", "before they observe", integers(milestones=[100, 50, 200, 300])),
    Mistake(
        "a configuration that is missing",
        "cannot be read",
        lambda bench: DKMPalettization.from_yaml("none.yaml"),
    ),
    Mistake("a configuration of bytes", "is not YAML", read(b"\x89PNG\r\n\x1a\n\x00\x00")),
    Mistake("a configuration of text", "valid is a mapping", read(b"palettize everything")),
    Mistake(
        "a configuration that is none",
        "source=5; valid is the path",
        lambda bench: DKMPalettization.from_yaml(5),
    ),
    Mistake(
        "a temperature of 0",
        "temperature must be positive",
        lambda bench: palettize(torch.zeros(4), torch.zeros(2, 1), temperature=0, iterations=1),
    ),
    Mistake(
        "a weight of integers",
        "needs a floating-point weight",
        lambda bench: palettize(
            torch.zeros(4, dtype=torch.int32), torch.zeros(2, 1), temperature=1, iterations=1
        ),
    ),
    Mistake(
        "a checkpoint that is missing",
        "no checkpoint at 'none.ckpt'",
        lambda bench: Compression.load_from_checkpoint(Path("none.ckpt"), _module()),
    ),
]


def _module() -> Any:
    from tests.mistakes.bench import Practice

    return Practice()
