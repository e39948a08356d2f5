"""Self-attention, causal or to both sides, over whole rows or document by document, by what is fastest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raypretrain.models.blockwise import BlockwiseAttention, by_blocks
from raypretrain.models.linear import Linear
from raypretrain.models.llama_config import LlamaShape
from raypretrain.models.rotary import rotate
from raypretrain.models.ulysses import all_columns, current_share, shared, to_columns, to_heads

_WIDEST_FLASH_HEAD = 256


class Cache:
    """Keys and values of the positions already seen, layer by layer, for sampling."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def length(self) -> int:
        """How many positions it holds."""
        return self.layers[0][0].shape[1] if self.layers else 0

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append to a layer; all its keys and values, each [B, positions, key_value_heads, head_width]."""
        if layer in self.layers:
            old_key, old_value = self.layers[layer]
            key, value = torch.cat((old_key, key), dim=1), torch.cat((old_value, value), dim=1)
        self.layers[layer] = (key, value)
        return key, value


class Attention(nn.Module):
    """Causal self-attention with grouped keys and values (arXiv:2305.13245)."""

    def __init__(self, shape: LlamaShape, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_width = shape.head_width
        queries, keys = shape.heads * shape.head_width, shape.key_value_heads * shape.head_width
        self.query = Linear(shape.width, queries)
        self.key = Linear(shape.width, keys)
        self.value = Linear(shape.width, keys)
        self.output = Linear(queries, shape.width)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None = None, starts: Tensor | None = None
    ) -> Tensor:
        query, key, value = (
            matrix(x).unflatten(-1, (-1, self.head_width)) for matrix in (self.query, self.key, self.value)
        )
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        if cache is not None:
            key, value = cache.extend(self.layer, key, value)
        return self.output(causal_attention(query, key, value, starts).flatten(2))


class _Ways:
    """How attention is computed; ``compiling.py`` keeps it out of what is compiled."""

    def __init__(self) -> None:
        self.causal, self.bidirectional = _causal, _bidirectional


def causal_attention(query: Tensor, key: Tensor, value: Tensor, starts: Tensor | None = None) -> Tensor:
    """``softmax(query·key / sqrt(head_width))·value``, each query seeing the keys up to its own position.

    Args:
        query: [B, L, heads, head_width].
        key, value: [B, M, key_value_heads, head_width]; M ≥ L, the queries being the last L positions.
        starts: int64 [B, L], the column at which each position's document begins: it sees no other; None sees all
            before it. Only where M = L.

    Returns:
        [B, L, heads, head_width].
    """
    return WAYS.causal(query, key, value, starts)


def _causal(query: Tensor, key: Tensor, value: Tensor, starts: Tensor | None) -> Tensor:
    if share := current_share():
        with shared(None):
            query, key, value = (to_heads(x, share) for x in (query, key, value))
            return to_columns(_causal(query, key, value, all_columns(starts, share)), share)
    length, positions = query.shape[1], key.shape[1]
    if length == positions and by_blocks(query, length, 0):
        return BlockwiseAttention.apply(query, key, value, length, 0, starts)
    if starts is not None and _has_flash(query):
        return _document_attention(query, key, value, starts, (-1, 0))
    mask = None
    if starts is not None:
        mask = _of_one_document(starts).tril()
    elif 1 < length < positions:
        mask = torch.ones(length, positions, dtype=torch.bool, device=query.device).tril(positions - length)
    return _torchs_attention(query, key, value, mask, causal=length == positions and mask is None)


def bidirectional_attention(
    query: Tensor, key: Tensor, value: Tensor, reach: int | None = None, starts: Tensor | None = None
) -> Tensor:
    """``softmax(query·key / sqrt(head_width))·value``, each query seeing the keys to both sides.

    Args:
        query, key, value: [B, L, heads, head_width].
        reach: how far away, in positions, the keys are at most that a query sees; None sees all.
        starts: as of :func:`causal_attention`.

    Returns:
        [B, L, heads, head_width].
    """
    return WAYS.bidirectional(query, key, value, reach, starts)


def _bidirectional(
    query: Tensor, key: Tensor, value: Tensor, reach: int | None, starts: Tensor | None
) -> Tensor:
    if share := current_share():
        with shared(None):
            query, key, value = (to_heads(x, share) for x in (query, key, value))
            mixed = _bidirectional(query, key, value, reach, all_columns(starts, share))
            return to_columns(mixed, share)
    length = query.shape[1]
    everywhere = reach is None or reach >= length - 1
    if everywhere and starts is None:
        return _torchs_attention(query, key, value, None, causal=False)
    span = length if reach is None else min(reach, length)
    if by_blocks(query, span, span):
        return BlockwiseAttention.apply(query, key, value, span, span, starts)
    if starts is not None and _has_flash(query):
        return _document_attention(query, key, value, starts, (-1, -1) if everywhere else (span, span))
    if starts is None:
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device)
    else:
        mask = _of_one_document(starts)
    mask = mask.tril(span).triu(-span)
    return _torchs_attention(query, key, value, mask, causal=False)


def _of_one_document(starts: Tensor) -> Tensor:
    """Whether two positions are of one document: bool [B, 1, L, L]."""
    return (starts[:, :, None] == starts[:, None, :])[:, None]


def _has_flash(query: Tensor) -> bool:
    """Whether torch has its attention over sequences of any lengths for such queries."""
    half = query.dtype in (torch.bfloat16, torch.float16)
    return half and query.is_cuda and query.shape[-1] <= _WIDEST_FLASH_HEAD


def _document_attention(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, window: tuple[int, int]
) -> Tensor:
    """By FlashAttention over the documents laid end to end, so that nothing is computed between two of them.

    Args:
        window: how many keys before and after its own a query sees; -1 for all.
    """
    from torch.nn.attention.varlen import varlen_attn

    rows, length = starts.shape
    bounds = document_bounds(starts)
    mixed: Any = varlen_attn(
        query.flatten(0, 1),
        key.flatten(0, 1),
        value.flatten(0, 1),
        bounds,
        bounds,
        length,  # no document is longer
        length,
        window_size=window,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    laid_out: Tensor = mixed.unflatten(0, (rows, length))
    return laid_out


def document_bounds(starts: Tensor) -> Tensor:
    """Where each document of all rows laid end to end begins, and their end: int32 [documents + 1].

    All layers ask for those of the same ``starts`` [B, L]; they are found once, because the device is waited for.
    """
    known: Tensor | None = getattr(starts, "document_bounds", None)
    if known is None:
        columns = torch.arange(starts.shape[1], device=starts.device)
        known = F.pad((starts == columns).flatten().nonzero()[:, 0], (0, 1), value=starts.numel()).int()
        starts.document_bounds = known  # type: ignore[attr-defined]
    return known


def _torchs_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    mixed = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=mask,
        is_causal=causal,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return mixed.transpose(1, 2)


WAYS = _Ways()
