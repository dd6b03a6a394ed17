"""The networks and inputs of the tests of making packages: a package to read has to be made first."""

from __future__ import annotations

from tests.coreml.conftest import _one_thread, build_network, digit, digits, network

__all__ = ["_one_thread", "build_network", "digit", "digits", "network"]
