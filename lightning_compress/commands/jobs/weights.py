"""The weights that the fits of a job have ended with, in memory and on the disk."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lightning_compress.commands.jobs.building import FLOAT_FIT, Building
from lightning_compress.package.save import write_whole


class FitWeights:
    """Keeps what each fit has ended with, and gives modules that begin there.

    Args:
        building: Makes the modules.
        folder: Where the weights lie.
    """

    def __init__(self, building: Building, folder: Path) -> None:
        self._building = building
        self._folder = folder
        self._kept: dict[str, dict[str, Any]] = {}

    def keep(self, fit: str, module: L.LightningModule, *, without: str | None = None) -> None:
        """Keep the state of a module.

        Args:
            fit: Which fit has ended.
            module: What it has trained.
            without: Path of a part that is left out: that of a compressed network, which has other parameters than a
                dense one.
        """
        state = {
            name: value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value
            for name, value in module.state_dict().items()
            if without is None or not name.startswith(f"{without}.")
        }
        self._kept[fit] = {"state_dict": state}

    def write(self, fit: str, folder: Path | None = None) -> Path:
        """Write what was kept of a fit, and return the file.

        Args:
            fit: Which fit.
            folder: Where the weights of that fit lie, if not where those of others do.
        """
        content = io.BytesIO()
        torch.save(self._kept[fit], content)
        path = self._file(fit, folder)
        write_whole(path, content.getvalue())
        return path

    def module(self, of: str, fit: str) -> L.LightningModule:
        """A new module of a fit with the weights that a fit has ended with.

        Args:
            of: The fit whose weights they are.
            fit: The fit whose settings the module gets.
        """
        if of not in self._kept:
            self._kept[of] = torch.load(self._file(of), map_location="cpu", weights_only=True)
        module = self._building.module(fit)
        # Of a compressed network there are none here: its package is put in its place.
        module.load_state_dict(self._kept[of]["state_dict"], strict=False)
        return module

    def _file(self, fit: str, folder: Path | None = None) -> Path:
        # Without its network, what a compressed fit has ended with is no checkpoint that anybody should take for one.
        name = "weights.ckpt" if fit == FLOAT_FIT else "outside_of_network.pt"
        return (folder or self._folder) / fit / name
