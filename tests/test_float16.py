from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays

from lightning_compress.float16 import count_patterns


@given(arrays.arrays(np.float16, arrays.array_shapes(max_dims=3), elements={"allow_nan": False}))
def test_every_value_is_counted_and_both_zeros_as_one(array):
    counts = count_patterns(array)
    found = {np.uint16(p).view(np.float16).item(): int(counts[p]) for p in np.flatnonzero(counts)}
    values, expected = np.unique(array, return_counts=True)
    assert found == dict(zip(values.tolist(), expected.tolist(), strict=True))
    assert counts.shape == (65536,)
    assert counts[1 << 15] == 0


def test_other_types_are_refused():
    with pytest.raises(ValueError, match="float32"):
        count_patterns(np.zeros(3, np.float32))
