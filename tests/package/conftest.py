"""The networks and inputs of the tests of making packages: a package to read has to be made first."""

from __future__ import annotations

from tests.coreml.conftest import build_network, digit, digits, network

__all__ = ["build_network", "digit", "digits", "network"]
