"""A weight with several readers is compressed for all of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_compress import Compression, CoreMLExport, LinearQuantization, MagnitudePruning
from tests.cases.fitting import (
    METHODS,
    STEPS,
    TableBeforeTraining,
    Training,
    int8_weights,
    of_shape,
    palettized,
    tokens,
)


class Language(nn.Module):
    """An embedding, a layer, and a projection back to the vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(512, 64)
        self.encoder = nn.Linear(64, 64)

    def hidden(self, ids: Tensor) -> Tensor:
        return torch.relu(self.encoder(self.embedding(ids)))


class TiedByParameter(Language):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(64, 512, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.hidden(ids))


class TiedTheOtherWay(TiedByParameter):
    """The embedding takes the weight of the projection."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(64, 512)
        self.embedding.weight = self.out.weight


class TiedByFunction(Language):
    def forward(self, ids: Tensor) -> Tensor:
        return F.linear(self.hidden(ids), self.embedding.weight)


class TiedByTranspose(Language):
    def forward(self, ids: Tensor) -> Tensor:
        return self.hidden(ids) @ self.embedding.weight.t()


class TiedByFunctionalEmbedding(nn.Module):
    """Only the projection is a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(64, 64)
        self.out = nn.Linear(64, 512)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(torch.relu(self.encoder(F.embedding(ids, self.out.weight))))


@pytest.mark.parametrize(
    "network",
    [TiedByParameter, TiedTheOtherWay, TiedByFunction, TiedByTranspose, TiedByFunctionalEmbedding],
)
def test_an_embedding_tied_to_the_projection_is_compressed_for_both(fit, network, technique):
    outcome = fit(network(), tokens(512), METHODS[technique]())
    outcome.check_right()
    reads_a_layer = network not in (TiedByFunction, TiedByTranspose)
    for layer in outcome.layers:
        # Pruning and quantization of coremltools take no embeddings unless a layer shares their weight.
        if reads_a_layer or technique == "palettized" or layer.parameters < 512 * 64:
            assert technique in layer.technique, layer


def test_an_embedding_tied_to_the_projection_takes_int8_activations_as_well(fit):
    outcome = fit(TiedByParameter(), tokens(512), LinearQuantization())
    outcome.check_right(finalized=2e-2, package=5e-2)
    outcome.check_stored("quantized", bits=8)
    assert outcome.operations["quantize"] > 0


class TiedAutoencoder(nn.Module):
    """Decodes with the transposed weight of its encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.encoder(x)) @ self.encoder.weight


class TiedConvolutions(nn.Module):
    """Goes up again with the weight that it went down with."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(8, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(torch.relu(self.down(x)), self.down.weight)


class TwoOwners(nn.Module):
    """Two layers own one Parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


class TwoNames(nn.Module):
    """One layer stands twice in a list."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Linear(64, 64)
        self.layers = nn.ModuleList([layer, nn.Linear(64, 64), layer])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


class BlockOfTwoNames(nn.Module):
    """One block of layers under two names, as in ALBERT."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class CalledTwice(nn.Module):
    """One layer is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.relu(self.layer(x)))


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (TiedAutoencoder, (64,)),
        (TiedConvolutions, (8, 8, 8)),
        (TwoOwners, (64,)),
        (TwoNames, (64,)),
        (BlockOfTwoNames, (64,)),
        (CalledTwice, (8, 8, 8)),
    ],
)
def test_a_weight_read_twice_is_compressed_for_both(fit, network, shape, technique):
    outcome = fit(network(), of_shape(*shape), METHODS[technique]())
    outcome.check_right()
    outcome.check_stored(technique, sparsity=0.5 if technique == "pruned" else None)


@pytest.mark.parametrize("network", [TwoOwners, TwoNames, BlockOfTwoNames])
def test_layers_of_one_weight_take_int8_activations(fit, network):
    outcome = fit(network(), of_shape(64), LinearQuantization())
    outcome.check_right(finalized=2e-2, package=5e-2)
    outcome.check_stored("quantized", bits=8)
    assert outcome.operations["quantize"] > 0


class BareParameter(nn.Module):
    """A weight without a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(64, 64) / 8)
        self.o = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(torch.relu(F.linear(x, self.w)))


class BareMatrix(BareParameter):
    """The same, read by matrix multiplication."""

    def forward(self, x: Tensor) -> Tensor:
        return self.o(torch.relu(x @ self.w.t()))


@pytest.mark.parametrize("network", [BareParameter, BareMatrix])
def test_a_bare_parameter_stays_dense_and_is_told_before_training(fit, network, technique, capsys):
    table = TableBeforeTraining(capsys)
    outcome = fit(network(), of_shape(64), METHODS[technique](), callbacks=(table,))
    outcome.check_right()
    assert sorted(layer.technique for layer in outcome.layers) == sorted(["dense", technique])
    assert table.tells_dense("w"), table.printed


@pytest.mark.parametrize("network", [BareParameter, BareMatrix])
def test_a_bare_parameter_is_compressed_by_its_name(fit, network, technique):
    methods = {
        "palettized": lambda: palettized(module_name_configs={"w": {"n_bits": 2, "weight_threshold": 0}}),
        "pruned": lambda: MagnitudePruning(
            target_sparsity=0.5, module_name_configs={"w": {"target_sparsity": 0.5}}
        ),
        "quantized": lambda: int8_weights(
            module_name_configs={"w": {"weight_dtype": "qint8", "activation_dtype": "float32"}}
        ),
    }
    outcome = fit(network(), of_shape(64), methods[technique]())
    outcome.check_right()
    outcome.check_stored(technique)
    if technique == "palettized":
        assert sorted(layer.bits for layer in outcome.layers) == [2, 4]


def test_a_bare_parameter_inside_a_block_is_compressed_by_its_dotted_name(fit):
    network = nn.Sequential(BareParameter(), nn.ReLU(), BareParameter())
    keys = {"n_bits": 4, "weight_threshold": 0}
    outcome = fit(network, of_shape(64), palettized(module_name_configs={r"[02]\.w": keys}))
    outcome.check_right()
    outcome.check_stored("palettized", bits=4)


class Subclass(nn.Linear):
    """A layer of one's own."""

    def __init__(self) -> None:
        super().__init__(64, 64)


class WithHead(Training):
    """Trains a backbone and a head that is a layer itself."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__(nn.Linear(64, 64), of_shape(64), steps=STEPS)
        self.head = head

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.head(self.model(*batch)).square().mean()


@pytest.mark.parametrize(
    "head", [lambda: nn.Linear(64, 64), lambda: nn.Sequential(nn.Linear(64, 64)), Subclass]
)
def test_a_module_that_is_itself_a_layer_is_compressed(fit, tmp_path, head, technique):
    compression = Compression(
        METHODS[technique](),
        module="head",
        example_inputs=torch.randn(1, 64),
        export=CoreMLExport(tmp_path / "head.mlpackage"),
    )
    training = WithHead(head())
    outcome = fit.run(training, compression)
    outcome.check_stored(technique)
    training.model = training.head
    outcome.check_right()


@pytest.mark.parametrize("layer", [lambda: nn.Conv2d(8, 16, 3), lambda: nn.ConvTranspose2d(8, 16, 3)])
def test_a_convolution_alone_is_compressed(fit, layer, technique):
    outcome = fit(layer(), of_shape(8, 8, 8), METHODS[technique]())
    outcome.check_right()
    outcome.check_stored(technique)
