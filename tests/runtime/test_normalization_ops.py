"""Normalization, and SiLU against numpy written from coremltools' documentation: random shapes and attributes."""

from __future__ import annotations

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - coremltools' own name for it
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.documented import close
from tests.runtime.drawn import batches, examples, normal, seeds

FEW = examples(15)


@FEW
@given(seed=seeds, batch=batches, rank=st.integers(1, 2), affine=st.booleans())
def test_batch_norm_and_instance_norm(programs, seed, batch, rank, affine):
    x = normal(seed, (batch, 3, 4, 2)[: rank + 2])
    mean, variance, gamma, beta = (np.abs(normal(seed + i, (3,))) + 0.1 for i in range(1, 5))
    parameters = {"gamma": gamma, "beta": beta} if affine else {}
    scale, shift = (gamma, beta) if affine else (np.ones(3), np.zeros(3))
    c = lambda v: v.reshape(-1, *[1] * rank)  # noqa: E731
    expected = c(scale) * (x - c(mean)) / np.sqrt(c(variance) + 1e-3) + c(shift)
    body = lambda x: mb.batch_norm(x=x, mean=mean, variance=variance, epsilon=np.float32(1e-3), **parameters)  # noqa: E731
    close(programs.run(body, {"x": x})[0], expected)
    axes = tuple(range(2, rank + 2))
    own = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-3)
    body = lambda x: mb.instance_norm(x=x, epsilon=np.float32(1e-3), **parameters)  # noqa: E731
    close(programs.run(body, {"x": x})[0], c(scale) * own + c(shift), atol=1e-4)


@FEW
@given(seed=seeds, batch=batches, size=st.sampled_from([1, 3, 5]), beta=st.floats(0.5, 1))
def test_local_response_norm(programs, seed, batch, size, beta):
    x = normal(seed, (batch, 6, 2, 2))
    squares = np.stack(
        [(x[:, max(0, i - size // 2) : i + (size - 1) // 2 + 1] ** 2).sum(1) for i in range(6)],
        1,
    )
    expected = x / (1.5 + 0.1 / size * squares) ** np.float32(beta)
    body = lambda x: mb.local_response_norm(  # noqa: E731
        x=x, size=size, alpha=np.float32(0.1), beta=np.float32(beta), k=np.float32(1.5)
    )
    close(programs.run(body, {"x": x})[0], expected)


@FEW
@given(seed=seeds, shape=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_silu(programs, seed, shape):
    x = normal(seed, shape)
    close(programs.run(lambda x: mb.silu(x=x), {"x": x})[0], x / (1 + np.exp(-x)))
