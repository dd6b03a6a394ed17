"""How the tests make small programs and packages, and run them."""

from __future__ import annotations

import logging

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - coremltools' own name for it
from coremltools.converters.mil.mil import Function, types

import lightning_compress.runtime.ops  # noqa: F401 - fills the table of ops
from lightning_compress.runtime.interface import ProgramInput, Size
from lightning_compress.runtime.lowering import lower
from lightning_compress.runtime.module import CoreMLProgram


@pytest.fixture(autouse=True)
def _quiet():
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


class Programs:
    """Programs of a few ops, built with coremltools' builder and run without conversion."""

    def build(self, body, inputs, *, target=ct.target.iOS18, precision="float32") -> CoreMLProgram:
        """A module of `body`, a function of variables, for inputs like the arrays given."""
        placeholders = {
            name: mb.placeholder(
                shape=array.shape, dtype=types.numpy_type_to_builtin_type(array.dtype), name=name
            )
            for name, array in inputs.items()
        }
        with Function(placeholders, opset_version=target) as function:
            outputs = body(**function.inputs)
            function.set_outputs(list(outputs) if isinstance(outputs, (tuple, list)) else [outputs])
        program = lower(function)
        interface = [
            ProgramInput(name, program.input_types[name][0], tuple(Size(s, s) for s in array.shape))
            for name, array in inputs.items()
        ]
        return CoreMLProgram(program, interface, precision, "a program")

    def run(self, body, inputs, **options) -> list[np.ndarray]:
        """The outputs of a program, checked to be the same without gradients, and for samples alone and stacked."""
        module = self.build(body, inputs, **options)
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        outputs = list(module(**tensors).values())
        self.check_overwriting(module, tensors, outputs)
        self.check_stacking(module, tensors)
        return [output.numpy() for output in outputs]

    def check_overwriting(self, module: CoreMLProgram, tensors: dict[str, torch.Tensor], outputs) -> None:
        """Without gradients, where steps may write over operands, outputs are the same and inputs are let alone."""
        if any(step.op_type.startswith("random_") for step in module._program.steps):
            return
        given = {name: tensor.clone() for name, tensor in tensors.items()}
        module.reset_states()
        with torch.no_grad():
            for expected, found in zip(outputs, module(**given).values(), strict=True):
                torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
        for name, tensor in tensors.items():
            torch.testing.assert_close(given[name], tensor, rtol=0, atol=0, equal_nan=True)

    def check_stacking(self, module: CoreMLProgram, tensors: dict[str, torch.Tensor]) -> None:
        """Three samples stacked give what they give one by one."""
        if not all(item.may_stack for item in module.inputs):
            return
        samples = [
            {
                name: t if i == 0 or not t.is_floating_point() else t.flip(-1) / (i + 1)
                for name, t in tensors.items()
            }
            for i in range(3)
        ]
        with torch.no_grad():
            stacked = module(**{name: torch.cat([sample[name] for sample in samples]) for name in tensors})
        alone = [module(**sample) for sample in samples]
        for name, shape in zip(
            module.output_names, [output.shape for output in module._program.outputs], strict=True
        ):
            join = torch.cat if shape[:1] == (1,) else torch.stack
            torch.testing.assert_close(
                stacked[name],
                join([outputs[name] for outputs in alone]),
                atol=2e-5,
                rtol=2e-5,
                equal_nan=True,
            )

    def infer(self, op_type, arguments, *, target=ct.target.iOS18) -> list[np.ndarray]:
        """What coremltools itself computes for an op of constants."""
        with Function({}, opset_version=target):
            outputs = getattr(mb, op_type)(**arguments)
        outputs = outputs if isinstance(outputs, (tuple, list)) else [outputs]
        return [np.asarray(output.val) for output in outputs]

    def agree(
        self, op_type, tensors, attributes=None, *, target=ct.target.iOS18, atol=1e-5, rtol=1e-4
    ) -> None:
        """The runtime computes what coremltools' value inference does."""
        attributes = attributes or {}
        expected = self.infer(op_type, {**tensors, **attributes}, target=target)
        actual = self.run(
            lambda **variables: getattr(mb, op_type)(**variables, **attributes), tensors, target=target
        )
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert one.shape == other.shape
            np.testing.assert_allclose(one, other, atol=atol, rtol=rtol)


@pytest.fixture(scope="session")
def programs() -> Programs:
    """Programs of a few ops."""
    return Programs()
