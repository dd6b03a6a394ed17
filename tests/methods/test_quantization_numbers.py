"""Step by step, quantization computes what coremltools' `LinearQuantizer` computes."""

from __future__ import annotations

import copy
import itertools
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.quantization import LinearQuantization

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from coremltools.optimize.torch.quantization import LinearQuantizer, LinearQuantizerConfig

pytestmark = pytest.mark.filterwarnings("ignore")

OBSERVERS = ("moving_average_min_max", "min_max", "ema_min_max")


def network(transposed=True):
    torch.manual_seed(0)
    second = nn.ConvTranspose2d(6, 4, 2) if transposed else nn.Conv2d(6, 4, 2, padding=1)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), second, nn.Tanh(), nn.Flatten(), nn.Linear(4 * 49, 5))


def batches(number, scale=1.0):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, 8, 8, generator=generator) * scale * (index + 1) for index in range(number)]


def run_both(keys, make=network, steps=7, learning_rate=0.2):
    """Train both for some steps; after each yield both modules and what they put out."""
    keys = {"milestones": [0, 1, 4, 5], **keys}
    theirs = LinearQuantizer(make(), LinearQuantizerConfig.from_dict({"global_config": keys}))
    reference = theirs.prepare((torch.zeros(1, 3, 8, 8),))
    ours = make()
    prepared = PreparedModule(ours, [LinearQuantization(**keys)])
    prepared.start_training()
    optimizers = [torch.optim.SGD(module.parameters(), learning_rate) for module in (reference, ours)]
    for batch in batches(steps):
        outputs = []
        for module, optimizer in zip((reference, ours), optimizers, strict=True):
            optimizer.zero_grad()
            output = module(batch)
            output.square().mean().backward()
            optimizer.step()
            outputs.append(output.detach())
        theirs.step()
        prepared.step()
        yield reference, ours, outputs


def weight_quantizers(reference, ours):
    for name in ("0", "2", "5"):
        layer = reference.get_submodule(name)
        if not hasattr(layer, "weight_fake_quant"):
            layer = next(
                module
                for key, module in reference.named_modules()
                if key.startswith(f"{name}.") and hasattr(module, "weight_fake_quant")
            )
        yield layer, ours.get_submodule(name)


def known_parameters(fake_quantize):
    """What coremltools would round by; it clamps learned parameters in the next forward pass."""
    if fake_quantize.fake_quant_enabled[0] == 1 and isinstance(fake_quantize.scale, nn.Parameter):
        return copy.deepcopy(fake_quantize).calculate_qparams()
    return fake_quantize.scale, fake_quantize.zero_point.int()


@pytest.mark.parametrize(
    ("algorithm", "scheme", "per_channel", "observer", "dtype"),
    [
        *itertools.product(
            ("vanilla", "learnable"), ("symmetric", "affine"), (True, False), OBSERVERS, ("qint8",)
        ),
        *itertools.product(
            ("vanilla", "learnable"),
            ("symmetric", "affine"),
            (True,),
            OBSERVERS[:1],
            ("quint8", "qint4", "quint4"),
        ),
    ],
)
def test_weights_follow_coremltools(algorithm, scheme, per_channel, observer, dtype):
    keys = {
        "algorithm": algorithm,
        "quantization_scheme": scheme,
        "weight_per_channel": per_channel,
        "weight_observer": observer,
        "weight_dtype": dtype,
        "activation_dtype": "float32",
    }
    # coremltools takes the zero point 127 in transposed convolutions, as if 8 bits were a range of the user's own.
    make = partial(network, transposed=not (dtype == "quint8" and scheme == "symmetric"))
    for reference, ours, outputs in run_both(keys, make):
        torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-3, atol=1e-4)
        for theirs, layer in weight_quantizers(reference, ours):
            technique = layer.parametrizations["weight"][0]
            torch.testing.assert_close(
                layer.parametrizations["weight"].original, theirs.weight, rtol=1e-3, atol=1e-4
            )
            quantizer = technique.quantizer
            if not quantizer.is_on("known"):
                continue
            scale, zero_point = quantizer.parameters_for()
            if algorithm == "learnable":
                scale, zero_point = quantizer.scale.detach(), quantizer.zero_point.detach().int()
            their_scale, their_zero_point = known_parameters(theirs.weight_fake_quant)
            torch.testing.assert_close(scale.flatten(), their_scale.flatten(), rtol=2e-3, atol=1e-6)
            assert torch.equal(zero_point.flatten(), their_zero_point.flatten())


def rectified_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Conv2d(4, 4, 1))


@pytest.mark.parametrize("algorithm", ["vanilla", "learnable"])
@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
@pytest.mark.parametrize("observer", OBSERVERS)
def test_inputs_of_layers_follow_coremltools(algorithm, scheme, observer):
    keys = {"algorithm": algorithm, "quantization_scheme": scheme, "activation_observer": observer}
    # Weights stand still: coremltools rounds the output of the last layer too, whose gradients differ so.
    for reference, ours, _ in run_both(keys, rectified_network, learning_rate=0.0):
        theirs = dict(reference.named_modules())
        # What comes into the net, out of the activation function, and out of the second layer.
        for their_name, name in (("0", "0"), ("1", "2"), ("2", "3")):
            quantizer = ours.get_submodule(name).compressed_inputs["input"].quantizer
            if not quantizer.is_on("known"):
                continue
            scale, zero_point = quantizer.parameters_for()
            their_scale, their_zero_point = known_parameters(theirs[f"activation_post_process_{their_name}"])
            torch.testing.assert_close(scale.flatten(), their_scale.flatten())
            assert torch.equal(zero_point.flatten(), their_zero_point.flatten())
