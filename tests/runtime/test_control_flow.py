"""Conditions, loops, lists and states."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - coremltools' own name for it
from coremltools.converters.mil.mil import types

from lightning_compress import runtime
from lightning_compress.coreml.quiet import quiet_conversion
from lightning_compress.errors import ConfigurationError, PackageError


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_condition_takes_one_of_two_branches(programs, precision):
    def body(x):
        scale = mb.mul(x=x, y=np.float32(2))
        positive = mb.greater(x=mb.reduce_sum(x=x, axes=[0], keep_dims=False), y=np.float32(0))
        return mb.cond(
            pred=positive,
            _true_fn=lambda: mb.add(x=scale, y=np.float32(1)),
            _false_fn=lambda: mb.sub(x=scale, y=np.float32(1)),
        )

    module = programs.build(body, {"x": np.zeros(3, np.float32)}, precision=precision)
    assert module(torch.tensor([1.0, 2, 3])).popitem()[1].tolist() == [3, 5, 7]
    assert module(torch.tensor([-1.0, -2, -3])).popitem()[1].tolist() == [-3, -5, -7]


def test_a_loop_runs_until_its_test_fails(programs):
    def body(x):
        count, total = mb.while_loop(
            _cond=lambda count, total: mb.less(x=count, y=np.int32(4)),
            _body=lambda count, total: (
                mb.add(x=count, y=np.int32(1)),
                mb.add(x=total, y=mb.mul(x=x, y=total)),
            ),
            loop_vars=(np.int32(0), x),
        )
        return count, total

    count, total = programs.run(body, {"x": np.array([[0.5, 1]], np.float32)})
    assert count == 4
    np.testing.assert_allclose(total, [[0.5 * 1.5**4, 1 * 2**4]])


def test_a_list_is_written_in_a_loop_and_read(programs):
    def body(x):
        entries = mb.make_list(init_length=3, dynamic_length=True, elem_shape=(2,))
        blank = mb.list_read(ls=entries, index=np.int32(1))
        entries = mb.list_scatter(ls=entries, indices=[2, 1], value=np.ones((2, 2), np.float32))
        _, entries = mb.while_loop(
            _cond=lambda i, entries: mb.less(x=i, y=np.int32(2)),
            _body=lambda i, entries: (
                mb.add(x=i, y=np.int32(1)),
                mb.list_write(ls=entries, index=i, value=mb.mul(x=x, y=mb.cast(x=i, dtype="fp32"))),
            ),
            loop_vars=(np.int32(0), entries),
        )
        return (
            mb.list_gather(ls=entries, indices=[1, 0, 2]),
            mb.list_read(ls=entries, index=np.int32(2)),
            mb.list_length(ls=mb.list_write(ls=entries, index=np.int32(5), value=x)),
            blank,
        )

    gathered, read, length, blank = programs.run(body, {"x": np.array([3, 4], np.float32)})
    assert gathered.tolist() == [[3, 4], [0, 0], [1, 1]]
    assert read.tolist() == [1, 1]
    assert length == 6
    assert blank.tolist() == [0, 0]


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_state_is_kept_from_call_to_call(tmp_path, precision):
    @mb.program(
        input_specs=[
            mb.TensorSpec((1, 2), dtype=types.fp16),
            mb.StateTensorSpec((1, 2), dtype=types.fp16),
        ],
        opset_version=ct.target.iOS18,
    )
    def program(x, total):
        sum_ = mb.add(x=mb.read_state(input=total), y=x)
        return mb.mul(x=mb.coreml_update_state(state=total, value=sum_), y=np.float16(2))

    with quiet_conversion():
        model = ct.convert(program, minimum_deployment_target=ct.target.iOS18, skip_model_load=True)
        model.save(str(tmp_path / "state.mlpackage"))
    module = runtime.load(tmp_path / "state.mlpackage", precision=precision)
    x = torch.tensor([[1.0, 2]])
    assert [module(x).popitem()[1].tolist() for _ in range(3)] == [[[2, 4]], [[4, 8]], [[6, 12]]]
    module.reset_states()
    assert module(x).popitem()[1].tolist() == [[2, 4]]
    assert not any(name.startswith("states") for name in module.state_dict())
    with pytest.raises(PackageError, match="one sample at a time"):
        module(x.expand(2, 2))


class TestALoopWithoutEnd:
    """It is told, where Core ML would hang."""

    @staticmethod
    def counting(programs, step, *, until=4):
        """Counts in steps of `step` from 0 to `until`."""

        def body(x):
            return mb.while_loop(
                _cond=lambda count: mb.less(x=count, y=np.float32(until)),
                _body=lambda count: mb.add(x=count, y=step(x)),
                loop_vars=(mb.reduce_sum(x=mb.mul(x=x, y=np.float32(0)), axes=[0], keep_dims=False),),
            )

        return programs.build(body, {"x": np.ones(2, np.float32)})

    def test_that_changes_nothing_is_told_at_once(self, programs):
        module = self.counting(programs, lambda x: np.float32(0))
        module.max_iterations = 3
        with pytest.raises(PackageError, match="'while_loop' never ends: an iteration leaves its variables"):
            module(torch.ones(2))

    def test_that_comes_to_rest_later_is_told_too(self, programs):
        """Beyond 2 ** 24, adding 1 to a float32 changes nothing."""

        def body(x):
            return mb.while_loop(
                _cond=lambda count: mb.less(x=count, y=np.float32(np.inf)),
                _body=lambda count: mb.add(x=count, y=np.float32(1)),
                loop_vars=(
                    mb.add(x=mb.reduce_sum(x=x, axes=[0], keep_dims=False), y=np.float32(2**24 - 10)),
                ),
            )

        module = programs.build(body, {"x": np.ones(2, np.float32)})
        with pytest.raises(PackageError, match="never ends"):
            module(torch.ones(2))

    def test_that_goes_on_counting_is_told_with_what_to_set(self, programs):
        module = self.counting(programs, lambda x: np.float32(-1))
        module.max_iterations = 50
        with pytest.raises(
            PackageError, match="has not ended .* 50 iterations; .* with a larger max_iterations"
        ):
            module(torch.ones(2))

    def test_one_of_as_many_iterations_as_are_allowed_ends(self, programs):
        module = self.counting(programs, lambda x: np.float32(1), until=20)
        module.max_iterations = 20
        assert module(torch.ones(2)).popitem()[1] == 20
        module.max_iterations = 19
        with pytest.raises(PackageError, match="19 iterations"):
            module(torch.ones(2))

    def test_one_that_draws_random_numbers_may_rest_and_go_on(self, programs):
        def step(x):
            drawn = mb.random_bernoulli(
                shape=np.array([1], np.int32), prob=np.float32(0.2), seed=np.int32(-1)
            )
            return mb.squeeze(x=drawn, axes=[0])

        module = self.counting(programs, step)
        torch.manual_seed(0)
        assert module(torch.ones(2)).popitem()[1] == 4

    def test_loops_within_loops_count_together(self, programs):
        def inner(start):
            return mb.while_loop(
                _cond=lambda i: mb.less(x=i, y=np.int32(10)),
                _body=lambda i: mb.add(x=i, y=np.int32(1)),
                loop_vars=(start,),
            )

        def body(x):
            count, _ = mb.while_loop(
                _cond=lambda count, other: mb.less(x=count, y=np.int32(10)),
                _body=lambda count, other: (
                    mb.add(x=count, y=np.int32(1)),
                    inner(mb.mul(x=other, y=np.int32(0))),
                ),
                loop_vars=(np.int32(0), np.int32(0)),
            )
            return count

        module = programs.build(body, {"x": np.ones(2, np.float32)})
        assert module(torch.ones(2)).popitem()[1] == 10
        module.max_iterations = 60
        with pytest.raises(PackageError, match="60 iterations"):
            module(torch.ones(2))


@pytest.mark.parametrize("limit", [0, 1.5, True, "many"])
def test_a_limit_of_iterations_that_is_none_is_refused(tmp_path, limit):
    with pytest.raises(ConfigurationError, match="max_iterations"):
        runtime.load(tmp_path / "net.mlpackage", max_iterations=limit)


def test_load_sets_the_limit_of_iterations(tmp_path):
    @mb.program(input_specs=[mb.TensorSpec((1,))], opset_version=ct.target.iOS16)
    def program(x):
        return mb.while_loop(
            _cond=lambda count: mb.squeeze(x=mb.less(x=count, y=np.float32(9))),
            _body=lambda count: mb.add(x=count, y=np.float32(1)),
            loop_vars=(x,),
        )

    with quiet_conversion():
        ct.convert(
            program,
            minimum_deployment_target=ct.target.iOS16,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        ).save(str(tmp_path / "loop.mlpackage"))
    assert runtime.load(tmp_path / "loop.mlpackage")(torch.zeros(1)).popitem()[1] == 9
    with pytest.raises(PackageError, match="taken 8 iterations"):
        runtime.load(tmp_path / "loop.mlpackage", max_iterations=8)(torch.zeros(1))
