"""Step by step, quantization computes what coremltools' `LinearQuantizer` computes."""

from __future__ import annotations

import copy
import itertools
import warnings

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


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.Tanh(),
        nn.ConvTranspose2d(6, 4, 2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(4 * 49, 5),
    )


def batches(number, scale=1.0):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, 8, 8, generator=generator) * scale * (index + 1) for index in range(number)]


def run_both(keys, steps=7, learning_rate=0.2):
    """Train both for some steps, and after each compare output, weights, scales and zero points."""
    keys = {"milestones": [0, 1, 4, 5], **keys}
    theirs = LinearQuantizer(network(), LinearQuantizerConfig.from_dict({"global_config": keys}))
    reference = theirs.prepare((torch.zeros(1, 3, 8, 8),))
    ours = network()
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
    for step, (reference, ours, outputs) in enumerate(run_both(keys)):
        torch.testing.assert_close(
            outputs[1], outputs[0], rtol=1e-3, atol=1e-4, msg=lambda m: f"step {step}: {m}"
        )
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
            if dtype == "quint8" and scheme == "symmetric" and isinstance(layer, nn.ConvTranspose2d):
                # coremltools takes 127 here, as if 8 bits were a range of its user's own, and 128 elsewhere.
                their_zero_point = their_zero_point + 1
            assert torch.equal(zero_point.flatten(), their_zero_point.flatten())
