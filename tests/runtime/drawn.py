"""What tests of ops draw their inputs from."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

seeds = st.integers(0, 2**16)
batches = st.integers(1, 2)
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)
# Half of the shapes begin with the single sample that packages are converted for.
sample_shapes = st.tuples(st.sampled_from([1, 2]), st.integers(1, 4), st.integers(1, 4)).map(tuple)


def examples(count):
    """Settings of a test of so many programs."""
    return settings(
        max_examples=count, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )


def normal(seed, shape, low=None, high=None):
    """Normal noise, or with bounds uniform."""
    generator = np.random.default_rng(seed)
    if low is not None:
        return generator.uniform(low, high, shape).astype(np.float32)
    return generator.normal(size=shape).astype(np.float32)
