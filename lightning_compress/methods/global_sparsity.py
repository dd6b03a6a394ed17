"""Sparsity by importance over a whole network: one threshold for all tensors, on magnitudes scaled by layer.

The same share of zeros in every layer takes as much from a first layer of a few hundred weights as from one with a
million. Raw magnitudes cannot be compared between layers either: their scale is arbitrary. The score of a weight here
is its square over the sum of the squares of all weights of its tensor that are no smaller, which is the distortion of
the layer's output that pruning it would cost at least (Lee et al., "Layer-adaptive sparsity for the magnitude-based
pruning", arXiv 2010.07611).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_compress.methods.magnitude_masks import value_at


def layer_adaptive_scores(weight: Tensor) -> Tensor:
    """The score of each weight: its square over the sum of the squares of all that are no smaller.

    Args:
        weight: Of any shape.

    Returns:
        Scores in (0, 1] (0 for weights of zero), float32, of the shape of `weight`; its largest weight has 1.
    """
    squares = weight.detach().float().flatten().square()
    ascending, order = squares.sort()
    # Summed in float64 from the smallest on: a tail of millions of small squares vanishes in float32.
    precision = torch.float32 if weight.device.type == "mps" else torch.float64
    no_smaller = ascending.to(precision).flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[order] = (ascending / no_smaller.clamp(min=torch.finfo(torch.float32).tiny)).to(scores.dtype)
    return scores.view(weight.shape)


def shared_masks(
    weights: Sequence[Tensor], sparsities: Sequence[float], min_densities: Sequence[float]
) -> list[Tensor]:
    """The masks of several tensors by one threshold on their scores.

    Args:
        weights: The tensors.
        sparsities: The share of zeros asked for in each; their sum over all tensors is what counts.
        min_densities: Least share of each tensor that is kept.

    Returns:
        Boolean masks of the tensors' shapes, True where a weight is kept.
    """
    scores = [layer_adaptive_scores(weight) for weight in weights]
    for score, density in zip(scores, min_densities, strict=True):
        least = min(score.numel(), -int(-density * score.numel() // 1))
        if least:
            # Out of the competition: the largest of each tensor stay whatever the others are.
            score[score >= value_at(score, score.numel() - least)] = 2.0
    dropped = sum(round(sparsity * score.numel()) for sparsity, score in zip(sparsities, scores, strict=True))
    flat = torch.cat([score.flatten() for score in scores])
    if dropped <= 0:
        return [torch.ones_like(score, dtype=torch.bool) for score in scores]
    threshold = value_at(flat, min(dropped, flat.numel()) - 1)
    return [(score > threshold) | (score == 2.0) for score in scores]
