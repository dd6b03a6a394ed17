"""Mistakes that are told when a fit begins: the module, its inputs, and the export are known then, and rehearsed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

from lightning_compress import Compression, CoreMLExport, DKMPalettization, MagnitudePruning
from lightning_compress.coreml import ImageInput, NonMaximumSuppression, SizeRange
from lightning_compress.methods import Method
from tests.mistakes.bench import Bench, Mistake, Network, Practice


def fit(*methods: Method, **settings: Any) -> Callable[[Bench], None]:
    """A fit without an export."""
    return lambda bench: bench.fit(Compression(*methods, module="model", **settings))


def exported(
    network: Callable[[], nn.Module] = Network, inputs: Any = None, **options: Any
) -> Callable[[Bench], None]:
    """A fit with an export."""

    def call(bench: Bench) -> None:
        compression = Compression(module="model", export=CoreMLExport(bench.package, **options))
        bench.fit(compression, Practice(network(), inputs))

    return call


def palettized(**keys: Any) -> DKMPalettization:
    return DKMPalettization(**{"n_bits": 4, **keys})


def broken(bench: Bench) -> None:
    module = Practice()
    module.model.hidden.weight.data[3, 5] = float("nan")
    bench.fit(Compression(palettized(), module="model"), module)


def averaged_first(bench: Bench) -> None:
    compression = Compression(palettized(), module="model")
    bench.fit(compression, callbacks=[WeightAveraging(), compression])


def two_networks(bench: Bench) -> None:
    module = Practice()
    module.teacher = nn.Linear(2, 2)
    bench.fit(Compression(palettized()), module)


def without_inputs(bench: Bench) -> None:
    module = Practice()
    module.example_input_array = None
    bench.fit(Compression(export=CoreMLExport(bench.package)), module)


def twice(bench: Bench) -> None:
    one = Compression(palettized(), module="model")
    other = Compression(MagnitudePruning(), module="model.head")
    bench.fit(one, callbacks=[one, other])


def unwritable(bench: Bench) -> None:
    (bench.folder / "file").write_text("")
    bench.fit(Compression(module="model", export=bench.folder / "file" / "net.mlpackage"))


FITS = [
    Mistake(
        "a module misspelt",
        "module='modle'.*the nearest are .'model'",
        lambda bench: bench.fit(Compression(palettized(), module="modle")),
    ),
    Mistake("two networks and no path", "name the one to compress", two_networks),
    Mistake(
        "a pattern that matches nothing",
        "matches no module",
        fit(palettized(module_name_configs={"heads": {"n_bits": 2}})),
    ),
    Mistake(
        "a type that is not there",
        "the module type 'Convolution'",
        fit(palettized(module_type_configs={"Convolution": None})),
    ),
    Mistake("nothing large enough", "finds nothing to compress", fit(palettized(weight_threshold=10_000))),
    Mistake(
        "groups that do not divide",
        "group_size is 48, which does not divide",
        fit(palettized(granularity="per_grouped_channel", group_size=48)),
    ),
    Mistake(
        "a schedule longer than the fit",
        "ends at optimizer step 500, but the fit has 4",
        fit(MagnitudePruning(scheduler={"begin_step": 500})),
    ),
    Mistake("a weight that is NaN", "1 of 4096 values that are NaN", broken),
    Mistake("averaging before compressing", "WeightAveraging comes before Compression", averaged_first),
    Mistake("one module compressed twice", "already prepared", twice),
    Mistake("no example inputs", "CoreMLExport needs example inputs", without_inputs),
    Mistake("a folder that is a file", "file", unwritable),
    Mistake("labels in no file", "labels.txt.*cannot be read", exported(class_labels="labels.txt")),
    Mistake("a label twice", "'cat' more than once", exported(class_labels=["cat", "cat", "dog", "cow"])),
    Mistake("suppression without labels", "nms needs class_labels", exported(nms=NonMaximumSuppression())),
    Mistake(
        "a target too low",
        "cannot carry.*3 bits.*iOS18",
        lambda bench: bench.fit(
            Compression(
                palettized(n_bits=3),
                module="model",
                export=CoreMLExport(bench.package, minimum_deployment_target="iOS16"),
            )
        ),
    ),
    Mistake(
        "nothing to do",
        "no methods and no export",
        lambda bench: bench.fit(Compression(module="model")),
        is_refused=False,
    ),
    Mistake(
        "bits left to the default",
        "n_bits is None: 4 in Linear, 2 in others",
        fit(DKMPalettization(n_bits=None)),
        is_refused=False,
    ),
]


class Changed(Network):
    """The network with something done to its output."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Any:
        return self.change(super().forward(x))


def changed(change: Callable[[Tensor], Any]) -> Callable[[], nn.Module]:
    return lambda: Changed(change)


class Bag(nn.Module):
    """An op that no converter knows."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(64, 32)

    def forward(self, ids: Tensor) -> Tensor:
        return self.bag(ids)


class FrozenMask(Network):
    """A mask of infinities that is a Parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.full((4, 4), float("-inf")).triu(1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(super().forward(x).unsqueeze(1) + self.mask, -1)


class Images(nn.Module):
    """A network of grey images."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images).mean((2, 3))


class Masked(nn.Module):
    """An input of booleans."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.layer(x) * mask


class Large(Network):
    """Numbers that float16 cannot hold."""

    def forward(self, x: Tensor) -> Tensor:
        return ((super().forward(x) + 2) * 1000).square()


def fails(module: nn.Module) -> nn.Module:
    raise KeyError("logits")


GREY = torch.zeros(1, 1, 8, 8)

REHEARSED = [
    Mistake(
        "an op without a converter",
        "cannot convert.*embedding_bag",
        exported(Bag, torch.zeros(1, 4, dtype=torch.int64)),
    ),
    Mistake(
        "labels for other classes",
        r"3 labels for an output of shape \(1, 4\)",
        exported(class_labels=["a", "b", "c"]),
    ),
    Mistake(
        "a grey network, an image in colours",
        "RGB needs .1, 3, height, width",
        exported(Images, GREY, image=ImageInput()),
    ),
    Mistake("names for other inputs", "2 names for 1 example input", exported(input_names=["a", "b"])),
    Mistake(
        "names for other outputs", "2 names; the module returns 1 tensor", exported(output_names=["a", "b"])
    ),
    Mistake(
        "an input that is not there",
        "input_descriptions names 'picture'; the package has input",
        exported(input_descriptions={"picture": "?"}),
    ),
    Mistake(
        "an output that is not there",
        "output_descriptions names 'logits'; the package has output",
        exported(output_descriptions={"logits": "?"}),
    ),
    Mistake(
        "a wrapper that fails",
        "wrapper=fails of CoreMLExport failed on Network: KeyError: 'logits'",
        exported(wrapper=fails),
    ),
    Mistake(
        "a wrapper that returns nothing",
        "returned None; valid is a module",
        exported(wrapper=lambda module: None),
    ),
    Mistake(
        "a frozen mask of -inf",
        "'mask' holds NaN or infinity before the fit.*register_buffer",
        exported(FrozenMask),
    ),
    Mistake(
        "booleans for an input",
        "input 'mask' is torch.bool",
        exported(Masked, (torch.zeros(1, 4), torch.ones(1, 4, dtype=torch.bool))),
    ),
    Mistake(
        "a text among the outputs",
        r"returns str at kind; a package's outputs are tensors",
        exported(changed(lambda y: {"out": y, "kind": "raw"})),
    ),
    Mistake(
        "a key that is no name", "the module returns.*'my out'", exported(changed(lambda y: {"my out": y}))
    ),
    Mistake(
        "labels for two outputs",
        "one output, and this one returns 2",
        exported(changed(lambda y: (y, y * 2)), class_labels=list("abcd")),
    ),
    Mistake(
        "a course that values decide",
        "another course for other inputs",
        exported(changed(lambda y: y if y.sum() > y[0, 0] else y * 2), torch.linspace(-1, 1, 64)[None]),
    ),
    Mistake(
        "noise in evaluation",
        "random in evaluation mode",
        exported(changed(lambda y: y + torch.randn_like(y))),
    ),
    Mistake(
        "inputs of another shape",
        "cannot be traced on its example inputs",
        exported(inputs=torch.zeros(1, 5)),
    ),
    Mistake("a shape in the place of inputs", "hold no tensor", exported(inputs=(1, 64))),
    Mistake(
        "suppression behind a classifier",
        "returns 1 tensor; Core ML's non-maximum suppression takes",
        exported(
            Images,
            GREY,
            nms=NonMaximumSuppression(),
            class_labels=["a"],
            image=ImageInput(color_layout="GRAYSCALE"),
        ),
    ),
    Mistake(
        "a size outside of the sizes",
        "outside of the sizes asked for",
        exported(
            Images, GREY, image=ImageInput(color_layout="GRAYSCALE", sizes=SizeRange((16, 32), (16, 32)))
        ),
    ),
    Mistake(
        "labels for a batch of two",
        "the example input a batch of one",
        exported(inputs=torch.zeros(2, 64), class_labels=list("abcd")),
    ),
    Mistake(
        "numbers too large for float16",
        "overflow in half precision or are far.*compute_precision='float32'",
        exported(Large),
        is_refused=False,
    ),
]
