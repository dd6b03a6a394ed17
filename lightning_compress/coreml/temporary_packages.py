"""Packages on the disk that models in memory stand on."""

from __future__ import annotations

import os
import shutil
import weakref

import coremltools as ct


def removed_with(model: ct.models.MLModel) -> ct.models.MLModel:
    """Remove the folder that a model in memory has in the system's temporary folder when the model is gone.

    coremltools 9.0 writes each model that it converts or that is made of a specification to a package there, and
    removes it when the process ends. A model is written several times on its way to the package that is asked for,
    and a search makes a hundred: gigabytes would lie there for hours.

    Args:
        model: What coremltools has just made. Whoever reads `package_path` later has to hold on to it.

    Returns:
        The same model.
    """
    if model.is_temp_package and model.package_path is not None:
        weakref.finalize(model, _remove, model.package_path, os.getpid())
    return model


def _remove(folder: str, owner: int) -> None:
    # A forked process has the model too, and the folder is not its own.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
