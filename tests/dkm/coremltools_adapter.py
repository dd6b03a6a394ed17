"""coremltools' palettizer by name and interface, with our technique inside: for coremltools' own tests.

They look at what coremltools leaves on a layer, `weight_fake_quant` and `qconfig`; views of the technique stand there.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import attrs
import torch
from coremltools.optimize.torch.palettization import DKMPalettizerConfig
from torch import nn
from torch.nn.utils import parametrize

from lightning_compress.methods.mechanism.layers import KIND_NAMES
from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.palettization import DKMPalettization, Palette

_DEPRECATED = ("partition_size", "cluster_dtype")


class FakePalettize:
    """What coremltools' tests read of its class of that name."""

    def __init__(self, palette: Palette) -> None:
        self._palette = palette
        form = palette._form
        self.n_clusters = form.n_clusters
        self.n_bits = form.n_clusters.bit_length() - 1
        self.cluster_dim = form.cluster_dim
        self.kmeans_max_iter = form.clustering.iterations

    @property
    def fake_palett_enabled(self) -> torch.Tensor:
        return self._palette.enabled_switch


class DKMPalettizer:
    """coremltools' class of that name: prepare, step, report, finalize."""

    def __init__(self, model: nn.Module, config: DKMPalettizerConfig | None = None) -> None:
        self._model = model
        self._config = DKMPalettizerConfig() if config is None else config

    def prepare(self, inplace: bool = False) -> nn.Module:
        if not inplace:
            self._model = copy.deepcopy(self._model)
        self._model.train()
        self._prepared = PreparedModule(self._model, [DKMPalettization(**_keywords(self._config))])
        self._prepared.start_training()
        for module in self._model.modules():
            if any(hasattr(nn, base.__name__) for base in type(module).__mro__[:2]):
                module.qconfig = None
        for planned in self._prepared.plan.tensors:
            for owner in planned.reference.owners if planned.keys else ():
                view = FakePalettize(owner.module.parametrizations[owner.parameter][-1])
                setattr(owner.module, f"{owner.parameter}_fake_quant", view)
                keywords = {"n_bits": view.n_bits, "cluster_dim": view.cluster_dim}
                owner.module.qconfig = SimpleNamespace(
                    weight=SimpleNamespace(p=SimpleNamespace(keywords=keywords))
                )
        return self._model

    def step(self) -> None:
        self._prepared.step()

    def enable_fake_palett(self, enabled: bool) -> None:
        for palette in self._prepared.techniques():
            palette.switch("enabled", enabled)

    def report(self) -> Any:
        return self._prepared.report()

    def finalize(self, model: nn.Module | None = None, inplace: bool = False) -> nn.Module:
        return self._prepared.finalize()


class PalettizerModules:
    """coremltools' registry of the classes that it exchanges layers for; ours stay what they are, parametrized."""

    @staticmethod
    def get_palettizer_module(module: nn.Module) -> Any:
        return _Parametrized(type(module))


class _Parametrized:
    def __init__(self, kind: type[nn.Module]) -> None:
        self._kind = kind

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, type)
            and issubclass(other, self._kind)
            and other.__module__ == parametrize.__name__
        )

    def __hash__(self) -> int:
        return hash(self._kind)


def _keywords(config: DKMPalettizerConfig) -> dict[str, Any]:
    types = {
        kind: _section(entry)
        for kind, entry in config.module_type_configs.items()
        # coremltools' default names LayerNorm too, whose weights are vectors.
        if getattr(kind, "__name__", kind) in KIND_NAMES
    }
    names = {name: _section(entry) for name, entry in config.module_name_configs.items()}
    return {
        "global_config": _section(config.global_config),
        "module_type_configs": types,
        "module_name_configs": names,
    }


def _section(entry: Any) -> Any:
    if isinstance(entry, list):
        return [_section(part) for part in entry]
    if entry is None:
        return None
    values = attrs.asdict(entry)
    return {key: value for key, value in values.items() if value is not None and key not in _DEPRECATED}
