"""What is nice to have is said where it fails, and ends nothing."""

from __future__ import annotations

import pytest

from lightning_compress.nice_to_have import nice_to_have


def test_a_failure_is_a_warning_with_its_reason():
    with (
        pytest.warns(UserWarning, match="^the card is left out: OSError: no space$"),
        nice_to_have("the card"),
    ):
        raise OSError("no space")


def test_an_interrupt_is_none_of_its_business():
    with pytest.raises(KeyboardInterrupt), nice_to_have("the card"):
        raise KeyboardInterrupt
