"""How fast a processor can multiply matrices: as its maker says, and as measured."""

from __future__ import annotations

import re
import time

import torch

from raypretrain.models.linear import product

DATA_SHEET: tuple[tuple[str, float], ...] = (
    # Dense products in bf16 with sums in fp32, FLOP/s, of the makers' data sheets; half of what they give for sparse
    # matrices. The first entry whose words are all in the device's name is taken.
    ("H200", 989.4e12),  # NVIDIA H200 Tensor Core GPU
    ("H100 PCIe", 756e12),  # NVIDIA H100 Tensor Core GPU
    ("H100 NVL", 835e12),  # NVIDIA H100 NVL
    ("H100", 989.4e12),  # SXM; NVIDIA H100 Tensor Core GPU
    ("A100", 312e12),  # NVIDIA A100 Tensor Core GPU
    ("A10G", 70e12),  # NVIDIA A10G, as in AWS's g5
    ("A10", 125e12),  # NVIDIA A10 Tensor Core GPU
    ("L40S", 362e12),  # NVIDIA L40S
    ("L4", 121e12),  # NVIDIA L4 Tensor Core GPU
    ("RTX 4090", 165.2e12),  # NVIDIA Ada GPU architecture, appendix A
    ("MI300X", 1307.4e12),  # AMD Instinct MI300X
)


def data_sheet_peak(device_name: str, dtype: torch.dtype) -> float | None:
    """FLOP/s at most in bf16 of a GPU by ``torch.cuda.get_device_name``; None where it is not known."""
    if dtype != torch.bfloat16:
        return None
    words = re.split(r"[\s-]", device_name)
    return next((peak for name, peak in DATA_SHEET if all(word in words for word in name.split())), None)


def matmul_peak(device: str, dtype: torch.dtype, quick: bool = False) -> float:
    """FLOP/s of the fastest of several square products, on the threads that torch is set to.

    Where torch has two libraries for it, the faster counts. On a CPU, fp32 counts too where it is faster: one without
    instructions for bf16 multiplies in it a hundred times slower than in fp32, which is no limit to anybody.
    """
    if device != "cpu":
        return max(fastest(size, device, dtype, 10) for size in (4096, 8192, 16384)[: 1 if quick else None])
    sizes = (1024, 2048)[: 1 if quick else None]
    peak = max(fastest(size, device, torch.float32, 5) for size in sizes)
    if dtype != torch.float32 and fastest(256, device, dtype, 5) > 0.5 * fastest(
        256, device, torch.float32, 5
    ):
        peak = max(peak, *(fastest(size, device, dtype, 5) for size in sizes))
    return peak


def fastest(size: int, device: str, dtype: torch.dtype, repeats: int) -> float:
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for multiply in (torch.matmul, product):
        multiply(left, right)
        for _ in range(repeats):
            begun = _now(device)
            multiply(left, right)
            best = min(best, _now(device) - begun)
    return 2 * size**3 / best


def _now(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()
