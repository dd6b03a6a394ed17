"""Palettes on tensors, however their entries are found: what a tensor can have, how it is told of and stored."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from lightning_compress.counted import counted
from lightning_compress.dkm.clustering import Clustering
from lightning_compress.dkm.weight_palette import LUT_DTYPES, Palettes, WeightPalette
from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.stored import StoredIntegers, StoredPalette
from lightning_compress.methods.mechanism.tensors import TensorReference
from lightning_compress.methods.palette_options import PaletteOptions
from lightning_compress.package.targets import PALETTE_BITS, Capability, palettization_capabilities


def too_small(reference: TensorReference, options: PaletteOptions) -> str | None:
    """Why a tensor gains nothing from a palette, or None."""
    threshold = options.weight_threshold
    if reference.numel > threshold:
        return None
    return f"{reference.numel:,} elements, no more than the weight_threshold of {threshold:,}"


def check_palette(reference: TensorReference, options: PaletteOptions) -> None:
    """Refuse groups and vectors that do not divide the channels, and palettes larger than the weight.

    Raises:
        ConfigurationError: Naming the tensor, the key, and what is valid.
    """
    options = fitted(reference, options)
    permutation = options.cluster_permute
    if permutation is not None and len(permutation) != len(reference.shape):
        raise ConfigurationError(
            f"cluster_permute is {list(permutation)}, but {reference.name!r} has {len(reference.shape)} axes; give "
            "it in module_name_configs or module_type_configs for weights of as many axes"
        )
    palette = weight_palette(reference, options)
    channels = reference.shape[palette.channel_axis]
    for key, size, whole, what in (
        ("group_size", options.group_size, channels, "output channels"),
        (
            "cluster_dim",
            palette.cluster_dim,
            options.group_size or channels,
            "output channels" if options.group_size is None else "channels of a group",
        ),
    ):
        if size is not None and whole % size:
            valid = [divisor for divisor in range(1, whole + 1) if whole % divisor == 0]
            remedy = ", or indivisible='scalars' for such weights" if key == "cluster_dim" else ""
            raise ConfigurationError(
                f"{key} is {size}, which does not divide the {whole} {what} of {reference.name!r}; valid are "
                f"{valid}{remedy}, or exclude it with module_name_configs"
            )
    groups, clusters, dimensions = palette.palette_shape(reference.shape)
    if clusters * dimensions > reference.numel // groups:
        raise ConfigurationError(
            f"a palette of {clusters} entries of {dimensions} is larger than the {reference.numel // groups} "
            f"elements of {reference.name!r} that it stands for; choose a smaller n_bits or cluster_dim, a larger "
            "group_size, or exclude it with module_name_configs"
        )


def palette_capabilities(reference: TensorReference, options: PaletteOptions) -> Collection[Capability]:
    """What a package must be able to hold for a tensor's palette."""
    options = fitted(reference, options)
    return palettization_capabilities(
        palette_bits(reference, options),
        grouped=options.is_grouped,
        per_channel_scale=options.enable_per_channel_scale,
        cluster_dim=options.cluster_dim or 1,
        int8_lut=LUT_DTYPES[options.lut_dtype] in ("i8", "u8"),
    )


def palette_label(form: WeightPalette, remark: str = "") -> str:
    """The bits of an index, and what is special about a palette.

    Args:
        form: The palette.
        remark: Said behind the bits.
    """
    special = (
        (form.group_size is not None, f"a group of {form.group_size} channels each"),
        (form.cluster_dim > 1, f"vectors of {form.cluster_dim}"),
        (form.scale_scheme is not None, "scaled by channel"),
        (form.lut_dtype in ("i8", "u8"), "int8 entries"),
    )
    bits = f"palette of {counted((form.n_clusters - 1).bit_length(), 'bit')}{remark}"
    return ", ".join([bits, *(words for holds, words in special if holds)])


def stored_palette(form: WeightPalette, palettes: Palettes, rank: int) -> StoredPalette:
    """Palettes, scales, and the integers that stand for entries, along the axis of the channels of a tensor.

    Args:
        form: How the tensor is palettized.
        palettes: Its palettes.
        rank: Its number of axes.
    """
    rounded = form.rounded(palettes.entries)
    entries = None
    if rounded.scale is not None:
        zero_point = None if rounded.zero_point is None else form.along_channels(rounded.zero_point, rank)
        entries = StoredIntegers(8, form.along_channels(rounded.scale, rank), zero_point)
    scales = palettes.scales
    return StoredPalette(
        lut=form.along_channels(rounded.values, rank),
        scale=None if scales is None else form.along_channels(scales, rank).squeeze(-1),
        vector_axis=form.channel_axis if form.cluster_dim > 1 else None,
        entries=entries,
    )


def weight_palette(reference: TensorReference, options: PaletteOptions) -> WeightPalette:
    """How a tensor is palettized under its options."""
    options = fitted(reference, options)
    axis, rank = reference.layout.output_axis, len(reference.shape)
    axes = options.cluster_permute or (axis, *(other for other in range(rank) if other != axis))
    return WeightPalette(
        name=reference.name,
        n_clusters=2 ** palette_bits(reference, options),
        clustering=Clustering(
            temperature=options.temperature,
            iterations=options.kmeans_max_iter or (1 if (options.cluster_dim or 1) > 1 else 3),
            epsilon=options.palett_epsilon,
            attention_floor=options.zero_threshold,
            mode=options.palett_mode,
            estimator=options.estimator,
            exact=options.exact,
            native=options.native,
        ),
        cluster_dim=options.cluster_dim or 1,
        group_size=options.group_size,
        axes=None if axes == tuple(range(rank)) else axes,
        scale_scheme=options.per_channel_scaling_factor_scheme if options.enable_per_channel_scale else None,
        lut_dtype=LUT_DTYPES[options.lut_dtype],
        first=options.kmeans_init,
        enforce_zero=options.enforce_zero,
        prune_threshold=options.prune_threshold,
        keep_zeros=options.enforce_zero and options.prune_threshold == 0,
        soft_share=options.percentage_palett_enable,
        repetition_tolerance=options.palett_cluster_tol,
    )


def fitted(reference: TensorReference, options: PaletteOptions) -> PaletteOptions:
    """The options of a tensor, with scalars in the place of vectors where those do not fit it and may not."""
    dimensions = options.cluster_dim or 1
    if dimensions == 1 or options.indivisible != "scalars":
        return options
    axis = options.cluster_permute[0] if options.cluster_permute else reference.layout.output_axis
    channels = options.group_size or reference.shape[axis]
    bits = palette_bits(reference, options)
    groups = reference.shape[axis] // channels or 1
    if channels % dimensions == 0 and 2**bits * dimensions <= reference.numel // groups:
        return options
    bits = next(width for width in PALETTE_BITS if width * dimensions >= bits)
    return replace(options, cluster_dim=None, n_bits=bits)


def palette_bits(reference: TensorReference, options: PaletteOptions) -> int:
    """Bits of an index; by default 4 in linear layers and 2 in all others."""
    if options.n_bits is not None:
        return options.n_bits
    return 4 if reference.kind is not None and reference.kind.name == "Linear" else 2
