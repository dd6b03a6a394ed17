"""Sparsity by importance over a whole network: one threshold for all tensors, on magnitudes scaled by layer.

The same share of zeros in every layer takes as much from a first layer of a few hundred weights as from one with a
million. Raw magnitudes cannot be compared between layers either: their scale is arbitrary. The score of a weight here
is its square over the sum of the squares of all weights of its tensor that are no smaller, which is the distortion of
the layer's output that pruning it would cost at least (Lee et al., "Layer-adaptive sparsity for the magnitude-based
pruning", arXiv 2010.07611).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lightning_compress.methods.magnitude_masks import value_at


def shared_masks(
    weights: Sequence[Tensor], sparsities: Sequence[float], min_densities: Sequence[float]
) -> list[Tensor]:
    """The masks of several tensors by one threshold on their scores.

    Within a tensor scores rise with the magnitude, so each mask keeps the largest magnitudes of its tensor; ties with
    the smallest magnitude kept are kept.

    Args:
        weights: The tensors, of any shapes.
        sparsities: The share of zeros asked for in each; their sum over all tensors is what counts.
        min_densities: Least share of each tensor that is kept; its largest weight is in any case.

    Returns:
        Boolean masks of the tensors' shapes, True where a weight is kept.
    """
    magnitudes = [_ascending_magnitudes(weight) for weight in weights]
    # The largest of each tensor stay whatever the others are, and one at the least: without it nothing passes a layer.
    competing = [
        len(magnitude) - max(math.ceil(density * len(magnitude)), 1)
        for density, magnitude in zip(min_densities, magnitudes, strict=True)
    ]
    scores = [
        ascending_scores(magnitude)[:count] for magnitude, count in zip(magnitudes, competing, strict=True)
    ]
    wanted = round(sum(share * len(each) for share, each in zip(sparsities, magnitudes, strict=True)))
    flat = torch.cat([score.to(scores[0].device) for score in scores])
    if wanted <= 0 or not len(flat):
        return [torch.ones_like(weight, dtype=torch.bool) for weight in weights]
    threshold = float(value_at(flat, min(wanted, len(flat)) - 1))
    masks = []
    for weight, magnitude, score in zip(weights, magnitudes, scores, strict=True):
        smallest_kept = magnitude[int((score <= threshold).sum())]
        masks.append(weight.detach().abs() >= smallest_kept.to(weight.device))
    return masks


def ascending_scores(magnitudes: Tensor) -> Tensor:
    """The scores of weights: the square of each over the sum of the squares of all that are no smaller.

    Args:
        magnitudes: Of one tensor, ascending.

    Returns:
        Scores in [0, 1] in the same order, which is theirs too; the largest weight has 1.
    """
    # In float64: millions of small squares beside a large one vanish in float32.
    squares = magnitudes.double().square()
    up_to_here = squares.cumsum(0)
    no_smaller = up_to_here[-1:] - up_to_here + squares
    return (squares / no_smaller.clamp(min=torch.finfo(torch.float64).tiny)).float()


def _ascending_magnitudes(weight: Tensor) -> Tensor:
    magnitudes = weight.detach().abs().flatten()
    if weight.device.type == "mps":
        # It has no float64, which scores need.
        magnitudes = magnitudes.cpu()
    if magnitudes.device.type == "cpu" and weight.dtype in (torch.float32, torch.float64):
        # numpy's vectorised sort is several times faster than torch's here.
        return torch.from_numpy(np.sort(magnitudes.numpy()))
    return magnitudes.sort().values
