from __future__ import annotations

from lightning_compress.errors import did_you_mean


def test_an_unknown_name_is_answered_with_the_nearest_if_there_is_one():
    assert did_you_mean("n_bit", ["granularity", "n_bits"]) == "; did you mean 'n_bits'?"
    assert did_you_mean("xyz", ["granularity", "n_bits"]) == "."
