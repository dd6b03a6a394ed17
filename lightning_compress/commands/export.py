"""`lightning-compress export ckpt=... recipe=...`: the package of a checkpoint, without training."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from lightning_compress.callback import Compression
from lightning_compress.callback.reporting import package_line, print_layers
from lightning_compress.commands.recipe import Recipe
from lightning_compress.coreml.export import ExportedPackage
from lightning_compress.errors import ConfigurationError


def run(config: DictConfig) -> ExportedPackage:
    """Rebuild what `config.ckpt` holds, and write its package to `config.path`.

    The compression is that of the checkpoint; recipe and data say what the network is and how it is presented.

    Raises:
        ConfigurationError: There is no checkpoint, or it holds no compression.
    """
    if "ckpt" not in config or not config.ckpt:
        raise ConfigurationError(
            "ckpt is empty; give a checkpoint of a fit with compression: lightning-compress export last.ckpt "
            "recipe=ssd_resnet18"
        )
    recipe = Recipe(config)
    recipe.data.prepare_data()
    recipe.data.setup("fit")
    module = recipe.module()
    path = Path(config.path or f"{Path(config.ckpt).stem}.mlpackage")
    compression = Compression.load_from_checkpoint(
        config.ckpt, module, example_inputs=recipe.example_inputs(module), export=recipe.export(path, module)
    )
    compression.finalize()
    assert compression.exported is not None
    print_layers(compression.layers)
    print(package_line(compression.exported))
    return compression.exported
