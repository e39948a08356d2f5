"""Self-attention, causal or to both sides: rotary positions, grouped heads, and a fast form of it for CPUs."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from raypretrain.models.linear import Linear
from raypretrain.models.llama_config import LlamaShape
from raypretrain.models.rope import RopeScaling

LONGEST_BLOCKWISE = 1024
"""Where a block of queries spans more keys, the probabilities kept for the backward pass cost more memory than
they save time."""

BLOCK = 128
"""Queries that are worked on at one time."""


class Rotary:
    """The cosines and sines of rotary positions (arXiv:2104.09864).

    No module, and its tables are no buffers, because a model's ``.bfloat16()`` would round the angles away:
    they are computed in fp32 and rounded last.
    """

    def __init__(self, head_width: int, theta: float, scaling: RopeScaling | None = None) -> None:
        self.head_width = head_width
        self.theta = theta
        self.scaling = scaling
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def tables(self, start: int, stop: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of the positions start..stop-1 as :func:`rotate` takes them, each
        [stop - start, 1, head_width], as ``like``.
        """
        key = (like.device, like.dtype)
        if key not in self._tables or len(self._tables[key][0]) < stop:
            self._tables[key] = self._compute(max(stop, 128), like)
        cos, sin = self._tables[key]
        return cos[start:stop], sin[start:stop]

    def _compute(self, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        steps = torch.arange(0, self.head_width, 2, device=like.device).float() / self.head_width
        positions = torch.arange(length, device=like.device).float()
        frequencies = 1.0 / self.theta**steps
        if self.scaling:
            lower = [self.scaling.apply(frequency) for frequency in frequencies.tolist()]
            frequencies = torch.tensor(lower, device=like.device)
        angles = torch.outer(positions, frequencies)[:, None, :]
        cos, sin = angles.cos().to(like.dtype), angles.sin().to(like.dtype)
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)

    def turns(self, start: int, ids: Tensor, starts: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of the positions of ``ids`` [B, L], of which ``start`` others stand before.

        Args:
            starts: int64 [B, L], the column at which each position's document begins, where it is counted from; None
                counts from the first.

        Returns:
            Each [L, 1, head_width] or, with ``starts``, [B, L, 1, head_width], as ``like``.
        """
        cos, sin = self.tables(start, start + ids.shape[1], like)
        if starts is None:
            return cos, sin
        places = places_of(ids, starts)
        return cos[places], sin[places]


def places_of(ids: Tensor, starts: Tensor | None, start: int = 0) -> Tensor:
    """The positions of ``ids`` [B, L], int64 [L] or, with ``starts`` as of :meth:`Rotary.turns`, [B, L]."""
    columns = torch.arange(start, start + ids.shape[1], device=ids.device)
    return columns if starts is None else columns - starts


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + head_width/2) of ``x`` [B, L, H, head_width] by their positions' angles.

    ``cos`` and ``sin`` hold every angle twice; the first half of ``sin`` is negative.
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


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
    length, positions = query.shape[1], key.shape[1]
    if length == positions and _by_blocks(query, length, 0):
        return _BlockwiseAttention.apply(query, key, value, length, 0, starts)
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
    length = query.shape[1]
    everywhere = reach is None or reach >= length - 1
    if everywhere and starts is None:
        return _torchs_attention(query, key, value, None, causal=False)
    span = length if reach is None else min(reach, length)
    if _by_blocks(query, span, span):
        return _BlockwiseAttention.apply(query, key, value, span, span, starts)
    if starts is None:
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device)
    else:
        mask = _of_one_document(starts)
    mask = mask.tril(span).triu(-span)
    return _torchs_attention(query, key, value, mask, causal=False)


def _of_one_document(starts: Tensor) -> Tensor:
    """Whether two positions are of one document: bool [B, 1, L, L]."""
    return (starts[:, :, None] == starts[:, None, :])[:, None]


def _by_blocks(query: Tensor, before: int, after: int) -> bool:
    length = query.shape[1]
    return (
        query.device.type == "cpu" and length > 1 and min(length, before + BLOCK + after) <= LONGEST_BLOCKWISE
    )


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


class _BlockwiseAttention(torch.autograd.Function):
    """Faster than torch's own kernel on CPUs where keys are hidden: large products, and few with hidden keys.

    A query at i sees the keys i-before … i+after. Queries are taken block by block. The query heads that share a
    key are rows of one matrix, so that grouped keys and values are never repeated. Inside, queries are
    [B·key_value_heads, group·block, head_width]. With ``starts``, keys of other documents are hidden as well, and those
    before the first document of a block are left out.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, before: int, after: int, starts: Tensor | None
    ) -> Tensor:
        keys, values = _heads_first(key), _heads_first(value)
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        probabilities = []
        blocks = _blocks(query.shape[1], before, after, starts)
        for start, stop, seen in blocks:
            rows = _rows(query, keys, start, stop) * query.shape[-1] ** -0.5
            scores = torch.bmm(rows, keys[:, seen].transpose(1, 2))
            _hide_unseen(scores.unflatten(1, (-1, stop - start)), start - seen.start, before, after)
            if starts is not None:
                others = starts[:, start:stop, None] != starts[:, None, seen]
                scores.view(len(query), -1, *others.shape[1:]).masked_fill_(others[:, None], -math.inf)
            weights = torch.softmax(scores, dim=-1)
            _write_rows(output, torch.bmm(weights, values[:, seen]), start, stop)
            probabilities.append(weights)
        ctx.blocks = blocks
        ctx.save_for_backward(query, keys, values, *probabilities)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, keys, values, *probabilities = ctx.saved_tensors
        query_grad = torch.empty_like(query, memory_format=torch.contiguous_format)
        # Every block adds to these: in fp32 for bf16, so that the sum is rounded once.
        accurate = torch.promote_types(keys.dtype, torch.float32)
        keys_grad, values_grad = (torch.zeros_like(keys, dtype=accurate) for _ in range(2))
        scale = query.shape[-1] ** -0.5
        for (start, stop, seen), weights in zip(ctx.blocks, probabilities, strict=True):
            rows, slope = _rows(query, keys, start, stop), _rows(upstream, keys, start, stop)
            values_grad[:, seen] += torch.bmm(weights.transpose(1, 2), slope)
            slope = torch.bmm(slope, values[:, seen].transpose(1, 2))
            slope = torch.ops.aten._softmax_backward_data(slope, weights, -1, weights.dtype)
            _write_rows(query_grad, torch.bmm(slope, keys[:, seen]) * scale, start, stop)
            keys_grad[:, seen] += torch.bmm(slope.transpose(1, 2), rows * scale)
        heads = query.shape[0], -1, *keys.shape[1:]
        return (
            query_grad,
            keys_grad.to(keys.dtype).view(heads).transpose(1, 2),
            values_grad.to(keys.dtype).view(heads).transpose(1, 2),
            None,
            None,
            None,
        )


def _blocks(length: int, before: int, after: int, starts: Tensor | None) -> list[tuple[int, int, slice]]:
    """The queries start..stop-1 of each block, and the keys that one of them at least sees, or some more."""
    bounds = [(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]
    first = [0] * len(bounds) if starts is None else starts[:, ::BLOCK].amin(dim=0).tolist()
    return [
        (start, stop, slice(max(first[i], start - before), min(length, stop + after)))
        for i, (start, stop) in enumerate(bounds)
    ]


def _heads_first(x: Tensor) -> Tensor:
    """[B, L, H, W] → [B·H, L, W]"""
    return x.transpose(1, 2).reshape(-1, x.shape[1], x.shape[3])


def _rows(x: Tensor, keys: Tensor, start: int, stop: int) -> Tensor:
    """Positions start..stop-1 of [B, L, heads, W] as [B·key_value_heads, group·(stop - start), W]."""
    groups = x[:, start:stop].unflatten(2, (len(keys) // len(x), -1))
    return groups.permute(0, 2, 3, 1, 4).reshape(len(keys), -1, x.shape[3])


def _write_rows(x: Tensor, rows: Tensor, start: int, stop: int) -> None:
    """The inverse of :func:`_rows`: put ``rows`` where they belong in ``x``."""
    batch, _, _, width = x.shape
    groups = rows.view(batch, len(rows) // batch, -1, stop - start, width)
    x[:, start:stop].unflatten(2, groups.shape[1:3]).copy_(groups.permute(0, 3, 1, 2, 4))


def _hide_unseen(scores: Tensor, start: int, before: int, after: int) -> None:
    """Make the scores [·, group, block, keys] of the keys that a query does not see -inf.

    Args:
        start: where among the keys the first query stands.
    """
    block, keys = scores.shape[-2:]
    hidden = functools.partial(torch.full, fill_value=float("-inf"), dtype=scores.dtype)
    # Only where a block and its keys make a corner: the rest of the scores is not touched.
    if (late := keys - (start + after)) > 1:
        scores[..., -late:].add_(hidden((block, late)).triu(1))
    if (early := start + block - 1 - before) > 0:
        scores[..., :early].add_(hidden((block, early)).tril(start - before - 1))
