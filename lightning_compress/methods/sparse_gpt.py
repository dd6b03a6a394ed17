"""Pruning in one go, remaining weights made good for those that are gone (Frantar and Alistarh, arXiv 2301.00774)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_compress.dkm.weight_palette import precision
from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.data_options import check_data_options, without_inputs
from lightning_compress.methods.error_feedback import Choice, factorize, feed_back
from lightning_compress.methods.magnitude_masks import magnitude_mask, ratio_mask
from lightning_compress.methods.mechanism.calibrated import CalibratedTechnique, Evidence
from lightning_compress.methods.mechanism.configuration import Keys, Match, Schema
from lightning_compress.methods.mechanism.method import Method
from lightning_compress.methods.mechanism.stored import StoredTensor
from lightning_compress.methods.mechanism.technique import Stage, Technique
from lightning_compress.methods.mechanism.tensors import TensorReference
from lightning_compress.package.targets import Capability

_SPAN = 128
"""Columns whose zeros are chosen together."""


@dataclass(frozen=True)
class SparseGPTOptions:
    """The keys of one tensor, as coremltools names them.

    Attributes:
        target_sparsity: Fraction of zeros.
        n_m_ratio: Of every m weights along the input channels n become zero, in place of the fraction.
        hessian_dampening: Added to the diagonal of the inputs' second moments, as a share of its mean.
        bias_correction: Whether the mean of the layer's outputs is kept, by its bias.
    """

    target_sparsity: float = 0.5
    n_m_ratio: Sequence[int] | None = None
    hessian_dampening: float = 0.01
    bias_correction: bool = False

    @property
    def target(self) -> float:
        """The fraction of zeros, which a ratio implies."""
        return self.target_sparsity if self.n_m_ratio is None else self.n_m_ratio[0] / self.n_m_ratio[1]


class SparseGPT(Method):
    """Drop the weights whose loss the others can make good for best, and let them.

    The columns of a weight are gone through one after the other; of each 128 those weights become zero that change the
    layer's outputs on data least, and columns to come are moved to where they make good for it. Nothing is trained.
    Keyword arguments are `target_sparsity` (0.5) or `n_m_ratio`, `hessian_dampening` (0.01) and `bias_correction`,
    beside `module_type_configs` and `module_name_configs`. Joined with `SensitivePalettization`, `GPTQPalettization`
    or `GPTQ`, these keep the zeros.

    Args:
        configuration: The keys.

    Raises:
        ConfigurationError: An unknown key or an invalid value, with the valid ones.

    Example:
        >>> prepared = PreparedModule(network, [SparseGPT(target_sparsity=0.5), GPTQPalettization(n_bits=4)])
        >>> calibrate(prepared, batches=batches)
        >>> finalized = prepared.finalize()
    """

    schema = Schema("SparseGPT", SparseGPTOptions)

    @property
    def is_trained(self) -> bool:
        """Never."""
        return False

    def check_values(self, keys: Keys, source: str) -> None:
        """Refuse sparsities and ratios that cannot be."""
        sparsity = keys.get("target_sparsity", 0.5)
        if type(sparsity) not in (int, float) or not 0 <= sparsity < 1:
            raise ConfigurationError(
                f"target_sparsity of {source} is {sparsity!r}; valid is a number in [0, 1)"
            )
        ratio = keys.get("n_m_ratio")
        valid = (
            isinstance(ratio, list | tuple) and len(ratio) == 2 and all(type(part) is int for part in ratio)
        )
        if ratio is not None and not (valid and 0 < ratio[0] < ratio[1]):
            raise ConfigurationError(
                f"n_m_ratio of {source} is {ratio!r}; valid are two ints n, m with 0 < n < m: n of each m weights "
                "become zero"
            )
        if ratio is not None and "target_sparsity" in keys:
            raise ConfigurationError(
                f"target_sparsity of {source} is {sparsity!r} beside n_m_ratio={ratio!r}, which implies it; valid is "
                "one of them"
            )
        check_data_options(keys, source)

    def reason_to_leave(self, reference: TensorReference, match: Match) -> str | None:
        """Weights that nothing is multiplied by."""
        return without_inputs(reference, self.schema.technique)

    def check_tensor(self, reference: TensorReference, keys: Keys) -> None:
        """Refuse ratios that do not fit the channels."""
        ratio = keys.get("n_m_ratio")
        channels = reference.shape[reference.layout.input_axis]
        if reference.layout.output_axis != 0:
            channels //= int(getattr(reference.owners[0].module, "groups", 1))
        if ratio is not None and channels % ratio[1]:
            raise ConfigurationError(
                f"n_m_ratio {list(ratio)} needs a number of input channels that {ratio[1]} divides, and "
                f"{reference.name!r} has {channels}; exclude it with module_name_configs, or give it a "
                "target_sparsity instead"
            )

    def technique(self, reference: TensorReference, keys: Keys) -> FoundZeros:
        """Zeros in a tensor."""
        return FoundZeros(reference, SparseGPTOptions(**keys))

    def capabilities(self, reference: TensorReference, keys: Keys) -> Collection[Capability]:
        """Sparse weights."""
        return {Capability.SPARSE_WEIGHTS}


class FoundZeros(CalibratedTechnique):
    """Zeros in a tensor, and what its other elements became.

    Args:
        reference: The tensor.
        options: What is asked for.

    Attributes:
        values: Buffer of the tensor's shape.
    """

    stage = Stage.ZEROS
    precise = frozenset({"values"})
    needs_inputs = True

    values: Tensor

    def __init__(self, reference: TensorReference, options: SparseGPTOptions) -> None:
        super().__init__(reference.name, corrects_bias=options.bias_correction)
        self._options = options
        self._layout = reference.layout
        self.register_buffer("values", torch.zeros(reference.shape, dtype=precision(reference.dtype)))

    @property
    def label(self) -> str:
        """The target."""
        ratio = self._options.n_m_ratio
        return (
            f"{self._options.target:.0%} zeros" if ratio is None else f"{ratio[0]} zeros of every {ratio[1]}"
        )

    def join(self, before: Sequence[Technique], after: Sequence[Technique]) -> None:
        """Refuse what was trained on weights that had no zeros yet, and what stores several weights as one."""
        for technique in after:
            if not isinstance(technique, CalibratedTechnique):
                raise ConfigurationError(
                    f"{self.tensor_name!r} would be pruned by SparseGPT at the end of the fit, after "
                    f"{technique.label} was trained on it without zeros; join SparseGPT with SensitivePalettization, "
                    "GPTQPalettization or GPTQ, or prune in training with MagnitudePruning"
                )
            if technique.unit is not None:
                raise ConfigurationError(
                    f"SparseGPT drops single weights of {self.tensor_name!r}, and its palette of vectors stores "
                    f"{technique.unit[1]} as one; use a palette of cluster_dim=1, or MagnitudePruning"
                )

    def find(self, tensor: Tensor, evidence: Evidence) -> None:
        """Find the zeros and what makes good for them."""
        form, inputs = evidence.form, evidence.inputs
        if form is None or inputs is None:
            self.values.copy_(tensor * self._by_magnitude(tensor))
            return
        ratio = self._options.n_m_ratio
        if ratio is None:
            order = None
            choice = _Zeros(_SPAN, self._options.target)
        else:
            order = form.kernel_first().to(tensor.device)
            choice = _ZerosOfEach(ratio[1], ratio[0])
        factor = factorize(inputs.second, self._options.hessian_dampening, order)
        self.values.copy_(form.weight(feed_back(form.matrix(tensor), factor, choice, order)))

    def found(self, tensor: Tensor) -> Tensor:
        """The tensor with its zeros."""
        return self.values.to(tensor.dtype)

    def store(self, stored: StoredTensor) -> StoredTensor:
        """Store what is not zero."""
        return replace(stored, sparse=int(self.values.count_nonzero()) < self.values.numel())

    def report(self, tensor: Tensor, compressed: Tensor) -> dict[str, Any]:
        """The sparsity reached."""
        return {"sparsity": 1 - int(compressed.count_nonzero()) / max(compressed.numel(), 1)}

    def _by_magnitude(self, tensor: Tensor) -> Tensor:
        ratio = self._options.n_m_ratio
        if ratio is None:
            return magnitude_mask(tensor, self._options.target)
        first, second = self._layout.output_axis, self._layout.input_axis
        mask = ratio_mask(tensor.movedim((first, second), (0, 1)), ratio[0], ratio[1])
        return mask.movedim((0, 1), (first, second))


class _Zeros(Choice):
    """The least of some columns together become zero."""

    def __init__(self, span: int, share: float) -> None:
        self.span = span
        self._share = share
        self._due = 0.0
        self._first = 0
        self._kept = torch.empty(0)

    def begin(self, first: int, wanted: Tensor, weights: Tensor) -> None:
        """Choose the zeros of columns that follow each other."""
        self._first = first
        self._kept = self._chosen(wanted.square() * weights.unsqueeze(-1))

    def nearest(self, wanted: Tensor, place: int) -> Tensor:
        """What a column had best be, but for its zeros."""
        return wanted * self._kept[place - self._first]

    def _chosen(self, losses: Tensor) -> Tensor:
        # What one span rounds down the next makes good for.
        self._due += self._share * losses.numel()
        zeros = round(self._due)
        self._due -= zeros
        kept = torch.ones(losses.numel(), dtype=torch.bool, device=losses.device)
        kept[losses.flatten().topk(zeros, largest=False).indices] = False
        return kept.reshape(losses.shape)


class _ZerosOfEach(_Zeros):
    """The least of some columns in each row become zero."""

    def __init__(self, span: int, zeros: int) -> None:
        super().__init__(span, 0.0)
        self._zeros = zeros

    def _chosen(self, losses: Tensor) -> Tensor:
        dropped = losses.topk(self._zeros, dim=0, largest=False).indices
        return torch.ones_like(losses, dtype=torch.bool).scatter_(0, dropped, False)
