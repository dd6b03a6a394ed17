"""Steps that write over operands: the same results, where it is safe, and only there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - coremltools' own name for it
from hypothesis import example, given
from hypothesis import strategies as st

SHAPE = (1, 4, 6, 6)
WEIGHT = np.random.default_rng(0).normal(size=(4, 4, 1, 1)).astype(np.float32) / 2

UNARY = {
    "conv": lambda x: mb.conv(x=x, weight=WEIGHT),
    "relu": lambda x: mb.relu(x=x),
    "relu6": lambda x: mb.relu6(x=x),
    "clip": lambda x: mb.clip(x=x, alpha=np.float32(-0.5), beta=np.float32(0.5)),
    "silu": lambda x: mb.silu(x=x),
    "sigmoid": lambda x: mb.sigmoid(x=x),
    "identity": lambda x: mb.identity(x=x),
    "view": lambda x: mb.transpose(x=x, perm=[0, 1, 3, 2]),
    "narrow": lambda x: mb.reduce_max(x=x, axes=[2], keep_dims=True),
    "channel": lambda x: mb.mul(x=x, y=np.full((1, 4, 1, 1), 0.5, np.float32)),
}
BINARY = {"add": lambda x, y: mb.add(x=x, y=y), "mul": lambda x, y: mb.mul(x=x, y=y)}

NODES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(sorted(UNARY)), st.integers(0, 30)),
        st.tuples(st.sampled_from(sorted(BINARY)), st.integers(0, 30), st.integers(0, 30)),
    ),
    min_size=2,
    max_size=14,
)


SUM_OF_TWO_ORDERS = [
    ("clip", 11),
    ("channel", 5),
    ("view", 28),
    ("add", 1, 9),
    ("channel", 22),
    ("mul", 1, 13),
    ("conv", 2),
    ("channel", 10),
    ("view", 14),
    ("mul", 17, 27),
    ("silu", 25),
]


def graph(nodes):
    """A program body whose nodes take any earlier value, outputs the last and one in the middle."""

    def body(x):
        made = [x]
        for name, *operands in nodes:
            function = UNARY.get(name) or BINARY[name]
            # The newest values are the likeliest operands: chains are where memory is written over.
            made.append(function(*(made[-1 - min(index // 4, len(made) - 1)] for index in operands)))
        # The one in the middle is an output and an operand.
        return mb.sub(x=made[-1], y=np.float32(0.25)), made[(len(made) + 1) // 2]

    return body


class TestRandomGraphs:
    # A sum written over the operand whose order in memory is the other one changes the last bits of what follows.
    @example(nodes=SUM_OF_TWO_ORDERS, precision="float32")
    @given(nodes=NODES, precision=st.sampled_from(["float32", "float16"]))
    def test_compute_the_same_with_and_without_overwriting(self, programs, nodes, precision):
        x = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
        # `run` compares a run with gradients, which overwrites nothing, with one without.
        programs.run(graph(nodes), {"x": x}, precision=precision)


def residual(x):
    """What a ResNet is made of: the convolution's result is used once, and the skip connection twice."""
    skip = mb.relu(x=mb.conv(x=x, weight=WEIGHT))
    return mb.relu(x=mb.add(x=skip, y=mb.conv(x=skip, weight=WEIGHT)))


class TestAResidualBlock:
    @pytest.fixture
    def module(self, programs):
        return programs.build(residual, {"x": np.zeros(SHAPE, np.float32)})

    def test_writes_both_relus_and_the_sum_over_their_operands(self, module):
        marked = [step.op_type for step in module._program.steps if step.overwriting is not None]
        assert marked == ["relu", "add", "relu"]

    def test_gives_outputs_that_a_second_run_does_not_touch(self, module):
        first, second = torch.rand(SHAPE), torch.rand(SHAPE)
        with torch.inference_mode():
            (kept,) = module(first).values()
            copied = kept.clone()
            module(second)
        assert torch.equal(kept, copied)

    def test_gives_its_input_the_gradient_that_torch_gives(self, module):
        x = torch.rand(SHAPE, requires_grad=True)
        next(iter(module(x).values())).sum().backward()
        weight = torch.from_numpy(WEIGHT)
        y = x.detach().clone().requires_grad_()
        skip = torch.relu(torch.conv2d(y, weight))
        torch.relu(skip + torch.conv2d(skip, weight)).sum().backward()
        torch.testing.assert_close(x.grad, y.grad)


class TestASumOfUnlikeOperands:
    @pytest.mark.parametrize("order", [("wide", "narrow"), ("narrow", "wide")])
    def test_is_written_over_the_operand_that_it_fits_or_over_none(self, programs, order):
        def body(x):
            made = {
                "wide": mb.conv(x=x, weight=WEIGHT),
                "narrow": mb.relu(x=mb.reduce_mean(x=x, axes=[2, 3], keep_dims=True)),
            }
            return mb.add(x=made[order[0]], y=made[order[1]])

        x = np.random.default_rng(2).normal(size=SHAPE).astype(np.float32)
        (found,) = programs.run(body, {"x": x})
        assert found.shape == SHAPE


class TestUnderVmap:
    """An operand that is the same for all samples has no place for the results of many."""

    @pytest.fixture
    def module(self, programs):
        def body(x, y):
            return mb.relu(
                x=mb.add(x=mb.matmul(x=x, y=WEIGHT[:, :, 0, 0]), y=mb.matmul(x=y, y=WEIGHT[:, :, 0, 0]))
            )

        return programs.build(body, {"x": np.zeros((3, 4), np.float32), "y": np.zeros((3, 4), np.float32)})

    @pytest.mark.parametrize("axes", [(None, 0), (0, None), (0, 0)])
    def test_a_users_own_vmap_computes_what_a_loop_does(self, module, axes):
        given = [torch.randn(5, 3, 4) if axis == 0 else torch.randn(3, 4) for axis in axes]
        with torch.no_grad():
            (found,) = torch.vmap(module, in_dims=axes)(*given).values()
            for index in range(5):
                sample = [
                    value[index] if axis == 0 else value for value, axis in zip(given, axes, strict=True)
                ]
                torch.testing.assert_close(found[index], next(iter(module(*sample).values())))
