"""`DKMPalettizer`: coremltools' palettizer with the histogram kernel, and without its traps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from coremltools.optimize.torch._utils.metadata_utils import CompressionMetadata
from coremltools.optimize.torch._utils.torch_utils import normalize_fsdp_module_name
from coremltools.optimize.torch.base_model_optimizer import _Report
from coremltools.optimize.torch.palettization import DKMPalettizer as CoreMLDKMPalettizer
from coremltools.optimize.torch.palettization import DKMPalettizerConfig, _supported_modules
from torch import nn

from lightning_compress.dkm.fake_palettize import FakePalettize
from lightning_compress.dkm.lut import round_palette
from lightning_compress.dkm.pruned import apply_masks, copy_prepared
from lightning_compress.errors import ConfigurationError

Kernel = Literal["histogram", "coremltools"]


class DKMPalettizer(CoreMLDKMPalettizer):  # type: ignore[misc]
    """Palettize a model while it trains, by differentiable k-means on a histogram of each weight.

    Used as coremltools' class of that name is, joint compression with its pruner included (prepare the palettizer
    first, finalize it first). What differs:

    - Milestones count as reached when passed, so a resumed or skipped count cannot miss one.
    - `finalize` palettizes whatever the milestones and whether or not the model ran, with palettes made then where
      there is none, and works on a copy of a pruned model.
    - In pruned modules zero is always a centroid and stands for the pruned weights alone: sparsity stays what the
      pruner made it.
    - An integer `lut_dtype` reaches the package.
    - `state_dict` and `load_state_dict` hold the progress that the buffers do not.

    Args:
        model: The model to compress.
        config: As for coremltools.
        kernel: "histogram", or "coremltools" for the original's kernel, to compare.

    Raises:
        ConfigurationError: For an unknown kernel.

    Example:
        >>> config = DKMPalettizerConfig.from_dict({"global_config": {"n_bits": 2}})
        >>> palettizer = DKMPalettizer(model, config)
        >>> model = palettizer.prepare()
        >>> palettizer.step()  # after every optimizer step
        >>> compressed = palettizer.finalize()
    """

    def __init__(
        self, model: nn.Module, config: DKMPalettizerConfig | None = None, *, kernel: Kernel = "histogram"
    ) -> None:
        if kernel not in get_args(Kernel):
            raise ConfigurationError(f"kernel is {kernel!r}; valid are {list(get_args(Kernel))}")
        super().__init__(model, config)
        self.kernel = kernel

    @staticmethod
    def _attach_qconfig(module: nn.Module, *args: Any) -> None:
        CoreMLDKMPalettizer._attach_qconfig(module, *args)
        original: Any = module.qconfig
        module.__dict__["qconfig"] = original._replace(
            weight=FakePalettize.with_args(**original.weight.p.keywords)
        )

    def prepare(self, inplace: bool = False) -> nn.Module:
        """Insert a `FakePalettize` for every weight that the configuration selects.

        All its buffers are made here, so that a state dict can be loaded before the first forward.

        Args:
            inplace: Change the model itself, or a copy of it.

        Raises:
            ConfigurationError: If a group size does not divide a weight's channels.
        """
        training = self._model.training
        model: nn.Module = super().prepare(inplace)
        model.train(training)
        for name, owner, parameter, fake in fake_palettizers(model):
            fake.layer_name = f"{name}.{parameter}" if name else parameter
            fake.served = fake.served and self.kernel == "histogram"
            fake.materialize(getattr(owner, parameter))
        for owner in {owner: None for _, owner, _, _ in fake_palettizers(model)}:
            owner.register_forward_pre_hook(_notice_pruning)
        return model

    def step(self) -> None:
        """Count an optimizer step and begin to palettize the modules whose milestone is reached."""
        self._reach_milestones(self._step_count)
        self._step_count += 1

    def finalize(self, model: nn.Module | None = None, inplace: bool = False) -> nn.Module:
        """Replace every `FakePalettize` by its palette and the weights assigned to it, ready for conversion.

        Args:
            model: The prepared model, or a copy of it; by default the one that `prepare` returned.
            inplace: Change the model itself, or a copy of it.

        Raises:
            WeightError: If a weight holds NaN or infinity, with the layer's name.
        """
        model = self._model if model is None else model
        if not inplace:
            model = copy_prepared(model)
        apply_masks(model)
        kept = {}
        for name, owner, parameter, fake in fake_palettizers(model):
            weight = getattr(owner, parameter).detach()
            _notice_pruning(owner, ())
            fake.check_finite(weight)
            fake.enable_fake_palett(True)
            if not fake._initialised:
                fake.initialise(weight)
            kept[name, parameter] = fake
        biases = _work_around_converters(model)
        finalized: nn.Module = super().finalize(model, inplace=True)
        for name, bias in biases.items():
            finalized.get_submodule(name).bias = bias
        for (name, parameter), fake in kept.items():
            _complete_metadata(finalized.get_submodule(name), parameter, fake)
        for module in finalized.modules():
            for key, hook in list(module._forward_pre_hooks.items()):
                if hook is _notice_pruning:
                    del module._forward_pre_hooks[key]
        return finalized

    @torch.no_grad()
    def report(self) -> _Report:
        """For each palettized weight's module: device, root mean square error of its palette, size and palette.

        The model is left as it is, training mode and palettes included.
        """
        report = _Report()
        apply_masks(self._model)
        for name, owner, parameter, fake in fake_palettizers(self._model):
            weight = getattr(owner, parameter).detach()
            training = fake.training
            fake.eval()
            palettized = fake(weight)
            fake.train(training)
            key = name if parameter == "weight" else f"{name}.{parameter}"
            report[key] = {
                "device": weight.device,
                "error": (weight - palettized).float().square().mean().sqrt().item(),
                "#params": weight.numel(),
                "#dtype": f":num_clusters: {fake.n_clusters} <{fake.lut_dtype, fake.cluster_permute}> "
                f"dim={fake.cluster_dim}",
            }
        return report

    def state_dict(self) -> dict[str, Any]:
        """Progress that the model's buffers do not hold, as plain types."""
        return {"step_count": self._step_count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; may be called again."""
        self._step_count = int(state["step_count"])
        self._reach_milestones(self._step_count - 1)

    def _reach_milestones(self, step: int) -> None:
        for name, module in self._model.named_modules():
            milestone = self._milestones.get(normalize_fsdp_module_name(name))
            if milestone is not None and step >= milestone:
                for fake in module.modules():
                    if isinstance(fake, FakePalettize) and not fake.enabled:
                        fake.enable_fake_palett(True)


def fake_palettizers(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, FakePalettize]]:
    """Every palettized weight: its module's name, the module, the parameter's name and its `FakePalettize`."""
    for name, module in model.named_modules():
        for child_name, child in module.named_children():
            if isinstance(child, FakePalettize):
                yield name, module, child_name.removesuffix("_fake_quant"), child


def _notice_pruning(module: nn.Module, _: Any) -> None:
    """Forward pre-hook: a weight that was given a mask since `prepare` keeps its zeros."""
    for name, child in module.named_children():
        if isinstance(child, FakePalettize) and hasattr(module, f"{name.removesuffix('_fake_quant')}_mask"):
            child.keep_zeros = True


def _work_around_converters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Let coremltools 9.0's converters pass over modules that they fail on; biases to put back, by module name.

    Its metadata for attention reads a `weight` that attention does not have, and its conversion of `LayerNorm` tests a
    whole bias as one truth value.
    """
    biases = {}
    for name, module in model.named_modules():
        if isinstance(module, _supported_modules.MultiheadAttention):
            module.__dict__["weight"] = module.out_proj.weight
        elif isinstance(module, _supported_modules.LayerNorm) and module.bias is not None:
            biases[name] = module.bias
            module.bias = None
    return biases


def _complete_metadata(module: nn.Module, parameter: str, fake: FakePalettize) -> None:
    """Add what coremltools' converters leave out: attention's output projection, and integer palettes."""
    assert fake.palette is not None
    weight = getattr(module, parameter)
    rounded = round_palette(fake.palette, fake.lut_dtype)

    def of_rank(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view(tensor.shape[0], *[1] * (weight.dim() - 1), *tensor.shape[1:])

    metadata = CompressionMetadata(parameter)
    if not hasattr(module, metadata._get_metadata_buffer_name("lut")):
        metadata.compression_type = ["palettization"]
        metadata.lut = of_rank(rounded.values)
        if fake.per_channel_scaling_factor is not None:
            metadata.palettization_scale = fake.per_channel_scaling_factor
        metadata.register(module)
    if rounded.scale is not None:
        integers = CompressionMetadata(parameter)
        integers.compression_type = ["quantization"]
        integers.quantization_n_bits = 8
        integers.quantization_scale = of_rank(rounded.scale)
        if rounded.zero_point is not None:
            integers.zero_point = of_rank(rounded.zero_point)
        integers.register(module)
