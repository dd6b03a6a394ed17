"""The passes in C against those in torch, which the formulas' own tests know nothing of."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_compress.dkm import native, palettize
from lightning_compress.dkm.initial import first_palette
from lightning_compress.dkm.native import library

TEMPERATURE = 1e-4

built = pytest.mark.skipif(
    find_spec("lightning_compress.dkm.native._passes") is None,
    reason="the passes in C were not built: there was no compiler when the package was installed",
)


@pytest.fixture
def in_torch(monkeypatch):
    """Palettize with the passes in torch."""

    def run(*arguments, **options):
        with monkeypatch.context() as patch:
            patch.setattr(native, "serves", lambda tensor: False)
            patch.setattr(native, "serves_scalars", lambda weight: False)
            return palettized(*arguments, **options)

    return run


def palettized(weight, centroids, upstream, **options):
    weight = weight.clone().requires_grad_()
    centroids = centroids.clone().requires_grad_()
    output, updated = palettize(weight, centroids, temperature=TEMPERATURE, **options)
    by_weight, by_centroids = torch.autograd.grad(
        (output, updated), (weight, centroids), (upstream, torch.ones_like(updated))
    )
    return output.detach(), updated.detach(), by_weight, by_centroids


def assert_near(results, expected, tolerance):
    for result, reference in zip(results, expected, strict=True):
        assert (result - reference).norm() <= tolerance * reference.norm() + 1e-12


@built
@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize(
    "options",
    [
        {"iterations": 3, "attention_floor": 1e-7},
        {"iterations": 2},
        {"iterations": 3, "attention_floor": 1e-3},
        {"iterations": 3, "fix_zero": True, "zero_preference": 1e-5},
        {"iterations": 5, "epsilon": 1e-2, "attention_floor": 1e-7},
    ],
    ids=lambda options: "+".join(options),
)
def test_both_make_the_same_of_weights_of_any_shape(weights, bits, options, in_torch):
    centroids = first_palette(weights.view(1, -1, 1), 2**bits)[0]
    upstream = torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))
    expected = in_torch(weights, centroids, upstream, **options)
    assert_near(palettized(weights, centroids, upstream, **options), expected, 2e-4)


@built
@pytest.mark.parametrize("spread", [1.0, 40.0], ids=["equal panels", "panels of many widths"])
def test_both_let_zeros_be_and_keep_groups_apart(make, spread, in_torch):
    weight = make("half zero", 24_000).view(12, 2000) * spread
    weight[4:8] *= 0.3
    centroids = first_palette(weight.view(3, -1, 1), 8, keep_zeros=True)
    upstream = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    options = {"iterations": 3, "keep_zeros": True}
    expected = in_torch(weight, centroids, upstream, **options)
    results = palettized(weight, centroids, upstream, **options)
    assert_near(results, expected, 2e-4)
    assert torch.equal(results[0] == 0, weight == 0)


@built
@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(1, 200_000),
    clusters=st.integers(1, 40),
    scale=st.floats(1e-3, 0.3),
    offset=st.floats(-1.0, 1.0),
    threads=st.integers(1, 4),
)
def test_any_number_of_threads_makes_the_same(size, clusters, scale, offset, threads):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(size, generator=generator) * scale + offset
    centroids = torch.randn(clusters, 1, generator=generator) * scale + offset
    upstream = torch.randn(size, generator=generator)
    results = []
    for number in (1, threads):
        torch.set_num_threads(number)
        results.append(palettized(weight, centroids, upstream, iterations=2, attention_floor=1e-7))
    assert_near(results[1], results[0], 1e-5)


@built
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="torch runs on libgomp on Linux only")
def test_the_passes_run_on_the_threads_of_torch():
    assert library.threads() is not None


def test_without_the_library_torch_takes_its_place(make):
    program = (
        "import sys; sys.modules['lightning_compress.dkm.native._passes'] = None\n"
        "import torch\n"
        "from lightning_compress.dkm import native, palettize\n"
        "weight = torch.randn(5000) * 0.02\n"
        "assert not native.serves(weight)\n"
        "palette = torch.linspace(-0.04, 0.04, 4).unsqueeze(-1)\n"
        "output, _ = palettize(weight, palette, temperature=1e-4, iterations=3)\n"
        "assert (output - weight).norm() < weight.norm()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
