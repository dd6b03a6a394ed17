"""Palettization by differentiable k-means while a model trains (Cho et al., arXiv 2108.12659)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import attrs
from coremltools.optimize.torch.palettization import DKMPalettizerConfig, ModuleDKMPalettizerConfig
from coremltools.optimize.torch.palettization._supported_modules import DKMPalettizerModulesRegistry
from torch import nn

from lightning_compress.dkm.palettizer import DKMPalettizer
from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.base import Method, PreparedMethod, check_finite, refuse_empty
from lightning_compress.methods.configuration import Schema
from lightning_compress.methods.schedule import FitLength, Point, check_point
from lightning_compress.package.targets import PALETTE_BITS, Capability, palettization_capabilities

Kernel = Literal["histogram", "coremltools"]
_KERNELS = ("histogram", "coremltools")
_GRANULARITIES = ("per_tensor", "per_grouped_channel")
_MODULE_TYPES: tuple[type[nn.Module], ...] = DKMPalettizerModulesRegistry.get_supported_modules()


class DKMPalettization(Method):
    """Train with weights drawn from a palette of `2**n_bits` values that is learned with them.

    Every key of coremltools' `ModuleDKMPalettizerConfig` is a keyword argument, `n_bits` (1, 2, 3, 4, 6 or 8),
    `weight_threshold` (2048: smaller weights stay as they are), `granularity` and `group_size`,
    `enable_per_channel_scale`, `cluster_dim`, `milestone` and the options of the algorithm among them, beside
    `module_type_configs` and `module_name_configs`. The milestone, where palettization begins, is an `int` of optimizer
    steps or a `float` fraction of the fit.

    Args:
        kernel: `"histogram"`, which costs about as much as an optimizer step, or `"coremltools"`, the original, to
        compare. configuration: The keys.

    Raises:
        ConfigurationError: An unknown key or an invalid value, with the valid ones.

    Example:
        >>> method = DKMPalettization(n_bits=2, module_type_configs={"Linear": {"n_bits": 4}})
    """

    schema = Schema(
        technique="DKMPalettization", module_class=ModuleDKMPalettizerConfig, module_types=_MODULE_TYPES
    )

    def __init__(self, *, kernel: Kernel = "histogram", **configuration: Any) -> None:
        if kernel not in _KERNELS:
            raise ConfigurationError(f"kernel of DKMPalettization is {kernel!r}; valid are {list(_KERNELS)}")
        self.kernel = kernel
        super().__init__(**configuration)

    def describe(self) -> dict[str, Any]:
        """The configuration as plain types, the kernel included."""
        return {**super().describe(), "kernel": self.kernel}

    def check_values(self, keys: Mapping[str, Any], source: str) -> None:
        """Refuse bits, group sizes and milestones that cannot be, and options that coremltools ignores."""
        bits = keys.get("n_bits")
        if bits is not None and (type(bits) is not int or bits not in PALETTE_BITS):
            raise ConfigurationError(f"n_bits of {source} is {bits!r}; valid are {list(PALETTE_BITS)}")
        check_point(keys.get("milestone", 0), f"milestone of {source}")
        granularity = _plain(keys.get("granularity", "per_tensor"))
        if granularity not in _GRANULARITIES:
            raise ConfigurationError(
                f"granularity of {source} is {granularity!r}; valid are {list(_GRANULARITIES)}"
            )
        for key, default in (("group_size", None), ("cluster_dim", None), ("kmeans_max_iter", 3)):
            value = keys.get(key, default)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigurationError(f"{key} of {source} is {value!r}; valid is an int from 1")
        if granularity == "per_grouped_channel" and keys.get("group_size") is None:
            raise ConfigurationError(
                f"granularity of {source} is per_grouped_channel, which needs a group_size"
            )
        if granularity == "per_tensor" and keys.get("group_size") is not None:
            raise ConfigurationError(
                f"group_size of {source} is {keys['group_size']}, which has no meaning with "
                "granularity per_tensor; set "
                f"granularity to per_grouped_channel"
            )
        if keys.get("quantize_activations"):
            raise ConfigurationError(
                f"quantize_activations of {source} is true, which does nothing in coremltools 9 when "
                "the model is converted; "
                f"leave it out"
            )
        _module_config({key: value for key, value in keys.items() if key != "milestone"}, source)

    def select(self, module: nn.Module) -> dict[str, dict[str, Any]]:
        """The modules to palettize, by name, each with its keys."""
        self.configuration.check_patterns(module)
        selection: dict[str, dict[str, Any]] = {}
        too_small: dict[str, list[str]] = {}
        found: set[str] = set()
        for name, submodule in module.named_modules():
            if type(submodule) not in _MODULE_TYPES:
                continue
            keys, pattern = self.configuration.keys_for(name, submodule)
            if keys is None:
                continue
            registered = DKMPalettizerModulesRegistry.get_palettizer_module(submodule)
            parameters = registered.get_palettizable_parameters(submodule)
            smallest = min(parameter.numel() for parameter, _ in parameters)
            if smallest <= keys.get("weight_threshold", 2048):
                if pattern is not None:
                    too_small.setdefault(pattern, []).append(f"{name} ({smallest} weights)")
                continue
            for parameter, parameter_name in parameters:
                check_finite(f"{name}.{parameter_name}", parameter)
                _check_channels(name, parameter, keys)
            if pattern is not None:
                found.add(pattern)
            selection[name] = keys
        for pattern, names in too_small.items():
            if pattern not in found:
                raise ConfigurationError(
                    f"module_name_configs[{pattern!r}] of DKMPalettization matches only weights of no "
                    "more elements than "
                    f"its weight_threshold: {names[:3]}; set weight_threshold to 0 for this pattern, or leave it out"
                )
        refuse_empty(
            selection,
            "DKMPalettization",
            "no weight that its configuration leaves is larger than its weight_threshold (2048 unless set)",
        )
        return selection

    def capabilities(self, selection: Mapping[str, Mapping[str, Any]]) -> set[Capability]:
        """The palettes of the selected modules."""
        return set[Capability]().union(
            *(
                palettization_capabilities(
                    keys.get("n_bits") or 2,
                    grouped=_plain(keys.get("granularity", "per_tensor")) == "per_grouped_channel",
                    per_channel_scale=bool(keys.get("enable_per_channel_scale", False)),
                    cluster_dim=keys.get("cluster_dim") or 1,
                    int8_lut=keys.get("lut_dtype", "f32") in ("i8", "u8"),
                )
                for keys in selection.values()
            )
        )

    def prepare(
        self,
        module: nn.Module,
        selection: Mapping[str, Mapping[str, Any]],
        example_inputs: tuple[Any, ...] | None = None,
    ) -> PreparedPalettization:
        """Insert palettes into the selected modules of `module`, in place."""
        return PreparedPalettization(module, selection, self.kernel)


class PreparedPalettization(PreparedMethod):
    """Palettes in a module and where their milestones stand."""

    def __init__(self, module: nn.Module, selection: Mapping[str, Mapping[str, Any]], kernel: Kernel) -> None:
        training = module.training
        self._milestones: dict[str, Point] = {
            name: keys.get("milestone", 0) for name, keys in selection.items()
        }
        self._last_step = 0
        config = DKMPalettizerConfig()
        # coremltools fills an empty configuration with its own defaults for every type of module.
        config.global_config = None
        config.module_type_configs.clear()
        for name, keys in selection.items():
            # A milestone beyond reach keeps the palette off until the schedule is known.
            started = self._milestones[name] == 0
            values = {**keys, "milestone": 0 if started else _NEVER}
            # coremltools matches names as regular expressions.
            config.module_name_configs[re.escape(name)] = _module_config(values, name)
        self._palettizer = DKMPalettizer(module, config, kernel=kernel)
        self.module = self._palettizer.prepare(inplace=True)
        self.module.train(training)

    def resolve_schedule(self, length: FitLength) -> None:
        """Turn fractions of the fit into steps."""
        self._last_step = 0
        for name, point in self._milestones.items():
            source = f"the palettization milestone of {name!r}"
            step = length.step_of(point, source)
            if isinstance(point, float) and step > 0:
                # coremltools counts from 0: milestone m takes effect after optimizer step m + 1.
                step -= 1
            self._palettizer._milestones[name] = step
            if step > 0:
                self._last_step = max(self._last_step, step + 1)
        length.check(self._last_step, "the palettization schedule")

    def step(self) -> None:
        """Advance by one optimizer step and switch on the palettes that are due."""
        self._palettizer.step()

    def finalize(self, module: nn.Module) -> nn.Module:
        """Replace the weights of `module` by palette and indices."""
        finalized: nn.Module = self._palettizer.finalize(module, inplace=True)
        return finalized

    def metrics(self) -> dict[str, float]:
        """Nothing that a step does not measure."""
        return {}

    def unfinished(self) -> str | None:
        """The step reached and the last milestone."""
        if self._palettizer._step_count >= self._last_step:
            return None
        return f"palettization stands at step {self._palettizer._step_count} of {self._last_step}, its last milestone"

    def state_dict(self) -> dict[str, Any]:
        """Progress of the palettizer; palettes are buffers."""
        state: dict[str, Any] = self._palettizer.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the progress of the palettizer."""
        self._palettizer.load_state_dict(state)


_NEVER = 2**62


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)


def _module_config(keys: Mapping[str, Any], source: str) -> ModuleDKMPalettizerConfig:
    floats = {item.name for item in attrs.fields(ModuleDKMPalettizerConfig) if item.type is float}
    values: dict[str, Any] = {
        key: float(value) if key in floats and type(value) is int else value for key, value in keys.items()
    }
    permutation = values.get("cluster_permute")
    if isinstance(permutation, list):
        values["cluster_permute"] = tuple(permutation)
    try:
        return ModuleDKMPalettizerConfig(**values)
    except (TypeError, ValueError, AssertionError, DeprecationWarning) as error:
        reason = error.args[0] if error.args else error
        raise ConfigurationError(f"coremltools refuses the keys of {source}: {reason}") from error


def _check_channels(name: str, parameter: nn.Parameter, keys: Mapping[str, Any]) -> None:
    permutation = keys.get("cluster_permute")
    channels = parameter.shape[permutation[0] if permutation else 0]
    for key in ("group_size", "cluster_dim"):
        size = keys.get(key)
        if size is not None and channels % size:
            valid = [divisor for divisor in range(1, channels + 1) if channels % divisor == 0]
            raise ConfigurationError(
                f"{key} is {size}, which does not divide the {channels} output channels of {name!r}; "
                f"valid are {valid}, or "
                f"exclude the module with module_name_configs"
            )
