"""The cross-entropy of a linear layer's outputs, in chunks, so that all the logits never exist at once.

With a vocabulary of 16 thousand and more, the logits are the largest tensor of a step by far, and getting,
writing and reading that memory costs more than the arithmetic on it. Here the gradients are computed in the
forward pass, chunk by chunk in memory that is used again; the backward pass only scales them. The idea is that of
Liger Kernel (arXiv:2410.10989) and "Cut Your Losses in Large-Vocabulary Language Models" (arXiv:2411.09009).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from raypretrain.models.linear import product, wants_fp32

_CONVERTED = 2**17
"""Entries in fp32 that a core's own cache holds."""

LEAST_ROWS = 992
"""Of a chunk on a CPU."""

IGNORED = -100
"""The target of a position that does not count."""


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    chunk: int | None = None,
    each: Tensor | None = None,
    bias: Tensor | None = None,
    z_loss: float = 0.0,
) -> Tensor:
    """The mean of ``cross_entropy(hidden @ weight.T + bias, targets)`` over the targets that are not ``IGNORED``.

    Rows whose target does not count cost nothing.

    Args:
        hidden: [N, D].
        weight: [V, D], of the same dtype.
        targets: [N] int64, each in 0..V-1 or ``IGNORED``.
        chunk: rows whose logits exist at one time; None chooses by the vocabulary and the device.
        each: fp32 [N], takes the loss of every row whose target counts.
        bias: [V], of the same dtype; None adds nothing.
        z_loss: weight of the mean of ``logsumexp(logits)²`` (PaLM, arXiv:2204.02311, section 5). It is in the
            gradients alone, so that losses can be compared whatever it is.

    Returns:
        A scalar, in fp32 (fp64 for fp64 inputs); NaN if no target counts, as torch's own. It can be
        differentiated once, not twice.
    """
    if wants_fp32(hidden):
        hidden, weight, bias = hidden.float(), weight.float(), None if bias is None else bias.float()
    chunks = _counting_rows(targets).split(chunk or _chunk_rows(weight))
    learned = (hidden, weight) if bias is None else (hidden, weight, bias)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in learned):
        return _LinearCrossEntropy.apply(hidden, weight, bias, targets, chunks, each, z_loss)
    losses = torch.cat([_losses(hidden[rows], weight, bias, targets[rows]) for rows in chunks])
    _write_each(each, losses, chunks)
    return losses.mean()


def _write_each(each: Tensor | None, losses: Tensor, chunks: tuple[Tensor, ...]) -> None:
    if each is not None:
        each[torch.cat(chunks)] = losses.to(each.dtype)


def _counting_rows(targets: Tensor) -> Tensor:
    return (targets != IGNORED).nonzero()[:, 0]


def _chunk_rows(weight: Tensor) -> int:
    """So many that a chunk's logits stay near a CPU's caches, or fill a GPU.

    For each chunk the gradient of ``weight`` is added up once more, in fp32, which takes a CPU as long as the products
    of some 200 rows in bf16, of some 30 in fp32. So with a large vocabulary there are more rows than the caches hold.
    """
    if weight.device.type != "cpu":
        return max(1, 2**27 // weight.shape[0])
    return max(2**23 // weight.shape[0], LEAST_ROWS)


def _accurate(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums over many rows or columns are taken."""
    return dtype if dtype == torch.float64 else torch.float32


class _LinearCrossEntropy(torch.autograd.Function):
    """Saves the gradients of the *summed* loss: dividing by the count last spares bf16 a rounding."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        chunks: tuple[Tensor, ...],
        each: Tensor | None,
        z_loss: float,
    ) -> Tensor:
        losses = []
        hidden_grad = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        weight_grad = None
        bias_grad = None
        if bias is not None and ctx.needs_input_grad[2]:
            bias_grad = torch.zeros_like(bias, dtype=_accurate(bias.dtype))
        # A CPU's allocator would ask the system anew for so much memory each time.
        memory = hidden.new_empty(len(chunks[0]), len(weight)) if hidden.device.type == "cpu" else None
        for rows in chunks:
            part = hidden[rows]
            room = None if memory is None else memory[: len(rows)]
            loss, slope = _losses_and_slope(part, weight, bias, targets[rows], z_loss, room)
            losses.append(loss)
            if hidden_grad is not None:
                hidden_grad[rows] = product(slope, weight)
            if ctx.needs_input_grad[1]:
                weight_grad = _add_product(weight_grad, slope.T, part)
            if bias_grad is not None:
                bias_grad += slope.sum(0, dtype=bias_grad.dtype)
        gradients = (hidden_grad, weight_grad, bias_grad)
        ctx.save_for_backward(*(None if g is None else g.to(hidden.dtype) for g in gradients))
        ctx.count = sum(map(len, chunks))
        _write_each(each, torch.cat(losses), chunks)
        return torch.cat(losses).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        scale = upstream / ctx.count
        return *(None if g is None else g * scale for g in ctx.saved_tensors), None, None, None, None


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, room: Tensor | None = None) -> Tensor:
    logits = product(hidden, weight.T, room)
    return logits if bias is None else logits.add_(bias)


def _losses(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """The loss of every row of ``hidden`` [n, D], in the accurate dtype."""
    logits = _logits(hidden, weight, bias).to(_accurate(hidden.dtype))
    return F.cross_entropy(logits, targets, reduction="none")


def _losses_and_slope(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    z_loss: float = 0.0,
    room: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss of every row of ``hidden`` [n, D], and its gradient, with z-loss, for the logits [n, V].

    Args:
        room: memory of the logits' size, on a CPU.
    """
    logits = _logits(hidden, weight, bias, room)
    # d logsumexp² / d logits = 2 · logsumexp · softmax
    grown = 1 + 2 * z_loss * logits.logsumexp(dim=-1, keepdim=True) if z_loss else None
    slope = torch.softmax(logits, dim=-1) if room is None else _softmax_in_place(logits)
    del logits  # as large as all that is computed here
    # Not scatter_ or scatter_add_, which copy the whole tensor for bf16 on a CPU.
    places = torch.arange(len(targets), device=targets.device), targets
    likelihoods = slope[places]
    if grown is not None:
        slope *= grown
    slope[places] -= 1
    losses = -likelihoods.to(_accurate(hidden.dtype)).log()
    # A probability that is too small for its dtype leaves no loss; the logits do.
    lost = (losses > -math.log(torch.finfo(hidden.dtype).tiny) - 1).nonzero()[:, 0]
    if len(lost):
        losses[lost] = _losses(hidden[lost], weight, bias, targets[lost])
    return losses, slope


def _add_product(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """``total + left @ right``; in fp32 for factors in bf16, so that no chunk's rounding adds up."""
    if total is None:
        return product(left, right).to(_accurate(left.dtype))
    made = product(left, right)
    if total.dtype == made.dtype or total.device.type != "cpu":
        return total.add_(made)
    # By itself add_ takes eight times as long on a CPU; and what is converted stays in its cache.
    rows = max(1, _CONVERTED // total.shape[1])
    for some, converted in zip(total.split(rows), made.split(rows), strict=True):
        some.add_(converted.to(total.dtype))
    return total


def _softmax_in_place(logits: Tensor) -> Tensor:
    """Softmax over the last dimension of a CPU's [n, V]; each row is read before it is written."""
    made: Tensor = torch.ops.aten._softmax.out(logits, -1, False, out=logits)
    return made
