"""Palettes by k-means that minds how much each weight matters to the loss (SqueezeLLM, arXiv 2306.07629)."""

from __future__ import annotations

from torch import Tensor

from lightning_compress.dkm.weight_palette import Palettes
from lightning_compress.methods.found_palette import FoundPalette, FoundPaletteOptions, FoundPalettization
from lightning_compress.methods.mechanism.calibrated import Evidence
from lightning_compress.methods.mechanism.configuration import Schema


class SensitivePalette(FoundPalette):
    """A palette of least error, each element's square counting its importance."""

    @property
    def needs_importance(self) -> bool:
        """Always."""
        return True

    def choose(self, tensor: Tensor, evidence: Evidence) -> tuple[Palettes, Tensor]:
        """Cluster, and assign each element to the nearest entry."""
        palettes = self.form.begin(tensor, evidence.importance)
        return palettes, self.form.indices(tensor, palettes, evidence.importance)


class SensitivePalettization(FoundPalettization):
    """Give weights a palette of `2**n_bits` values that is nearest where the loss would notice most.

    The error of each weight counts by its mean squared gradient over single examples. Nothing is trained: the palette
    is found at the end of a fit, or by `calibrate`. Every key of coremltools' `ModuleSKMPalettizerConfig` is a keyword
    argument, `n_bits` (1, 2, 3, 4, 6 or 8), `granularity` and `group_size`, `enable_per_channel_scale`, `cluster_dim`
    and `lut_dtype` among them, beside `weight_threshold` (2048: smaller weights stay as they are), `bias_correction`,
    `module_type_configs` and `module_name_configs`.

    Scalars are clustered on a line, where k-means is solved within 0.1%; vectors by Lloyd's iterations in which each
    element of each vector has a weight of its own.

    Args:
        configuration: The keys.

    Raises:
        ConfigurationError: An unknown key or an invalid value, with the valid ones.

    Example:
        >>> prepared = PreparedModule(network, [SensitivePalettization(n_bits=3)])
        >>> calibrate(prepared, importance=squared_gradients(find_tensors(network), loss, examples))
        >>> finalized = prepared.finalize()
    """

    schema = Schema("SensitivePalettization", FoundPaletteOptions, by_size="weight_threshold")
    palette = SensitivePalette
