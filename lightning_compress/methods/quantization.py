"""Quantization-aware training (Jacob et al., arXiv 1712.05877), on coremltools' `LinearQuantizer`."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.ao.quantization as aoquant
from coremltools.optimize.torch._utils.torch_utils import maybe_convert_str_to_mod_type
from coremltools.optimize.torch.quantization import (
    LinearQuantizer,
    LinearQuantizerConfig,
    ModuleLinearQuantizerConfig,
)
from coremltools.optimize.torch.quantization.modules import qat_modules
from coremltools.optimize.torch.quantization.modules.learnable_fake_quantize import LearnableFakeQuantize
from torch import fx, nn

from lightning_compress.errors import CompressionError, ConfigurationError, TraceError
from lightning_compress.methods.base import Method, PreparedMethod, check_finite, refuse_empty
from lightning_compress.methods.configuration import Schema, nearest_key
from lightning_compress.methods.learnable import mend_learnable_loading
from lightning_compress.methods.schedule import FitLength, Point, check_point
from lightning_compress.package.targets import Capability
from lightning_compress.processes import broadcast

_logger = logging.getLogger(__name__)

_MILESTONES = ("observe", "fake-quantize", "stop observing", "freeze batch norm")
_VALUES = {
    "algorithm": ("vanilla", "learnable"),
    "weight_dtype": ("qint8", "quint8", "qint4", "quint4", "float32"),
    "activation_dtype": ("quint8", "float32"),
    "quantization_scheme": ("symmetric", "affine"),
    "weight_observer": ("moving_average_min_max", "min_max", "ema_min_max"),
    "activation_observer": ("moving_average_min_max", "min_max", "ema_min_max"),
    "weight_per_channel": (True, False),
}


class LinearQuantization(Method):
    """Train with weights, or weights and activations, rounded to integers.

    Every key of coremltools' `ModuleLinearQuantizerConfig` is a keyword argument: `algorithm` (`vanilla`, `learnable`),
    `weight_dtype` (`qint8`, `qint4`, ...), `activation_dtype` (`quint8`; `float32` quantizes weights only),
    `weight_per_channel`, `quantization_scheme`, the observers, and `milestones`: four points at which observing and
    fake quantization begin, observing stops and batch norm freezes, each an `int` of optimizer steps, a `float`
    fraction of the fit, or -1 for never. Beside them stand `module_type_configs`, `module_name_configs` (regular
    expressions here too, where coremltools takes exact names), `non_traceable_module_names` and
    `preserved_attributes`.

    The module is traced with `torch.fx` and replaced by a graph module.

    Raises:
        ConfigurationError: An unknown key or an invalid value, with the valid ones.

    Example:
        >>> method = LinearQuantization(weight_dtype="qint8", milestones=[0, 0.1, 0.6, 0.7])
    """

    schema = Schema(
        technique="LinearQuantization",
        module_class=ModuleLinearQuantizerConfig,
        module_types=(
            nn.Linear,
            nn.Conv1d,
            nn.Conv2d,
            nn.Conv3d,
            nn.ConvTranspose1d,
            nn.ConvTranspose2d,
            nn.ConvTranspose3d,
        ),
        any_operation=True,
        extra_keys=("non_traceable_module_names", "preserved_attributes"),
    )

    def __init__(self, **configuration: Any) -> None:
        super().__init__(**configuration)
        for key in self.configuration.by_type:
            if isinstance(maybe_convert_str_to_mod_type(key), str):
                raise ConfigurationError(
                    f"module_type_configs of LinearQuantization has {key!r}; valid are the names of "
                    "torch.nn modules and "
                    f'functions, "torch.<function>" and "operator.<function>"'
                )
        self.milestones = self._shared("milestones")
        self._shared("algorithm")
        self._shared("quantization_scheme")

    def _shared(self, key: str) -> Any:
        """The value of a key that coremltools reads from one place only."""
        found: list[Any] = []
        self.configuration.map_modules(lambda keys, source: found.append(keys.get(key)))
        given = [value for value in found if value is not None]
        if any(value != given[0] for value in given):
            raise ConfigurationError(
                f"{key} of LinearQuantization differs between modules: {given}; valid is one value for all"
            )
        return given[0] if given else None

    @property
    def needs_example_inputs(self) -> bool:
        """The module is traced and its shapes are observed."""
        return True

    @property
    def fake_quantizes(self) -> bool:
        """Always."""
        return True

    @property
    def freezes_batch_norm(self) -> bool:
        """By the fourth milestone."""
        return self.milestones is not None and self.milestones[3] != -1

    def check_values(self, keys: Mapping[str, Any], source: str) -> None:
        """Refuse data types, algorithms and milestones that cannot be."""
        for key, valid in _VALUES.items():
            if key in keys and _dtype_name(keys[key]) not in valid:
                raise ConfigurationError(f"{key} of {source} is {keys[key]!r}; valid are {list(valid)}")
        if "weight_n_bits" in keys:
            raise ConfigurationError(nearest_key("weight_n_bits", source, self.schema.module_keys))
        if keys.get("milestones") is not None:
            _check_milestones(keys["milestones"], source)

    def select(self, module: nn.Module) -> dict[str, dict[str, Any]]:
        """The modules whose weights are quantized, by name, each with its keys."""
        self.configuration.check_patterns(module)
        names = dict(module.named_modules())
        for name in self.configuration.extra.get("non_traceable_module_names", ()):
            if name not in names:
                raise ConfigurationError(
                    f"non_traceable_module_names has {name!r}, which the model does not have; valid are names such as "
                    f"{[key for key in names if key][:5]}"
                )
        by_type = {
            maybe_convert_str_to_mod_type(key): entry for key, entry in self.configuration.by_type.items()
        }
        selection: dict[str, dict[str, Any]] = {}
        for name, submodule in names.items():
            if not isinstance(submodule, self.schema.module_types):
                continue
            keys, pattern = self.configuration.keys_for(name, submodule)
            if pattern is None and type(submodule) in by_type:
                keys = by_type[type(submodule)]
            if keys is None or _dtype_name(keys.get("weight_dtype", "qint8")) == "float32":
                continue
            check_finite(name, submodule.get_parameter("weight"))
            selection[name] = keys
        quantizes_activations = any(
            entry is not None and _dtype_name(entry.get("activation_dtype", "quint8")) != "float32"
            for entry in (self.configuration.global_config, *self.configuration.by_type.values())
        )
        if not quantizes_activations:
            refuse_empty(
                selection, "LinearQuantization", "no convolution or linear layer is left by its configuration"
            )
        return selection

    def capabilities(self, selection: Mapping[str, Mapping[str, Any]]) -> set[Capability]:
        """Integer weights by their bits, and integer activations where any are asked for."""
        needed: set[Capability] = set()
        for keys in selection.values():
            four_bits = _dtype_name(keys.get("weight_dtype", "qint8")).endswith("int4")
            needed.add(Capability.INT4_WEIGHTS if four_bits else Capability.INT8_WEIGHTS)
        entries = (
            self.configuration.global_config,
            *self.configuration.by_type.values(),
            *self.configuration.by_name.values(),
        )
        if any(
            e is not None and _dtype_name(e.get("activation_dtype", "quint8")) != "float32" for e in entries
        ):
            needed.add(Capability.INT8_ACTIVATIONS)
        return needed

    def prepare(
        self,
        module: nn.Module,
        selection: Mapping[str, Mapping[str, Any]],
        example_inputs: tuple[Any, ...] | None,
    ) -> PreparedQuantization:
        """Trace `module` and insert observers and fake quantization.

        Raises:
            TraceError: `torch.fx` cannot follow the forward; names the modules to exclude.
        """
        assert example_inputs is not None
        config = self._coremltools_config(module)
        quantizer = LinearQuantizer(module, config)
        training = module.training
        try:
            prepared = quantizer.prepare(example_inputs, inplace=True)
        except Exception as error:
            raise TraceError(_trace_message(module, error)) from error
        prepared.train(training)
        mend_learnable_loading(prepared)
        return PreparedQuantization(prepared, quantizer, self.milestones, example_inputs)

    def _coremltools_config(self, module: nn.Module) -> LinearQuantizerConfig:
        given = self.configuration
        by_name: dict[str, Any] = {}
        for name, _ in module.named_modules():
            pattern = next((p for p in given.by_name if re.fullmatch(p, name)), None)
            if pattern is not None and name:
                by_name[name] = given.by_name[pattern]
        try:
            return LinearQuantizerConfig.from_dict(
                {
                    "global_config": _without_milestones(given.global_config),
                    "module_type_configs": {
                        key: _without_milestones(entry) for key, entry in given.by_type.items()
                    },
                    "module_name_configs": {
                        key: _without_milestones(entry) for key, entry in by_name.items()
                    },
                    **given.extra,
                }
            )
        except Exception as error:
            raise ConfigurationError(
                f"coremltools refuses the configuration of LinearQuantization: {error}"
            ) from error


class PreparedQuantization(PreparedMethod):
    """Observers and fake quantization in a module and where their milestones stand."""

    def __init__(
        self,
        module: nn.Module,
        quantizer: LinearQuantizer,
        milestones: list[Point] | None,
        example_inputs: tuple[Any, ...],
    ) -> None:
        self.module = module
        self._example_inputs = example_inputs
        self._rehearsal = False
        self._quantizer = quantizer
        self._given = milestones
        self._milestones: list[int] | None = None
        self._resting: list[torch.Tensor] = []
        self._learnable = [m for m in module.modules() if isinstance(m, LearnableFakeQuantize)]
        if milestones is not None:
            module.apply(aoquant.disable_observer)
            module.apply(aoquant.disable_fake_quant)

    @property
    def _last_step(self) -> int:
        return max((point + 1 for point in self._milestones or ()), default=0)

    def resolve_schedule(self, length: FitLength) -> None:
        """Turn fractions of the fit into steps."""
        self._rehearsal = length.rehearsal
        if self._given is None:
            return
        source = "milestones of LinearQuantization"
        self._milestones = [length.step_of(point, source) for point in self._given]
        # A milestone takes effect after the optimizer step that follows it.
        for index, (given, point) in enumerate(zip(self._given, self._milestones, strict=True)):
            if isinstance(given, float) and point > 0:
                self._milestones[index] = point - 1
        if self._rehearsal:
            # Nothing may be quantized before something was observed, however short the fit.
            first = self._milestones[0]
            self._milestones[1:] = [
                point if point == -1 else max(point, first + 1) for point in self._milestones[1:]
            ]
        elif -1 != self._milestones[2] <= self._milestones[0]:
            raise ConfigurationError(
                f"{source} stop observing at optimizer step {self._milestones[2]}, and begin at {self._milestones[0]}: "
                "no scale would be known; stop later, train longer, or give -1 for never"
            )
        length.check(self._last_step, source)
        self._quantizer._milestones = self._milestones

    def step(self) -> None:
        """Advance by one optimizer step and pass the milestones that are due."""
        if any(bool(fake.observer_enabled[0]) for fake in self._learnable):
            # coremltools 9.0 reduces what learnable quantization observes over GPUs only, and DDP broadcasts buffers
            # only: on CPUs each process would go on with scales of its own.
            broadcast(tensor for fake in self._learnable for tensor in (fake.scale, fake.zero_point))
        if self._milestones is not None:
            self._quantizer.step()
        else:
            self._quantizer._step_count += 1

    def finalize(self, module: nn.Module) -> nn.Module:
        """Replace fake quantization by integer weights and, where asked for, activations.

        Raises:
            CompressionError: The observers never saw a value, so no scale is known.
        """
        blind = [name for name, observer in _observers(module) if _saw_nothing(observer)]
        total = sum(1 for _ in _observers(module))
        if blind and len(blind) == total:
            raise CompressionError(
                f"quantization cannot be finalized: after {self._quantizer._step_count} optimizer "
                f"steps none of {total} "
                f"observers has seen a value; milestones {self._milestones} begin observing at "
                f"{_first(self._milestones)}"
            )
        if blind:
            _logger.warning(
                "%d of %d observers never saw a value and keep a scale of 1: %s", len(blind), total, blind[:5]
            )
        for submodule in module.modules():
            # coremltools' own observers would all-reduce, and wait for ranks that do not finalize.
            if hasattr(submodule, "synchronize"):
                submodule.__dict__["synchronize"] = False
        finalized: nn.Module = self._quantizer.finalize(module, inplace=True)
        return finalized

    def end_training(self) -> None:
        """Let observers see the example inputs where a rehearsal was too short for its milestones."""
        if self._rehearsal:
            # On every process: observers of coremltools reduce over all of them.
            self.module.apply(aoquant.enable_observer)
            parameter = next(self.module.parameters())
            # Batch normalization refuses a single example in training mode.
            self.module.eval()
            with torch.no_grad():
                self.module(*(_like(given, parameter) for given in self._example_inputs))

    def metrics(self) -> dict[str, float]:
        """Nothing that a step does not measure."""
        return {}

    def unfinished(self) -> str | None:
        """The step reached and the last milestone."""
        if self._quantizer._step_count >= self._last_step:
            return None
        pending = [
            f"{what} at {point}"
            for what, point in zip(_MILESTONES, self._milestones or (), strict=True)
            if point >= self._quantizer._step_count
        ]
        return f"quantization stands at step {self._quantizer._step_count}; to come: {', '.join(pending)}"

    def state_dict(self) -> dict[str, Any]:
        """The step count; the switches of observers and fake quantization are buffers."""
        return {"step_count": self._quantizer._step_count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the step count."""
        self._quantizer._step_count = state["step_count"]

    def evaluate(self, active: bool) -> None:
        """Let the observers rest during evaluation: they would learn from it otherwise.

        So does fake quantization whose observer has seen nothing yet, and which has no scale.
        """
        if active and not self._resting:
            fakes = [m for m in self.module.modules() if isinstance(m, aoquant.FakeQuantizeBase)]
            switches = [fake.observer_enabled for fake in fakes]
            switches += [fake.fake_quant_enabled for fake in fakes if _is_blind(fake)]
            self._resting = [switch for switch in switches if bool(switch[0])]
            for switch in self._resting:
                switch.zero_()
        elif not active:
            for switch in self._resting:
                switch.fill_(1)
            self._resting = []

    def start_training(self) -> None:
        """Freeze batch norm if its milestone has passed: coremltools keeps that in no buffer."""
        if self._milestones is not None and 0 <= self._milestones[3] < self._quantizer._step_count:
            self.module.apply(qat_modules.freeze_bn_stats)


def _dtype_name(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return getattr(value, "value", value)


def _without_milestones(keys: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if keys is None else {key: value for key, value in keys.items() if key != "milestones"}


def _check_milestones(milestones: Any, source: str) -> None:
    if not isinstance(milestones, list | tuple) or len(milestones) != 4:
        raise ConfigurationError(
            f"milestones of {source} is {milestones!r}; valid is a list of four: {', '.join(_MILESTONES)}"
        )
    for what, point in zip(_MILESTONES, milestones, strict=True):
        check_point(point, f"milestone {what!r} of {source}", unused=-1)
    observe, quantize = milestones[0], milestones[1]
    if observe == -1:
        raise ConfigurationError(
            f"milestones of {source} never observe (-1), so no scale would be known; valid is a step"
        )
    if quantize != -1 and type(observe) is type(quantize) and quantize < observe:
        raise ConfigurationError(
            f"milestones of {source} fake-quantize at {quantize}, before they observe at {observe}; valid is the same "
            f"point or a later one"
        )


def _like(given: Any, like: torch.Tensor) -> Any:
    if not isinstance(given, torch.Tensor):
        return given
    return given.to(like.device, like.dtype if given.is_floating_point() else given.dtype)


def _first(milestones: list[int] | None) -> int | None:
    return milestones[0] if milestones else None


def _observers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, submodule in module.named_modules():
        observer = getattr(submodule, "activation_post_process", None)
        if isinstance(submodule, aoquant.FakeQuantizeBase) and hasattr(observer, "min_val"):
            assert observer is not None
            yield name, observer


def _is_blind(fake: nn.Module) -> bool:
    observer = getattr(fake, "activation_post_process", None)
    return hasattr(observer, "min_val") and _saw_nothing(observer)


def _saw_nothing(observer: Any) -> bool:
    return observer.min_val.numel() == 0 or bool((observer.min_val > observer.max_val).all())


def _trace_message(module: nn.Module, error: Exception) -> str:
    untraceable: list[str] = []
    for name, submodule in module.named_modules():
        leaf = next(submodule.children(), None) is None and type(submodule).__module__.startswith("torch.nn")
        if not name or leaf:
            continue
        try:
            fx.symbolic_trace(submodule)
        except Exception:
            untraceable.append(name)
    smallest = [
        name for name in untraceable if not any(other.startswith(f"{name}.") for other in untraceable)
    ]
    advice = (
        f"add {smallest} to non_traceable_module_names, or rewrite their forward"
        if smallest
        else f"rewrite the forward of {type(module).__name__} without control flow that depends on tensors"
    )
    return f"LinearQuantization cannot trace {type(module).__name__} with torch.fx: {error}; {advice}"
