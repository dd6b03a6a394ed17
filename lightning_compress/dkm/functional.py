"""`palettize`: a differentiable k-means of weights, at the price of a few passes over them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_compress.arguments import (
    require_flag,
    require_number,
    require_one_of,
    require_type,
    require_whole,
)
from lightning_compress.dkm.clustering import ESTIMATORS, MODES, PATHS, Clustering
from lightning_compress.dkm.exact import cluster_exactly
from lightning_compress.dkm.native.scalars import Scalars
from lightning_compress.dkm.palettize_vectors import PalettizeVectors
from lightning_compress.dkm.scalars import PalettizeScalars
from lightning_compress.dkm.scalars_at_once import palettize_at_once, serves
from lightning_compress.dkm.straight_through import AssignStraightThrough
from lightning_compress.dkm.vectors import from_vectors, to_vectors
from lightning_compress.errors import ConfigurationError, WeightError


def palettize(
    weight: Tensor,
    centroids: Tensor,
    *,
    temperature: float,
    iterations: int,
    epsilon: float | None = None,
    attention_floor: float = 0.0,
    fix_zero: bool = False,
    zero_preference: float = 0.0,
    keep_zeros: bool = False,
    mode: str = "dkm",
    estimator: str = "dkm",
    exact: bool = False,
    native: bool = True,
    path: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Cluster a weight softly around a palette and improve the palette, differentiably (DKM, arXiv 2108.12659).

    The result is that of the N x K attention matrix of the paper, for scalars evaluated on a few points of the
    weights' range instead, so that time and memory do not depend on the number of centroids. For vectors, and in the
    modes of coremltools that are no softmax, the matrix is evaluated a part at a time, and never held.

    Args:
        weight: Any floating-point weight. With G palettes its first dimension is split into G equal groups of
            channels. Weights in float64 are evaluated one by one.
        centroids: The palette, shape (K, D), or (G, K, D) for groups of channels; D is 1 for scalars. Vectors are of D
            channels that follow each other.
        temperature: Softness of the assignment, in squared units of the weights.
        iterations: Number of centroid updates.
        epsilon: Stop early when the inertia changes by no more than this from one update to the next, each group by
            its own. By default every iteration is done.
        attention_floor: Least attention that a weight pays to any centroid (coremltools' `zero_threshold`).
        fix_zero: Hold the first centroid of each palette at zero.
        zero_preference: How much nearer, in squared distance, the first centroid seems than it is (coremltools'
            `prune_threshold`).
        keep_zeros: Weights that are exactly zero stay zero and take no part; the first centroid of each palette is
            zero and stands for them alone. For pruned weights.
        mode: How attention follows from distances: "dkm" as in the paper, "topk" to the two nearest centroids alone,
            "hard" to the nearest alone, "gsm" with Gumbel noise.
        estimator: How gradients reach the weight: "dkm" through attention, "straight_through" as if nothing stood
            between it and its nearest centroid, at the price of distances alone: temperature, floor and early stop
            have no meaning then, and centroids no gradient.
        exact: Evaluate scalars one by one too.
        native: Let the passes written in C serve where they are built; otherwise torch does.
        path: How scalars are computed: "auto" as suits the weight's device; "host" with a grid fitted to weight and
            palette, which are looked at for it; "device" without looking at either, so that no host waits for a
            device, and "single" so in single precision alone, for devices that have no other. For trying on one
            device what is done on another; never in C but on the host.

    Returns:
        The palettized weight, of the weight's shape and type, and the new centroids, of the shape and type of
        `centroids`. Both are differentiable by `weight` and by `centroids`.

    Raises:
        ConfigurationError: For shapes or values that do not fit.
        WeightError: If the weight holds NaN or infinity (on the CPU; elsewhere the check would make the host wait,
            and NaN goes through to the result).

    Example:
        >>> weight = torch.randn(64, 32) * 0.02
        >>> palette = torch.linspace(-0.04, 0.04, 4).unsqueeze(-1)
        >>> palettized, palette = palettize(weight, palette, temperature=1e-4, iterations=3)
        >>> palette.shape
        torch.Size([4, 1])
    """
    numbers = {
        "temperature": temperature,
        "attention_floor": attention_floor,
        "zero_preference": zero_preference,
    }
    flags = {"fix_zero": fix_zero, "keep_zeros": keep_zeros, "exact": exact, "native": native}
    _check_types(
        weight, centroids, iterations, numbers if epsilon is None else {**numbers, "epsilon": epsilon}, flags
    )
    groups = _check(weight, centroids, temperature, mode, estimator)
    require_one_of("path", path, PATHS)
    if weight.numel() == 0:
        return weight.clone(), centroids.clone()
    if keep_zeros:
        if centroids.shape[-2] == 1:
            return weight * 0, torch.zeros_like(centroids)
        zero, centroids = torch.zeros_like(centroids[..., :1, :]), centroids[..., 1:, :]
        fix_zero, zero_preference = False, 0.0
    clustering = Clustering(
        temperature,
        iterations,
        epsilon,
        attention_floor,
        fix_zero,
        zero_preference,
        mode,
        estimator,
        exact,
        native,
        path,
    )
    with torch.autocast(device_type=weight.device.type, enabled=False):
        if estimator == "straight_through":
            _check_finite(weight)
            palettized, updated = AssignStraightThrough.apply(
                weight, centroids, groups, clustering, keep_zeros
            )
        elif mode == "dkm" and centroids.shape[-1] == 1:
            if serves(weight, clustering):
                scalars = Scalars(groups, centroids.shape[-2], clustering, keep_zeros)
                (palettized,), values = palettize_at_once([weight], centroids.reshape(-1).double(), [scalars])
                updated = values.to(centroids.dtype).view_as(centroids)
            else:
                palettized, updated = PalettizeScalars.apply(
                    weight, centroids, groups, clustering, keep_zeros
                )
        elif mode == "dkm":
            _check_finite(weight)
            palettized, updated = PalettizeVectors.apply(weight, centroids, groups, clustering, keep_zeros)
        else:
            palettized, updated = _palettize_in_other_modes(weight, centroids, groups, clustering, keep_zeros)
    if keep_zeros:
        updated = torch.cat((zero, updated), dim=-2)
    return palettized, updated


def _check_types(
    weight: Any, centroids: Any, iterations: Any, numbers: dict[str, Any], flags: dict[str, Any]
) -> None:
    for argument, value in (("weight", weight), ("centroids", centroids)):
        require_type(argument, value, Tensor, "a tensor of floats")
    for argument, value in numbers.items():
        require_number(argument, value)
    for argument, value in flags.items():
        require_flag(argument, value)
    require_whole("iterations", iterations, 1)


def _check(weight: Tensor, centroids: Tensor, temperature: float, mode: str, estimator: str) -> int:
    """Number of groups, or an error that says what does not fit."""
    if not weight.is_floating_point():
        raise ConfigurationError(f"palettize needs a floating-point weight, not {weight.dtype}")
    if not centroids.is_floating_point():
        raise ConfigurationError(f"palettize needs floating-point centroids, not {centroids.dtype}")
    if centroids.dim() not in (2, 3) or centroids.numel() == 0:
        raise ConfigurationError(
            f"centroids must have shape (K, D), or (G, K, D) for G groups of channels, not {tuple(centroids.shape)}"
        )
    groups = centroids.shape[0] if centroids.dim() == 3 else 1
    channels = weight.shape[0] if weight.dim() else 1
    if channels % groups:
        valid = [number for number in range(1, channels + 1) if channels % number == 0]
        raise ConfigurationError(
            f"{groups} palettes cannot share {channels} channels evenly; valid numbers of palettes: {valid}"
        )
    dimensions = centroids.shape[-1]
    if channels // groups % dimensions:
        raise ConfigurationError(
            f"vectors of {dimensions} cannot share the {channels // groups} channels of a group evenly"
        )
    require_one_of("mode", mode, MODES)
    require_one_of("estimator", estimator, ESTIMATORS)
    if estimator != "dkm" and mode != "dkm":
        raise ConfigurationError(
            f"estimator {estimator!r} pays no attention, and mode {mode!r} would be ignored"
        )
    if not temperature > 0:
        raise ConfigurationError(f"temperature must be positive and finite, not {temperature}")
    return groups


def _check_finite(weight: Tensor) -> None:
    if weight.device.type == "cpu" and not bool(torch.isfinite(weight.detach()).all()):
        raise WeightError("the weight holds NaN or infinity")


def _palettize_in_other_modes(
    weight: Tensor, centroids: Tensor, groups: int, clustering: Clustering, keep_zeros: bool
) -> tuple[Tensor, Tensor]:
    precision = torch.float64 if weight.dtype == torch.float64 else torch.float32
    _check_finite(weight)
    points = to_vectors(weight.to(precision), groups, centroids.shape[-1])
    present = (points.detach() != 0).any(dim=-1) if keep_zeros else None
    palettes = centroids.reshape(groups, *centroids.shape[-2:]).to(precision)
    values, updated = cluster_exactly(points, palettes, present, clustering)
    palettized = from_vectors(values, weight.shape).to(weight.dtype)
    return palettized, updated.to(centroids.dtype).view_as(centroids)
