"""Matrix products by the fastest library that torch has for the processor.

For fp32 torch calls MKL, which leaves AVX-512 to Intel's own processors. oneDNN, which torch has as well, uses it
wherever it is: on an AMD EPYC with Zen 5 cores its products in fp32 (not in less) take less than half the time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_LEAST_ROWS = 32
"""With fewer, the 10 µs that a call of oneDNN takes longer are not won back."""


class Linear(nn.Linear):
    """``nn.Linear`` by :func:`linear`, without a bias unless asked for."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__(inputs, outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias`` for ``x`` [..., inputs], ``weight`` [outputs, inputs] and ``bias`` [outputs].

    Differentiated at most once.
    """
    return _ways["onednn"](x, weight, bias) if _by_onednn(x) else F.linear(x, weight, bias)


def product(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """``left @ right`` of two matrices, each contiguous or the transpose of one that is; not for autograd.

    Args:
        out: memory for the result, which may be used.
    """
    if not _by_onednn(left):
        return left @ right if out is None else torch.mm(left, right, out=out)
    if left.is_contiguous() or left.numel() <= right.numel():
        return _onednn(left, right.T)
    return _onednn(
        right.T, left
    ).T  # oneDNN has its left factor copied if it is a transpose: here the smaller


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # A frozen matrix needs no x, which would stay in memory for nothing.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        x_grad = _onednn(upstream, weight.T) if ctx.needs_input_grad[0] else None
        weight_grad = None
        if ctx.needs_input_grad[1]:
            weight_grad = product(upstream.flatten(0, -2).contiguous().T, x.flatten(0, -2).contiguous())
        bias_grad = upstream.flatten(0, -2).sum(dim=0) if ctx.needs_input_grad[2] else None
        return x_grad, weight_grad, bias_grad


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``. If ``weight`` were a slice, that is neither dense nor the transpose of a dense matrix,
    it would be computed right but a hundred times slower.
    """
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return made


def _by_onednn(x: Tensor) -> bool:
    fits = x.dtype == torch.float32 and x.device.type == "cpu"
    return fits and _ways["mkl is slow"]() and x.numel() >= _LEAST_ROWS * x.shape[-1] > 0


@functools.cache
def mkl_is_slow() -> bool:
    """Whether this processor has AVX-512 and is not Intel's."""
    has_onednn = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if not has_onednn or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        return "GenuineIntel" not in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


_ways: dict[str, Callable[..., Any]] = {"onednn": _OneDnnLinear.apply, "mkl is slow": mkl_is_slow}


def prepare_for_compiling() -> None:
    """Have compiled code call oneDNN as it is, and take what processor this is for granted."""
    slow = mkl_is_slow()
    _ways["onednn"] = torch.compiler.disable(_OneDnnLinear.apply)
    _ways["mkl is slow"] = lambda: slow
