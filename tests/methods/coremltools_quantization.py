"""A pytest plugin: our quantization under the names of coremltools', so that coremltools' own tests run on it."""

from __future__ import annotations

import copy
import dataclasses

import cattrs
import coremltools.optimize.torch.quantization as package
import torch
from coremltools.optimize.torch.quantization import QuantizationScheme
from coremltools.optimize.torch.quantization.modules import learnable_fake_quantize, observers
from torch import nn
from torch.ao.quantization import FakeQuantizeBase
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_compress.errors import CompressionError
from lightning_compress.methods.fake_quantizer import FakeQuantizer, Rounding
from lightning_compress.methods.mechanism.configuration import unwrapped
from lightning_compress.methods.mechanism.inputs import input_techniques
from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.observers import Groups, IntegerType, Observer
from lightning_compress.methods.quantization import LinearQuantization, QuantizationOptions


class ModuleLinearQuantizerConfig:
    """The keys of one section, with our checks and our defaults."""

    def __init__(self, **keys):
        LinearQuantization(global_config=keys)
        self.__dict__.update(dataclasses.asdict(QuantizationOptions()), **keys)
        self.quantization_scheme = QuantizationScheme(self.quantization_scheme)
        self.weight_n_bits = IntegerType.of(unwrapped(self.weight_dtype)).n_bits

    @classmethod
    def from_dict(cls, keys):
        try:
            return cls(**keys)
        except CompressionError as error:
            raise cattrs.errors.ClassValidationError("refused", [error], cls) from error

    def __eq__(self, other):
        return self.__dict__ == other.__dict__

    __hash__ = None


class LinearQuantizerConfig:
    """The sections, with our checks."""

    def __init__(self, given=None):
        given = given or {}
        self.method = LinearQuantization(**given)

        def section(entry):
            return None if entry is None else ModuleLinearQuantizerConfig.from_dict(entry)

        self.global_config = section(given.get("global_config", None if given else {}))
        self.module_type_configs = {
            key: section(keys) for key, keys in given.get("module_type_configs", {}).items()
        }
        self.module_name_configs = {
            key: section(keys) for key, keys in given.get("module_name_configs", {}).items()
        }

    @classmethod
    def from_dict(cls, given):
        try:
            return cls(given)
        except CompressionError as error:
            raise cattrs.errors.ClassValidationError("refused", [error], cls) from error


class _Switches:
    """What a quantizer does at the moment, under the names of torch's fake quantization."""

    def __init__(self, quantizer):
        self._quantizer = quantizer

    @property
    def observer_enabled(self):
        return self._quantizer.is_on("observing")

    @property
    def fake_quant_enabled(self):
        return self._quantizer.is_on("quantizing")


class LinearQuantizer:
    """A prepared module, driven by hand."""

    def __init__(self, model, config=None):
        self.model = model
        self.config = config or LinearQuantizerConfig()
        self._quantization_scheme = QuantizationScheme(self.config.method._scheme)

    def prepare(self, example_inputs, inplace=False):
        model = self.model if inplace else copy.deepcopy(self.model)
        self.prepared = PreparedModule(model, [self.config.method])
        self.prepared.start_training()
        quantizers = [technique.quantizer for _, _, technique in input_techniques(model)]
        quantizers += [technique.quantizer for technique in self.prepared.techniques()]
        # coremltools rounds before and after a layer; we round what comes into it, and its weight.
        for index, quantizer in enumerate(quantizers[:2]):
            model.__dict__[f"activation_post_process_{index}"] = _Switches(quantizer)
        self._show_frozen()
        return model

    def step(self):
        self.prepared.step()
        self._show_frozen()

    def report(self):
        return self.prepared.report()

    def finalize(self, inplace=False):
        return self.prepared.finalize([(torch.randn(1, 1, 28, 28),)])

    def _show_frozen(self):
        """Say of a convolution before batch norm whether the batch norm is frozen, as a fused module would."""
        before = None
        for layer in self.prepared.module.modules():
            if isinstance(layer, _BatchNorm) and before is not None:
                layer.train()
                layer(torch.randn(2, layer.num_features, 2, 2))
                for part in (before, before.__dict__.setdefault("conv", nn.Identity())):
                    part.__dict__["freeze_bn"] = not layer.training
            before = layer if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) else before


def _rounding(dtype, qscheme, ch_axis, learnable):
    return Rounding(
        IntegerType.of(unwrapped(dtype)),
        Observer.EMA_MIN_MAX,
        symmetric=qscheme in (torch.per_tensor_symmetric, torch.per_channel_symmetric),
        learnable=learnable,
        groups=Groups() if ch_axis == -1 else Groups(ch_axis),
    )


class EMAMinMaxObserver(nn.Module):
    """Our range of a tensor of shape (3, 4, 6, 6), and what follows from it."""

    def __init__(self, dtype, qscheme, ch_axis=-1):
        super().__init__()
        self.rounding = _rounding(dtype, qscheme, ch_axis, False)
        shape = self.rounding.groups.parameter_shape((3, 4, 6, 6))
        self.register_buffer("min_val", torch.full(shape, torch.inf))
        self.register_buffer("max_val", torch.full(shape, -torch.inf))

    def forward(self, tensor):
        new = self.rounding.groups.range_of(tensor)
        self.min_val, self.max_val = self.rounding.observer.combine((self.min_val, self.max_val), new)
        return tensor

    def calculate_qparams(self):
        return self.rounding.parameters(self.min_val, self.max_val)


class LearnableFakeQuantize(FakeQuantizeBase):
    """Our fake quantization, learned, with torch's switches."""

    def __init__(self, observer, dtype, qscheme, reduce_range=False):
        super().__init__()
        assert not reduce_range
        self.make = lambda axis, shape: FakeQuantizer(
            _rounding(dtype, qscheme, axis, True), shape, observing=False, quantizing=False
        )
        self.quantizer = self.make(-1, (1, 1, 1, 1))

    def set_ch_axis(self, axis):
        self.axis = axis

    def set_param_shape(self, shape):
        self.quantizer = self.make(self.axis, Groups(self.axis).parameter_shape(shape))

    def set_device(self, device):
        self.to(device)

    def forward(self, tensor):
        self.quantizer.switch("observing", bool(self.observer_enabled[0]))
        self.quantizer.switch("quantizing", bool(self.fake_quant_enabled[0]))
        rounded = self.quantizer(tensor, observe=self.quantizer.is_on("observing"))
        self.quantizer.commit()
        return rounded

    def calculate_qparams(self):
        return self.quantizer.scale.detach().clone(), self.quantizer.zero_point.detach().int()


package.ModuleLinearQuantizerConfig = ModuleLinearQuantizerConfig
package.LinearQuantizerConfig = LinearQuantizerConfig
package.LinearQuantizer = LinearQuantizer
observers.EMAMinMaxObserver = EMAMinMaxObserver
learnable_fake_quantize.LearnableFakeQuantize = LearnableFakeQuantize
