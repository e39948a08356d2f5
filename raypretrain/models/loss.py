"""The cross-entropy of a linear layer's outputs, in chunks, so that all the logits never exist at once.

With a vocabulary of 16 thousand and more, the logits are the largest tensor of a step by far, and getting,
writing and reading that memory costs more than the arithmetic on it. Here the gradients are computed in the
forward pass, chunk by chunk in the same two buffers; the backward pass only scales them. The idea is that of
Liger Kernel (arXiv:2410.10989) and "Cut Your Losses in Large-Vocabulary Language Models" (arXiv:2411.09009).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

IGNORED = -100
"""The target of a position that does not count."""


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int | None = None) -> Tensor:
    """The mean of ``cross_entropy(hidden @ weight.T, targets)`` over the targets that are not ``IGNORED``.

    Args:
        hidden: [N, D].
        weight: [V, D], of the same dtype.
        targets: [N] int64, each in 0..V-1 or ``IGNORED``.
        chunk: rows whose logits exist at one time; None chooses by the vocabulary and the device.

    Returns:
        A scalar, in fp32 (fp64 for fp64 inputs); NaN if no target counts, as torch's own. It can be
        differentiated once, not twice.
    """
    chunk = chunk or _chunk_rows(weight)
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        return _LinearCrossEntropy.apply(hidden, weight, targets, chunk)
    total = torch.zeros((), dtype=_accurate(hidden.dtype), device=hidden.device)
    for part, wanted in zip(hidden.split(chunk), targets.split(chunk), strict=True):
        logits = F.linear(part, weight).to(total.dtype)
        total += F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum")
    return total / (targets != IGNORED).sum()


def _chunk_rows(weight: Tensor) -> int:
    """So many that a chunk's logits stay near a CPU's caches, or fill a GPU."""
    logits = 2**23 if weight.device.type == "cpu" else 2**27
    return max(1, logits // weight.shape[0])


def _accurate(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums over many rows or columns are taken."""
    return dtype if dtype == torch.float64 else torch.float32


class _LinearCrossEntropy(torch.autograd.Function):
    """Saves the gradients of the *summed* loss: dividing by the count last spares bf16 a rounding."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        chunk = min(chunk, len(hidden))
        buffers = (hidden.new_empty(chunk, len(weight)), hidden.new_empty(chunk, len(weight)))
        hidden_grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        weight_grad = None
        if ctx.needs_input_grad[1]:
            weight_grad = torch.zeros_like(weight, dtype=_accurate(weight.dtype))
        total = torch.zeros((), dtype=_accurate(hidden.dtype), device=hidden.device)
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            counts = (targets[rows] != IGNORED)[:, None]
            index = targets[rows, None].where(counts, 0)
            losses, slope = _losses_and_slope(hidden[rows], weight, index, buffers)
            total += (losses * counts).sum()
            if hidden_grad is not None:
                torch.mul(slope @ weight, counts, out=hidden_grad[rows])
            if weight_grad is not None:
                _add_product(weight_grad, slope.T, hidden[rows] * counts)
        count = (targets != IGNORED).sum()
        ctx.save_for_backward(
            hidden_grad, None if weight_grad is None else weight_grad.to(weight.dtype), count
        )
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        *gradients, count = ctx.saved_tensors
        scale = upstream / count
        return (*(None if gradient is None else gradient * scale for gradient in gradients), None, None)


def _losses_and_slope(
    hidden: Tensor, weight: Tensor, index: Tensor, buffers: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The loss [n, 1] of every row of ``hidden`` [n, D], and its gradient for the logits [n, V].

    The gradient lies in one of the buffers [≥ n, V]; the targets are ``index`` [n, 1].
    """
    accurate = _accurate(hidden.dtype)
    logits = torch.mm(hidden, weight.T, out=buffers[0][: len(hidden)])
    probabilities = torch.softmax(logits, dim=-1, out=buffers[1][: len(hidden)])
    # log(sum(exp(logits))) by way of the likeliest token, whose probability cannot underflow.
    likeliest = probabilities.amax(-1, keepdim=True).to(accurate).log()
    normalizer = logits.amax(-1, keepdim=True).to(accurate) - likeliest
    losses = normalizer - logits.gather(1, index).to(accurate)
    # Not scatter_ or scatter_add_, which copy the whole tensor for bf16 on a CPU.
    probabilities[torch.arange(len(index), device=index.device), index[:, 0]] -= 1
    return losses, probabilities


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total += left @ right``; in fp32 for factors in bf16, so that no chunk's rounding adds up."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)
