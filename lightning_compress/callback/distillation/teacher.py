"""The frozen module that a compressed one is drawn to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lightning_compress.callback.distillation.inner import InnerOutputs
from lightning_compress.copying import copy_whole
from lightning_compress.errors import ConfigurationError
from lightning_compress.processes import broadcast


class Teacher:
    """A frozen copy of a module, in evaluation mode.

    Args:
        module: The module as it is now; it is not changed.

    Attributes:
        module: The copy.
        digest: Of its weights as they were copied, the same in every process that has the same ones.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = copy_whole(module).requires_grad_(False).eval()
        # What somebody has put on the module to look at its outputs would be shown the teacher's. Hooks before the
        # forward stay: by them older weight norm makes its weights.
        for part in self.module.modules():
            part._forward_hooks.clear()
            part._backward_hooks.clear()
            part._backward_pre_hooks.clear()
        self.digest = _digest(self.module)
        self._inner = InnerOutputs(self.module, ())

    def watch(self, names: Iterable[str]) -> None:
        """Keep what inner modules return."""
        self._inner = InnerOutputs(self.module, names)
        self._inner.listen()

    def place(self, trainer: L.Trainer) -> None:
        """Go where the fit is, in its precision, with the weights of the first process."""
        self.module.to(trainer.strategy.root_device)
        trainer.precision_plugin.convert_module(self.module)
        with torch.no_grad():
            for tensor in (*self.module.parameters(), *self.module.buffers()):
                # Only tensors in their natural order are sent.
                values = tensor.detach().contiguous()
                broadcast([values])
                tensor.copy_(values)

    def leave(self) -> None:
        """Go back to the CPU."""
        self.module.cpu()

    @torch.no_grad()
    def __call__(
        self, part: str, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[Any, dict[str, list[Any]]]:
        """What the teacher, or a part of it, returns for inputs, and what inner modules have returned on the way.

        Raises:
            ConfigurationError: It has no such part.
        """
        try:
            module = self.module.get_submodule(part)
        except AttributeError as error:
            raise ConfigurationError(
                f"training_step calls the part {part!r} of the compressed module alone, which the teacher, "
                f"{type(self.module).__name__}, does not have; give Distillation(teacher=...) a module with that part"
            ) from error
        self._inner.forget()
        outputs = module(*arguments, **keywords)
        found = self._inner.found
        self._inner.forget()
        return outputs, found


def _digest(module: nn.Module) -> str:
    """A hash of the names, shapes and bits of all parameters and buffers."""
    found = hashlib.sha256()
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(_bits(tensor))
    return found.hexdigest()[:32]


def _bits(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy().data) if flat.numel() else b""
