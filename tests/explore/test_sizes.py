"""Bytes of a form are told before a package is made, and are those of the package."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_compress.coreml.export import CoreMLExport
from lightning_compress.explore.forms import Form, default_forms, methods_of, needed_by
from lightning_compress.explore.sizes import dense_bytes, palette_bytes, stored_bytes
from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.mechanism.stored import read_stored
from lightning_compress.methods.mechanism.tensors import find_tensors

_INLINE = 3 * 16
"""A palette of fewer than ten entries stands in the program, and the other arrays begin on multiples of 64 bytes."""


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(16, 64, 3),
        nn.ReLU(),
        nn.Conv2d(64, 128, 3, groups=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 96),
    ).eval()


def _bytes(form: Form, path: Path) -> tuple[int, int]:
    """What the forms tell, and what the package has."""
    network = _network()
    references = find_tensors(network)
    forms = {ref.name: form for ref in references if needed_by(ref, form) is not None}
    assert forms
    finalized = PreparedModule(copy.deepcopy(network), methods_of(forms)).finalize(rehearses=True)
    told = 0
    for reference in references:
        owner = finalized.get_submodule(reference.owners[0].module_name)
        parameter = reference.owners[0].parameter
        told += stored_bytes(getattr(owner, parameter), read_stored(owner, parameter))
    export = CoreMLExport(path, verify=False, card=False, minimum_deployment_target="iOS18")
    return told, export.run(finalized, (torch.randn(1, 16, 12, 12),)).weight_bytes


_FORMS = [
    *default_forms(),
    *(
        Form.parse(name)
        for name in (
            "palettize_4bit_group16",
            "palettize_2bit_group16",
            "palettize_8bit_vectors4",
            "palettize_4bit_vectors4",
            "prune_50",
            "prune_75_palettize_4bit",
            "palettize_4bit_scaled",
            "prune_50_int8",
            "prune_50_int4_block32",
            "prune_50_palettize_4bit_vectors2",
            "prune_50_palettize_4bit_group16",
        )
    ),
]


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(form, id=form.name, marks=() if index % 5 == 1 else pytest.mark.slow)
        for index, form in enumerate(_FORMS)
    ],
)
def test_the_bytes_of_a_form_are_those_of_the_package(form: Form, tmp_path: Path) -> None:
    dense_told, dense_found = _bytes(Form(), tmp_path / "dense.mlpackage")
    told, found = _bytes(form, tmp_path / "compressed.mlpackage")
    assert abs((told - dense_told) - (found - dense_found)) <= _INLINE


def test_a_dense_tensor_takes_two_bytes_an_element_and_a_header() -> None:
    assert dense_bytes(1000) == 64 + 2048


@pytest.mark.parametrize("name", ["palettize_8bit_vectors8", "palettize_6bit_vectors4", "palettize_3bit"])
def test_a_palette_is_counted_without_being_made(name: str) -> None:
    form = Form.parse(name)
    (reference,) = find_tensors(nn.Sequential(nn.Linear(96, 64)))
    finalized = PreparedModule(nn.Sequential(nn.Linear(96, 64)), methods_of({reference.name: form})).finalize(
        rehearses=True
    )
    told = palette_bytes(reference.numel, form.bits or 0, form.vector)
    assert told == stored_bytes(finalized[0].weight, read_stored(finalized[0], "weight"))
