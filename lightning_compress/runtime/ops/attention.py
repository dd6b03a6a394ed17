"""Scaled dot-product attention."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lightning_compress.runtime.batching import inner_ranks
from lightning_compress.runtime.registry import register


@register(
    "scaled_dot_product_attention",
    tensors="query key value attn_mask",
    samplewise=inner_ranks("query", "key", "value", "attn_mask", minimum=3),
)
def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None
) -> Tensor:
    """`softmax(query @ key.T / sqrt(E) + mask) @ value`; a mask of booleans says which entries take part."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask)
