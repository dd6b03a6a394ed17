from __future__ import annotations

import copy
import sys

import pytest
import torch
import torchvision
from coremltools.optimize.torch.pruning import MagnitudePruner, MagnitudePrunerConfig
from torch import nn

from lightning_compress.coreml.quiet import quiet_conversion
from lightning_compress.coreml.structure import as_tuple, by_position, input_names
from lightning_compress.coreml.trace import convertible_copy
from lightning_compress.coreml.trace import trace as trace_by_position
from lightning_compress.errors import TraceError


@pytest.fixture(autouse=True)
def _quiet():
    with quiet_conversion():
        yield


def trace(module, example_inputs):
    return trace_by_position(
        by_position(module, example_inputs), as_tuple(example_inputs), name=type(module).__name__
    )


class TwoInputs(nn.Module):
    def forward(self, left, right):
        return left + 2 * right, (left - right,)


def test_a_trace_computes_what_the_module_computes(network, digits):
    traced = trace(network, digits[:1])
    torch.testing.assert_close(traced.module(digits[1:2]), network(digits[1:2]))
    assert [tuple(output.shape) for output in traced.outputs] == [(1, 10)]


def test_inputs_can_come_by_position_or_by_name():
    left, right = torch.ones(2), torch.full((2,), 3.0)
    by_position = trace(TwoInputs(), (left, right))
    by_name = trace(TwoInputs(), {"right": right, "left": left})
    assert [output.tolist() for output in by_position.outputs] == [[7.0, 7.0], [-2.0, -2.0]]
    assert [output.tolist() for output in by_name.outputs] == [[7.0, 7.0], [-2.0, -2.0]]
    assert input_names(TwoInputs(), {"right": right, "left": left}) == ["right", "left"]
    assert input_names(TwoInputs(), (left, right)) == ["left", "right"]
    assert input_names(nn.Identity(), left) == ["input"]


def test_a_vision_transformer_can_be_traced():
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(32, 16, 1, 2, 16, 32).eval()
    traced = trace(convertible_copy(network), torch.rand(1, 3, 32, 32))
    assert traced.outputs[0].shape == (1, 1000)
    assert "_native_multi_head_attention" not in str(traced.module.inlined_graph)
    assert torch.backends.mha.get_fastpath_enabled()


def test_random_numbers_gradients_and_threads_go_on_as_if_nothing_had_happened(network, digit):
    before = torch.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled()
    trace(convertible_copy(nn.Sequential(nn.Dropout(0.5), network)), digit)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == before[1:]


def test_a_module_that_is_random_in_evaluation_mode_is_refused():
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    with pytest.raises(TraceError, match=r"output 0 of Noisy differs by .* random in evaluation mode"):
        trace(Noisy(), torch.zeros(3))


def test_a_module_whose_course_depends_on_its_inputs_is_refused():
    class Branching(nn.Module):
        def forward(self, x):
            return x + 1 if x.flatten()[0] > 0 else x - 1

    with pytest.raises(
        TraceError, match=r"output 0 of Branching differs by 2 .*another course for other inputs"
    ):
        trace(Branching(), torch.tensor([[1.0, -1.0]]))


def test_outputs_that_are_not_finite_are_compared_too():
    class Logarithm(nn.Module):
        def forward(self, x):
            return torch.log(x)

    assert trace(Logarithm(), torch.tensor([-1.0, 0.0, 1.0])).outputs[0][2] == 0


def test_a_module_that_fails_is_named_with_its_own_error():
    with pytest.raises(TraceError, match=r"Linear cannot be traced on its example inputs: .*shapes"):
        trace(nn.Linear(3, 4), torch.zeros(1, 5))


def test_what_is_no_tensor_is_refused_and_the_wrapper_named():
    class Texts(nn.Module):
        def forward(self, x):
            return {"out": x, "kind": ("raw", x)}

    with pytest.raises(TraceError, match=r"Texts returns str at kind\.0;.*wrapper"):
        trace(Texts(), torch.zeros(3))


def test_inputs_of_half_precision_are_traced_as_floats():
    assert as_tuple(torch.zeros(2, dtype=torch.bfloat16))[0].dtype == torch.float32


def test_a_dictionary_of_outputs_keeps_its_names():
    class Dictionary(nn.Module):
        def forward(self, x):
            return {"out": x + 1, "none": None, "aux": (x + 2, [x + 3])}

    traced = trace(Dictionary(), torch.zeros(3))
    assert traced.output_names == ["out", "aux_0", "aux_1_0"]
    assert [output[0].item() for output in traced.outputs] == [1, 2, 3]
    assert [output[0].item() for output in traced.module(torch.ones(3))] == [2, 3, 4]


def test_the_copy_is_ready_and_the_original_untouched(network):
    network = network.to(torch.bfloat16).train()
    copied = convertible_copy(network)
    assert not copied.training
    assert {parameter.dtype for parameter in copied.parameters()} == {torch.float32}
    assert network.training
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    assert all(parameter.requires_grad for parameter in network.parameters())


def prune_half(network: nn.Module) -> nn.Module:
    pruner = MagnitudePruner(
        network, MagnitudePrunerConfig.from_dict({"global_config": {"target_sparsity": 0.5}})
    )
    pruner.prepare(inplace=True)
    pruner.step()
    return pruner.finalize(inplace=True)


def test_a_copy_of_a_pruned_copy_has_the_weights_of_that_copy(network, digit):
    first = copy.deepcopy(prune_half(network))
    with torch.no_grad():
        first[3].weight.mul_(2)
    torch.testing.assert_close(convertible_copy(first)[3].weight, first[3].weight)
    assert "__getstate__" in vars(first[3])


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no __getstate__ on every object")
def test_coremltools_still_gives_pruned_modules_a_state_of_their_own(network):
    first = copy.deepcopy(prune_half(network))
    original = first[3].weight.clone()
    first[3].weight = nn.Parameter(2 * original)
    assert torch.equal(copy.deepcopy(first)[3].weight, original), (
        "coremltools has fixed its __getstate__; trace._copy is not needed any more"
    )
