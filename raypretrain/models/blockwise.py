"""Attention by blocks of queries: a fast form of it for CPUs, where keys are hidden."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from raypretrain.models.linear import batched_product

LONGEST_BLOCKWISE = 1024
"""Where a block of queries spans more keys, the probabilities kept for the backward pass cost more memory than
they save time."""

BLOCK = 128
"""Queries that are worked on at one time."""


def by_blocks(query: Tensor, before: int, after: int) -> bool:
    """Whether this form is the faster one, for queries that see so many keys before and after their own."""
    length = query.shape[1]
    return (
        query.device.type == "cpu" and length > 1 and min(length, before + BLOCK + after) <= LONGEST_BLOCKWISE
    )


class BlockwiseAttention(torch.autograd.Function):
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
            scores = batched_product(rows, keys[:, seen].transpose(1, 2))
            _hide_unseen(scores.unflatten(1, (-1, stop - start)), start - seen.start, before, after)
            if starts is not None:
                others = starts[:, start:stop, None] != starts[:, None, seen]
                scores.view(len(query), -1, *others.shape[1:]).masked_fill_(others[:, None], -math.inf)
            weights = torch.ops.aten._softmax.out(scores, -1, False, out=scores)
            _write_rows(output, batched_product(weights, values[:, seen]), start, stop)
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
            # Converted first: by itself the addition takes eight times as long.
            values_grad[:, seen] += batched_product(weights.transpose(1, 2), slope).to(accurate)
            slope = batched_product(slope, values[:, seen].transpose(1, 2))
            torch.ops.aten._softmax_backward_data.out(slope, weights, -1, slope.dtype, grad_input=slope)
            _write_rows(query_grad, batched_product(slope, keys[:, seen]) * scale, start, stop)
            keys_grad[:, seen] += batched_product(slope.transpose(1, 2), rows * scale).to(accurate)
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
