"""How well scores rank what one tensor alone in a form costs, and what the table of scores takes.

    python -m tests.benchmarks.sensitivity_ranks FOLDER network=fashion_mnist [root=/folder/of/raw/files]
    python -m tests.benchmarks.sensitivity_ranks FOLDER network=fashion_mnist_separable
    python -m tests.benchmarks.sensitivity_ranks FOLDER recipe=ssd_resnet18 weights=float.ckpt

The first two train a small network before; the words of the last are those of `lightning-compress explore`. Beside
either, `forms=palettize_2bit,prune_75` names what is tried.

One tensor after the other takes each form, as the search would bring it there, while all others stay as they are.
Prints rank correlations (Spearman's) over the tensors, form by form, and over all pairs of tensor and form: of the
score, and of how far the outputs really move, with how much the loss rises and how much the metric drops. The metric is
that of all validation data, as the mean of two halves. The last column is the correlation of the drops in one half with
those in the other: what is missing to 1 there is noise, which no score can know.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from torch import Tensor, nn

from lightning_compress.callback.losses import TrainingLoss
from lightning_compress.commands.jobs.building import FLOAT_FIT
from lightning_compress.explore.forms import Form, parse_forms
from lightning_compress.explore.module_subject import ModuleSubject
from lightning_compress.explore.parts import divided
from lightning_compress.explore.question import Asked
from lightning_compress.explore.record import write_record
from lightning_compress.explore.searching import Search
from lightning_compress.explore.subject import Subject
from lightning_compress.tasks import Classification
from lightning_compress.tasks.measuring import measure
from tests.benchmarks.allocation import Bench
from tests.benchmarks.fashion_network import NETWORKS, fitted

_FORMS = "palettize_3bit,palettize_2bit,palettize_1bit,prune_75"
_LOSS_BATCHES = 4
_STEPS = 1200
_SEED = 0


@dataclasses.dataclass(frozen=True)
class Pair:
    """One tensor alone in one form.

    Attributes:
        tensor: Its name.
        form: That of the form.
        score: How far the outputs were expected to move.
        moved: How far they did.
        rise: Of the loss.
        drops: Of the metric, in each half of the validation data.
    """

    tensor: str
    form: str
    score: float
    moved: float
    rise: float
    drops: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Ranks:
    """What was measured of a network.

    Attributes:
        pairs: Each tensor in each form.
        value: The metric of float, as the mean of both halves.
        evaluation: Seconds of one evaluation of the validation data by the float16 package.
        table: Seconds of the whole table of scores.
    """

    pairs: Sequence[Pair]
    value: float
    evaluation: float
    table: float


@dataclasses.dataclass(frozen=True)
class Network:
    """What is measured.

    Attributes:
        subject: What is searched.
        search: Of it, in which nothing was done.
        module: The LightningModule with its float weights.
        path: Of the network in it.
        sign: 1 where a larger metric is a better one, else -1.
    """

    subject: Subject
    search: Search
    module: L.LightningModule
    path: str
    sign: int


def measured(network: Network, forms: Sequence[Form], folder: Path) -> Ranks:
    """Measure each tensor in each form, and the time of the table."""
    subject, module = network.subject, network.module.eval()
    candidates = network.search.candidates
    placed, _ = subject.placed(candidates.path(candidates.reference()))

    def value(of: L.LightningModule, data: L.LightningDataModule) -> float:
        return network.sign * measure(of, data, subject.metric, folder, shows_progress=False)

    began = time.perf_counter()
    value(placed, subject.data)
    evaluation = time.perf_counter() - began
    began = time.perf_counter()
    network.search.sensitivity(Asked(max_drop=1).all_forms())
    table = time.perf_counter() - began

    parts = [part.as_data() for part in divided(subject.data, 0.5)]
    loss = _loss(network)
    values = [value(module, part) for part in parts]
    float_loss = loss(module)
    pairs = []
    for form in forms:
        options = network.search.table.options([form], measures=[form])[form.name]
        compressed = network.search.compressed_by_data(
            subject.network(), dict.fromkeys(options, form)
        ).network
        for name, option in options.items():
            with _alone(module.get_submodule(network.path), compressed, name):
                drops = [before - value(module, part) for before, part in zip(values, parts, strict=True)]
                rise = loss(module) - float_loss
            assert option.score is not None
            assert option.measured is not None
            pairs.append(Pair(name, form.name, option.score, option.measured, rise, drops))
    return Ranks(pairs, network.sign * float(np.mean(values)), evaluation, table)


def table_of(ranks: Ranks, metric: str) -> Table:
    """The rank correlations."""
    table = Table(
        title=f"{metric} of float {ranks.value:.4f}; table of scores {ranks.table:.1f} s, an evaluation "
        f"{ranks.evaluation:.1f} s: {ranks.table / ranks.evaluation:.1f} evaluations"
    )
    headings = ("form", "pairs", "score, moved", "score, rise", "score, drop", "moved, rise", "moved, drop")
    for heading in (*headings, "rise, drop", "median drop", "halves of drop"):
        table.add_column(heading, justify="right")
    names = list(dict.fromkeys(pair.form for pair in ranks.pairs))
    for name in [*names, "all pairs"]:
        pairs = [pair for pair in ranks.pairs if name in (pair.form, "all pairs")]
        of: dict[str, list[float]] = {
            "score": [pair.score for pair in pairs],
            "moved": [pair.moved for pair in pairs],
            "rise": [pair.rise for pair in pairs],
            "drop": [float(np.mean(pair.drops)) for pair in pairs],
        }
        compared = [tuple(heading.split(", ")) for heading in (*headings[2:], "rise, drop")]
        table.add_row(
            name,
            str(len(pairs)),
            *(f"{spearmanr(of[one], of[other]).statistic:.2f}" for one, other in compared),
            f"{np.median(of['drop']):.4f}",
            f"{spearmanr(*zip(*(pair.drops for pair in pairs), strict=True)).statistic:.2f}",
        )
    return table


@contextmanager
def _alone(network: nn.Module, compressed: nn.Module, name: str) -> Iterator[None]:
    """One tensor of a network as it is in another while the block runs."""
    weight = network.get_parameter(name)
    kept = weight.detach().clone()
    owner, _, attribute = name.rpartition(".")
    with torch.no_grad():
        weight.copy_(getattr(compressed.get_submodule(owner), attribute))
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def _loss(network: Network) -> Callable[[L.LightningModule], float]:
    """The mean loss of a module on the first batches of the training data, the same for all."""
    torch.manual_seed(_SEED)
    batches: list[Any] = list(itertools.islice(network.subject.data.train_dataloader(), _LOSS_BATCHES))

    @torch.no_grad()
    def loss(module: L.LightningModule) -> float:
        of_batch = TrainingLoss(copy.deepcopy(module), network.subject.data)
        losses: list[Tensor] = [of_batch(batch) for batch in batches]
        return float(torch.stack(losses).double().mean())

    return loss


def _fashion(folder: Path, kind: str, root: str | None) -> Network:
    module, data = fitted(kind, root, _STEPS, _SEED, folder / "float.pt")
    subject = ModuleSubject(module, data, "val/accuracy", network="model", task=Classification())
    search = Search(subject, Asked(max_drop=1), folder, lambda _: None)
    return Network(subject, search, module, "model", 1)


def _recipe(folder: Path, words: Sequence[str]) -> Network:
    bench = Bench(folder, words)
    module = bench.job.weights.module(FLOAT_FIT, FLOAT_FIT)
    path = bench.job.building.recipe.network_path(module)
    return Network(bench.subject, bench.search, module, path, 1 if bench.job.asked.higher_is_better else -1)


def main() -> None:
    """Print the table."""
    if len(sys.argv) < 3 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning_compress").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    own = {"network": "", "root": None, "forms": _FORMS}
    words = []
    for word in sys.argv[2:]:
        key, _, value = word.partition("=")
        if key in own:
            own[key] = value
        else:
            words.append(word)
    folder.mkdir(parents=True, exist_ok=True)
    network = (
        _fashion(folder, str(own["network"]), own["root"])
        if own["network"] in NETWORKS
        else _recipe(folder, words)
    )
    began = time.perf_counter()
    forms = [form for form in parse_forms(str(own["forms"]).split(","), "forms") if form != Form()]
    ranks = measured(network, forms, folder)
    write_record(ranks, folder / "ranks.json")
    Console(width=160).print(table_of(ranks, network.subject.metric))
    print(f"measured in {time.perf_counter() - began:.0f} s; every pair: {folder / 'ranks.json'}")


if __name__ == "__main__":
    main()
