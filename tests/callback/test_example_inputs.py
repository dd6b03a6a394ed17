"""What Lightning takes as `example_input_array` is what the module is called with, and what the package takes."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_compress import Compression, CoreMLExport, DKMPalettization, LinearQuantization, runtime


class Pair(nn.Module):
    """Two inputs, of which one may come in a dictionary, and two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(16, 16)
        self.right = nn.Linear(16, 16)

    def forward(self, left: Tensor, right: Any, scale: float = 1.0) -> dict[str, Tensor]:
        if isinstance(right, dict):
            right = right["right"]
        joined = self.left(left) + scale * self.right(right)
        return {"joined": joined, "positive": torch.relu(joined)}


class PairModule(L.LightningModule):
    def __init__(self, inputs: Any, call: Any) -> None:
        super().__init__()
        self.model = Pair()
        self.example_input_array = inputs
        self.call = call

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        return self.model(*arguments, **keywords)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.call(self.model, *batch)["joined"].square().mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.call(self.model, *batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.randn(16, 16), torch.randn(16, 16)), batch_size=4)

    val_dataloader = train_dataloader


ONE, OTHER = torch.randn(1, 16), torch.randn(1, 16)

FORMS: dict[str, tuple[Any, Any]] = {
    "a tuple": ((ONE, OTHER), lambda model, left, right: model(left, right)),
    "a list": ([ONE, OTHER], lambda model, left, right: model(left, right)),
    "a dictionary": ({"left": ONE, "right": OTHER}, lambda model, left, right: model(left=left, right=right)),
    "a dictionary with a number": (
        {"right": OTHER, "left": ONE, "scale": 2.0},
        lambda model, left, right: model(left, right, scale=2.0),
    ),
    "a tuple with a dictionary": (
        (ONE, {"right": OTHER}),
        lambda model, left, right: model(left, {"right": right}),
    ),
    "a dictionary with a dictionary": (
        {"left": ONE, "right": {"right": OTHER}},
        lambda model, left, right: model(left=left, right={"right": right}),
    ),
}

METHODS = {
    "palettized": lambda: DKMPalettization(n_bits=4, weight_threshold=0),
    "quantized": lambda: LinearQuantization(milestones=[0, 0, 3, -1]),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", FORMS)
def test_a_fit_exports_with_the_names_of_inputs_and_outputs(tmp_path, make_trainer, form, method):
    inputs, call = FORMS[form]
    module = PairModule(inputs, call)
    compression = Compression(
        METHODS[method](), module="model", export=CoreMLExport(tmp_path / "net.mlpackage")
    )
    make_trainer(compression, max_epochs=1).fit(module)
    program = runtime.load(tmp_path / "net.mlpackage")
    assert set(program.output_names) == {"joined", "positive"}
    assert {item.name for item in program.inputs} == {"left", "right"}
    left, right = torch.randn(1, 16), torch.randn(1, 16)
    with torch.no_grad():
        expected = call(compression.finalized, left, right)
    found = program(left=left, right=right)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=2e-2 * float(value.abs().max())), name


def test_lightnings_own_summary_takes_the_same_inputs(make_trainer):
    inputs, call = FORMS["a dictionary"]
    module = PairModule(inputs, call)
    make_trainer(
        Compression(METHODS["palettized"](), module="model"), max_epochs=1, enable_model_summary=True
    ).fit(module)
