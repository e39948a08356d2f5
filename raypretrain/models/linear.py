"""Matrix products by the fastest library that torch has for the processor.

For fp32 torch calls MKL, which leaves AVX-512 to Intel's own processors. oneDNN, which torch has as well, uses it
wherever it is: on an AMD EPYC with Zen 5 cores its products in fp32 take less than half the time. With AVX2 alone, on
Zen 3, it is mostly faster, by up to a quarter, where rows meet a weight, and MKL where a weight gets its gradient.

For bf16 torch calls oneDNN where the processor has AVX-512 or better, and elsewhere a loop that is five to
seventeen times slower than fp32. There products are computed in fp32 and rounded, as hardware for bf16 does it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_LEAST_ROWS = 32
"""With fewer, neither the 10 µs that a call of oneDNN takes longer are won back, nor the time to convert a weight."""


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
    if wants_fp32(x) or _suits_onednn(x):
        return _ways["ours"](x, weight, bias)
    return F.linear(x, weight, bias)


def product(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """``left @ right`` of two matrices, each contiguous or the transpose of one that is; not for autograd.

    Args:
        out: memory for the result, which may be used.
    """
    if wants_fp32(left):
        return product(left.float(), right.float()).to(left.dtype)
    if not (_suits_onednn(left) and _ways["cpu"]().mkl_lacks_avx512):
        return left @ right if out is None else torch.mm(left, right, out=out)
    if left.is_contiguous() or left.numel() <= right.numel():
        return _onednn(left, right.T)
    return _onednn(
        right.T, left
    ).T  # oneDNN has its left factor copied if it is a transpose: here the smaller


def batched_product(left: Tensor, right: Tensor) -> Tensor:
    """``torch.bmm(left, right)``; not for autograd."""
    if wants_fp32(left):
        return torch.bmm(left.float(), right.float()).to(left.dtype)
    return torch.bmm(left, right)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # A frozen matrix needs no x, which would stay in memory for nothing.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return _times_transpose(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        x_grad = _times_transpose(upstream, weight.T) if ctx.needs_input_grad[0] else None
        weight_grad = None
        if ctx.needs_input_grad[1]:
            weight_grad = product(upstream.flatten(0, -2).contiguous().T, x.flatten(0, -2).contiguous())
        bias_grad = upstream.flatten(0, -2).sum(dim=0) if ctx.needs_input_grad[2] else None
        return x_grad, weight_grad, bias_grad


def _times_transpose(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``."""
    if wants_fp32(x):
        made: Tensor = ROUNDED_LINEAR(x, weight, bias)
        return made
    return _onednn(x, weight, bias) if _suits_onednn(x) else F.linear(x, weight, bias)


def _rounded_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    wide = None if bias is None else bias.float()
    return _times_transpose(x.float(), weight.float(), wide).to(x.dtype)


# An operation of its own, so that selective checkpointing keeps what is rounded and not what is twice as large.
_library = torch.library.Library("raypretrain", "DEF")
_library.define("rounded_linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
_library.impl("rounded_linear", _rounded_linear, "CPU")
ROUNDED_LINEAR = torch.ops.raypretrain.rounded_linear.default


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``. If ``weight`` were a slice, that is neither dense nor the transpose of a dense matrix,
    it would be computed right but a hundred times slower.
    """
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return made


def _suits_onednn(x: Tensor) -> bool:
    return _is_of(x, torch.float32) and _ways["cpu"]().onednn_is_fast


def wants_fp32(x: Tensor) -> bool:
    """Whether products of ``x`` in bf16 are faster in fp32, conversions included."""
    return _is_of(x, torch.bfloat16) and not has_bf16(x.device)


def has_bf16(device: torch.device) -> bool:
    """Whether torch's products in bf16 are more there than a plain loop."""
    return device.type != "cpu" or bool(_ways["cpu"]().has_bf16)


def _is_of(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether ``x`` is a CPU's, of that dtype and of enough rows."""
    return x.dtype == dtype and x.device.type == "cpu" and x.numel() >= _LEAST_ROWS * x.shape[-1] > 0


class Cpu(NamedTuple):
    """What decides who multiplies on this processor.

    Attributes:
        onednn_is_fast: rows of fp32 times a weight take oneDNN no longer than MKL.
        mkl_lacks_avx512: the processor has AVX-512 and MKL does not use it.
        has_bf16: oneDNN multiplies in bf16.
    """

    onednn_is_fast: bool
    mkl_lacks_avx512: bool
    has_bf16: bool


@functools.cache
def this_cpu() -> Cpu:
    """Of this machine."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return Cpu(False, False, has_bf16=False)
    level = torch.backends.cpu.get_cpu_capability()
    fast = level in ("AVX2", "AVX512") and not _is_intels()
    return Cpu(fast, fast and level == "AVX512", has_bf16=torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _is_intels() -> bool:
    """Whether this processor is Intel's, or not known."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return True


_ways: dict[str, Callable[..., Any]] = {"ours": _Linear.apply, "cpu": this_cpu}


def prepare_for_compiling() -> None:
    """Have compiled code call oneDNN as it is, and take what processor this is for granted."""
    cpu = this_cpu()
    _ways["ours"] = torch.compiler.disable(_Linear.apply)
    _ways["cpu"] = lambda: cpu
