"""What tests of one process share without a word: threads, environment, types, random states."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

_PYTESTS_OWN = "PYTEST_CURRENT_TEST"


@dataclass
class ProcessState:
    """The state of the process at one moment, to go back to.

    Attributes:
        settings: Threads, environment, working directory and torch's switches: what a test may not leave behind.
        random: States of all generators of random numbers.
    """

    settings: dict[str, Any]
    random: tuple[Any, Any, torch.Tensor]

    @classmethod
    def now(cls) -> ProcessState:
        """The state as it is."""
        settings = {
            "threads": torch.get_num_threads(),
            "environment": _environment(),
            "folder": os.getcwd(),
            "default type": torch.get_default_dtype(),
            "gradients": torch.is_grad_enabled(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        }
        return cls(settings, (random.getstate(), np.random.get_state(), torch.get_rng_state()))

    def restore(self) -> None:
        """Make it the state again."""
        if torch.get_num_threads() != self.settings["threads"]:
            torch.set_num_threads(self.settings["threads"])
        environment = self.settings["environment"]
        for name in _environment().keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        os.chdir(self.settings["folder"])
        torch.set_default_dtype(self.settings["default type"])
        torch.set_grad_enabled(self.settings["gradients"])
        torch.use_deterministic_algorithms(self.settings["deterministic"])
        random.setstate(self.random[0])
        np.random.set_state(self.random[1])
        torch.set_rng_state(self.random[2])


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != _PYTESTS_OWN}
