"""GPTQ's error feedback (Frantar et al., arXiv 2210.17323) onto palettes in place of integers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_compress.dkm.weight_palette import Palettes, WeightPalette
from lightning_compress.methods.data_options import without_inputs
from lightning_compress.methods.error_feedback import Choice, by_activity, factorize, feed_back
from lightning_compress.methods.found_palette import FoundPalette, FoundPaletteOptions, FoundPalettization
from lightning_compress.methods.mechanism.calibrated import Evidence
from lightning_compress.methods.mechanism.configuration import Keys, Match, Schema
from lightning_compress.methods.mechanism.matrix_form import MatrixForm
from lightning_compress.methods.mechanism.tensors import TensorReference


@dataclass(frozen=True)
class GPTQPaletteOptions(FoundPaletteOptions):
    """The keys of `SensitivePalettization`, and those of the feedback, as coremltools names them.

    Attributes:
        hessian_dampening: Added to the diagonal of the inputs' second moments, as a share of its mean.
        use_activation_order_heuristic: Whether columns that most comes into are decided first.
        sensitive: Whether the palette is found by squared gradients.
    """

    hessian_dampening: float = 0.01
    use_activation_order_heuristic: bool = True
    sensitive: bool = False


class GPTQPalette(FoundPalette):
    """A palette found by k-means, to whose entries columns are assigned one after the other."""

    needs_inputs = True

    def __init__(self, reference: TensorReference, keys: Keys) -> None:
        super().__init__(reference, keys)
        self._options = GPTQPaletteOptions(**keys)

    @property
    def needs_importance(self) -> bool:
        """Where it is asked for; otherwise it is heeded where it is given."""
        return self._options.sensitive

    def choose(self, tensor: Tensor, evidence: Evidence) -> tuple[Palettes, Tensor]:
        """Cluster, and assign with feedback.

        In clustering, errors count by importance where it is known, and by the mean square of what a column is
        multiplied by elsewhere.
        """
        form, inputs = evidence.form, evidence.inputs
        if form is None or inputs is None:
            palettes = self.form.begin(tensor, evidence.importance)
            return palettes, self.form.indices(tensor, palettes, evidence.importance)
        second = inputs.second
        importance = evidence.importance
        if importance is None:
            importance = form.weight(_of_columns(second, form)).to(tensor.device)
        palettes = self.form.begin(tensor, importance)
        order = by_activity(second) if self._options.use_activation_order_heuristic else None
        dampening = self._options.hessian_dampening
        factor = factorize(second, dampening, order)
        matrix = form.matrix(tensor)
        decided = feed_back(matrix, factor, _Entries(self.form, palettes, form, matrix, order), order)
        return palettes, self.form.indices(form.weight(decided), palettes)


class GPTQPalettization(FoundPalettization):
    """Give weights a palette, and let later columns of a layer make good for the errors of earlier ones.

    A palette is found by k-means that minds what comes into the layer, or squared gradients where `sensitive` asks for
    them or `calibrate` is given them; then the columns of the weight are assigned to its entries one after the other,
    those to come moved to where the layer's outputs on data change least. Nothing is trained. The keys are those of
    `SensitivePalettization`, with `hessian_dampening` (0.01), `use_activation_order_heuristic` (true) and `sensitive`
    (false: with 4 and 3 bits it matters little, with fewer a lot, and gradients of single samples take longest).

    Linear layers, convolutions and transposed ones of any group, and attention's projections are compressed so;
    embeddings and recurrent layers stay as they are.

    Args:
        configuration: The keys.

    Raises:
        ConfigurationError: An unknown key or an invalid value, with the valid ones.

    Example:
        >>> prepared = PreparedModule(network, [GPTQPalettization(n_bits=3)])
        >>> calibrate(prepared, batches=batches)
        >>> finalized = prepared.finalize()
    """

    schema = Schema("GPTQPalettization", GPTQPaletteOptions, by_size="weight_threshold")
    palette = GPTQPalette

    def reason_to_leave(self, reference: TensorReference, match: Match) -> str | None:
        """Weights that are small, or that nothing is multiplied by."""
        return super().reason_to_leave(reference, match) or without_inputs(reference, self.schema.technique)


class _Entries(Choice):
    """The nearest entry of each row's palette, times its channel's scale."""

    def __init__(
        self,
        palette: WeightPalette,
        palettes: Palettes,
        form: MatrixForm,
        matrix: Tensor,
        order: Tensor | None,
    ) -> None:
        entries = palette.rounded(palettes.entries).values.to(torch.float32)
        self._entries = entries[:, int(palette.keep_zeros) :].to(matrix.device)
        if self._entries.shape[-1] == 1:
            self._entries = self._entries.sort(dim=1).values
            ascending = self._entries.squeeze(-1)
            self._middles = (ascending[:, :-1] + (ascending[:, 1:] - ascending[:, :-1]) / 2).contiguous()
        self._zeros = None
        if palette.keep_zeros:
            self._zeros = matrix == 0 if order is None else (matrix == 0)[:, order]
        rank = len(form.shape)
        self._scales = None
        if palettes.scales is not None:
            broadcast = palette.along_channels(palettes.scales, rank).squeeze(-1)
            self._scales = form.matrix(broadcast)[:, 0].float()
        # Rows of the same palette next to each other.
        self._rows = None
        if len(entries) > 1:
            of_channel = torch.arange(len(entries)).repeat_interleave(
                form.shape[palette.channel_axis] // len(entries)
            )
            of_row = form.matrix(palette.along_channels(of_channel.unsqueeze(-1), rank).squeeze(-1))[:, 0]
            self._rows = of_row.argsort(stable=True).to(matrix.device)

    def nearest(self, wanted: Tensor, place: int) -> Tensor:
        """The entries nearest to a column."""
        rows = wanted.reshape(-1)
        if self._scales is not None:
            rows = rows / self._scales
        if self._rows is not None:
            rows = rows[self._rows]
        chosen = self._chosen(rows)
        if self._rows is not None:
            chosen = torch.empty_like(chosen).index_copy_(0, self._rows, chosen)
        if self._scales is not None:
            chosen = chosen * self._scales
        if self._zeros is not None:
            chosen = torch.where(self._zeros[:, place], 0.0, chosen)
        return chosen.reshape(wanted.shape)

    def _chosen(self, rows: Tensor) -> Tensor:
        groups, count, dimensions = self._entries.shape
        if not count:
            return torch.zeros_like(rows)
        if dimensions == 1:
            index = torch.searchsorted(self._middles, rows.reshape(groups, -1))
            return self._entries.squeeze(-1).gather(1, index).reshape(-1)
        vectors = rows.reshape(groups, -1, dimensions)
        index = torch.cdist(vectors, self._entries).argmin(dim=-1)
        return self._entries.gather(1, index.unsqueeze(-1).expand(-1, -1, dimensions)).reshape(-1)


def _of_columns(second: Tensor, form: MatrixForm) -> Tensor:
    """The mean square of what each element of a matrix is multiplied by, (R, d)."""
    diagonal = second.diagonal(dim1=-2, dim2=-1)
    return diagonal.repeat_interleave(form.rows // len(diagonal), dim=0)
