"""All palettes of a network in one go: what a forward pass makes of its weights is as if each were by itself."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from lightning_compress import MagnitudePruning
from lightning_compress.dkm import native
from lightning_compress.dkm.native.scalars import ClusteredScalars
from lightning_compress.errors import WeightError
from lightning_compress.methods import joint_palettes
from tests.methods.palettes import LAYERS, VARIANTS, batch, network, palette_of, prepared, train

pytestmark = pytest.mark.skipif(
    not native.serves_scalars(torch.zeros(1)),
    reason="the passes in C were not built: there was no compiler when the package was installed",
)


@pytest.fixture
def clustered(monkeypatch):
    """The number of weights of every call into C."""
    numbers = []
    make = ClusteredScalars.__init__

    def counting(self, weights, palettes):
        numbers.append(len(weights))
        make(self, weights, palettes)

    monkeypatch.setattr(ClusteredScalars, "__init__", counting)
    return numbers


def ready(module=None, *others, **options):
    preparation = prepared(module, *others, **options)
    preparation.start_training()
    preparation.module.train()
    return preparation


def apart(preparation):
    """Let each weight be computed by itself."""
    for technique in preparation.techniques():
        technique._joint = None
    return preparation


def gradients(module):
    return [None if each.grad is None else each.grad.clone() for each in module.parameters()]


def same(one, other):
    return all(
        first is second if first is None or second is None else torch.equal(first, second)
        for first, second in zip(one, other, strict=True)
    )


def both(run, make=ready):
    """What a run returns where palettes are computed together, and where each is by itself."""
    return run(make()), run(apart(make()))


FITS = {**VARIANTS, "annealed": {"annealing": {"factor": 0.1}}, "relative": {"relative_tau": 0.05}}


@pytest.mark.parametrize("options", FITS.values(), ids=FITS.keys())
def test_a_fit_ends_with_the_same_bits(options):
    states = []
    for arrange in (lambda preparation: preparation, apart):
        preparation = arrange(prepared(**options))
        train(preparation, 3)
        states.append(preparation.module.state_dict())
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())


def test_a_step_is_one_call_whatever_the_layers(clustered):
    preparation = ready()
    for number in range(2):
        preparation.module(batch(number)).sum().backward()
        preparation.step()
    assert clustered == [3, 3]


def test_as_many_weights_go_together_as_one_message_of_gradients_holds(monkeypatch, clustered):
    monkeypatch.setattr(joint_palettes, "MOST_WEIGHTS", 5000)
    preparation = ready()
    preparation.module(batch(0))
    assert clustered == [1, 2]
    expected = apart(ready())
    assert torch.equal(preparation.module(batch(0)), expected.module(batch(0)))


def test_a_weight_that_is_read_again_is_what_it_was():
    module = ready().module
    first, second = module[0].weight, module[0].weight
    assert torch.equal(first, second)
    (first.sum() + second.sum()).backward()


def test_gradients_of_two_passes_may_be_taken_in_any_order():
    def run(preparation):
        first, second = preparation.module(batch(0)), preparation.module(batch(1))
        second.sum().backward()
        first.square().sum().backward()
        return gradients(preparation.module)

    assert same(*both(run))


def test_gradients_of_two_branches_may_be_taken_one_after_the_other():
    def run(preparation):
        first, second = preparation.module
        left, right = first(batch(0)), second(batch(1))
        left.sum().backward()
        right.square().sum().backward()
        return gradients(preparation.module)

    assert same(*both(run, lambda: ready(nn.ModuleList([network(), network()]))))


def test_a_branch_that_is_left_out_has_no_gradient_and_keeps_its_palette():
    preparation = ready(nn.ModuleList([network(), network()]))
    palettes = {name: palette_of(preparation.module, f"1.{name}").palette.clone() for name in LAYERS}
    preparation.module[0](batch(0)).sum().backward()
    preparation.step()
    assert all(each.grad is None for each in preparation.module[1].parameters())
    for name in LAYERS:
        assert torch.equal(palettes[name], palette_of(preparation.module, f"1.{name}").palette)


def test_data_parallel_training_finds_what_a_pass_left_out():
    def run(preparation):
        parallel = DistributedDataParallel(Either(preparation.module), find_unused_parameters=True)
        found = []
        for number in range(3):
            preparation.module.zero_grad()
            parallel(batch(number), number % 2).sum().backward()
            found += gradients(preparation.module)
            preparation.step()
        return found

    class Either(nn.Module):
        def __init__(self, branches):
            super().__init__()
            self.branches = branches

        def forward(self, images, branch):
            return self.branches[branch](images)

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        assert same(*both(run, lambda: ready(nn.ModuleList([network(), network()]))))
    finally:
        distributed.destroy_process_group()


def test_a_branch_that_is_never_asked_for_is_not_computed_again(clustered):
    preparation = ready(nn.ModuleList([network(), network()]))
    for number in range(3):
        preparation.module[0](batch(number)).sum().backward()
        preparation.step()
    assert clustered == [6, 3, 3]


def test_a_tied_weight_costs_no_second_computation_of_all(clustered):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(50, 16)
            self.middle = nn.Linear(16, 16)
            self.head = nn.Linear(16, 50, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens):
            return self.head(self.middle(self.embedding(tokens)))

    preparation = ready(Tied())
    for _ in range(4):
        preparation.module(torch.arange(8)).square().sum().backward()
        preparation.step()
    # The embedding by itself, and then what comes after it with the head.
    assert clustered[-2:] == [1, 2]


@pytest.mark.parametrize("change", ["in place", "behind autograd's back", "another tensor"])
def test_a_pass_computes_with_the_weights_that_it_finds(change):
    def run(preparation):
        preparation.module(batch(0))
        for each in preparation.module.parameters():
            if change == "in place":
                with torch.no_grad():
                    each.add_(0.01)
            elif change == "another tensor":
                each.data = each.data + 0.01
            else:
                each.data.add_(0.01)
        preparation.module(batch(0)).sum().backward()
        return gradients(preparation.module)

    assert same(*both(run))


def test_a_weight_that_changes_in_the_middle_of_a_pass_is_computed_from_what_it_is():
    def run(preparation):
        seen = preparation.module[0].weight
        with torch.no_grad():
            preparation.module[2].parametrizations.weight.original.mul_(1.5)
        return [seen, preparation.module[2].weight, preparation.module[6].weight]

    assert same(*both(run))


def test_a_palette_that_changes_in_the_middle_of_a_pass_is_the_one_that_counts():
    def run(preparation):
        seen = preparation.module[0].weight
        palette_of(preparation.module, "2").palette.mul_(0.9)
        return [seen, preparation.module[2].weight]

    assert same(*both(run))


def test_what_was_read_without_gradients_is_computed_again_with_them():
    module = ready().module
    with torch.no_grad():
        assert not module[0].weight.requires_grad
    assert module[2].weight.requires_grad
    with torch.inference_mode():
        assert module[0].weight.is_inference()
    module(batch(0)).sum().backward()


def test_frozen_weights_stay_frozen():
    def run(preparation):
        frozen = preparation.module[2].parametrizations.weight.original
        frozen.requires_grad_(False)
        assert not preparation.module[2].weight.requires_grad
        preparation.module(batch(0)).sum().backward()
        preparation.step()
        return [*gradients(preparation.module), palette_of(preparation.module, "2").palette]

    assert same(*both(run))


def on_a_device(preparation):
    """Let palettes be computed as on a device."""
    for technique in preparation.techniques():
        form = technique._form
        technique._form = replace(form, clustering=replace(form.clustering, path="device"))
    return preparation


@pytest.mark.parametrize("use_reentrant", [None, True, False])
def test_on_a_device_a_step_is_as_if_each_were_by_itself(use_reentrant):
    def run(preparation):
        images = batch(0).requires_grad_(use_reentrant is True)
        if use_reentrant is None:
            images = preparation.module(images)
        else:
            for layer in preparation.module:
                images = checkpoint(layer, images, use_reentrant=use_reentrant)
        images.square().sum().backward()
        preparation.step()
        return [*gradients(preparation.module), *preparation.module.buffers()]

    for one, other in zip(*both(run, lambda: on_a_device(ready(n_bits=4))), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_parts_in_evaluation_are_assigned_and_the_others_clustered():
    def run(preparation):
        preparation.module[2].eval()
        assert len(preparation.module[2].weight.unique()) == 4
        preparation.module(batch(0)).sum().backward()
        return gradients(preparation.module)

    assert same(*both(run))


def test_layers_that_are_checkpointed_and_read_in_between():
    def run(preparation):
        images = batch(0)
        for layer in preparation.module:
            images = checkpoint(layer, images, use_reentrant=False)
        (images.sum() + preparation.module[0].weight.sum()).backward()
        return gradients(preparation.module)

    assert same(*both(run))


@pytest.mark.parametrize("type_", [torch.bfloat16, torch.float64])
def test_weights_of_two_types(type_):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(30, 30), nn.Linear(30, 30).to(type_)
            self.third = nn.Linear(30, 30)

        def forward(self, values):
            values = self.second(self.first(values).to(type_))
            return self.third(values.float())

    def run(preparation):
        preparation.module(torch.ones(2, 30)).sum().backward()
        return gradients(preparation.module)

    assert same(*both(run, lambda: ready(Mixed())))


def test_zeros_of_pruning_stay():
    def run(preparation):
        preparation.module(batch(0)).sum().backward()
        preparation.step()
        preparation.module(batch(1)).sum().backward()
        return gradients(preparation.module)

    assert same(*both(run, lambda: ready(None, MagnitudePruning(target_sparsity=0.5))))


def test_a_recurrent_layer():
    def run(preparation):
        output, _ = preparation.module(torch.ones(2, 5, 12))
        output.sum().backward()
        return gradients(preparation.module)

    def make():
        torch.manual_seed(0)
        return ready(nn.LSTM(12, 16, num_layers=2, batch_first=True))

    assert same(*both(run, make))


def test_a_compiled_network():
    def run(preparation):
        torch.compile(preparation.module, backend="eager")(batch(0)).sum().backward()
        return gradients(preparation.module)

    assert same(*both(run))


def test_parameters_that_are_handed_in_for_one_pass():
    preparation = ready()
    parameters = dict(preparation.module.named_parameters())
    other = {name: (value * 1.1).detach().requires_grad_() for name, value in parameters.items()}
    output = torch.func.functional_call(preparation.module, other, (batch(0),))
    expected = apart(ready())
    assert torch.equal(output, torch.func.functional_call(expected.module, other, (batch(0),)))
    output.sum().backward()
    assert all(value.grad is not None for value in other.values())
    assert all(value.grad is None for value in parameters.values())


def test_the_bad_weight_is_named_where_it_is_read():
    module = ready().module
    with torch.no_grad():
        module[6].parametrizations.weight.original[0, 0] = torch.nan
    assert torch.isfinite(module[0].weight).all()
    with pytest.raises(WeightError, match="6.weight"):
        module(batch(0))


def test_a_copy_computes_by_itself_and_holds_nothing_of_the_network(clustered):
    preparation = ready()
    twin = copy.deepcopy(preparation.module)
    part = copy.deepcopy(preparation.module[0])
    assert palette_of(twin, "0")._joint is None
    assert part.parametrizations.weight[0]._joint is None
    assert torch.equal(twin(batch(0)), preparation.module(batch(0)))
    assert clustered == [1, 1, 1, 3]


def test_nothing_of_the_size_of_a_weight_waits_after_a_step():
    preparation = ready(nn.ModuleList([network(), network()]))
    preparation.module[0](batch(0)).sum().backward()
    preparation.step()
    assert not palette_of(preparation.module, "0.0")._joint._waiting
