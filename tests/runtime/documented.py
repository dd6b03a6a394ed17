"""Numpy written from coremltools' documentation of its ops, that tests compare the runtime with."""

from __future__ import annotations

import numpy as np

MODES = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS")


def close(actual, expected, atol=2e-5, rtol=1e-4):
    """Assert that two arrays are of one shape and near."""
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, atol=atol, rtol=rtol)


def grid(mode, size, count):
    """The places, in an axis of `size`, that `count` results are taken from."""
    i = np.arange(count)
    if mode == "UNALIGN_CORNERS":
        points = i * size / count + 0.5 * size / count - 0.5
    elif mode == "DEFAULT":
        points = i * (size - size / count) / max(count - 1, 1)
    elif mode == "OFFSET_CORNERS":
        delta = max(1, size - 1) / count
        points = 0.5 * delta + i * delta
    else:
        points = i * (size - 1) / max(count - 1, 1)
        if mode == "ALIGN_CORNERS" and count == 1:
            points = np.array([(size - 1) / 2])
    return np.clip(points, 0, size - 1)
