"""Head and loss: in chunks, as ours, against all logits at once: time and the most memory, forward and backward.

The network's last states, one row a token, times the output matrix; then the cross-entropy, and the gradients of both.
On a CPU each runs in a process of its own, whose most memory counts; one thread.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from report import Row, parser, report, say_load
from sizes import PRECISIONS
from torch import Tensor
from torch.nn import functional as F

from raypretrain.models.linear import linear
from raypretrain.models.loss import linear_cross_entropy

SHAPES = {
    "16k x 256": (16384, 256),
    "16k x 512": (16384, 512),
    "50k x 768": (50304, 768),
    "128k x 2048": (128256, 2048),
}
"""Vocabulary × width."""


@dataclass(frozen=True)
class Case:
    """One measurement.

    Args:
        chunked: ours; else all logits at once.
    """

    vocabulary: int
    width: int
    tokens: int
    dtype: torch.dtype
    device: str
    chunked: bool
    rounds: int


def all_at_once(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """As most write it. The products are by the same library as ours."""
    return F.cross_entropy(linear(hidden, weight), targets)


def measured(case: Case) -> tuple[float, int]:
    """Seconds of forward and backward (median), and bytes at most beyond the inputs and their gradients."""
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    hidden, weight = (
        torch.randn(rows, case.width, generator=draw).mul_(0.1).to(case.device, case.dtype).requires_grad_()
        for rows in (case.tokens, case.vocabulary)
    )
    targets = torch.randint(0, case.vocabulary, (case.tokens,), generator=draw).to(case.device)
    loss_of: Callable[[Tensor, Tensor, Tensor], Tensor] = (
        linear_cross_entropy if case.chunked else all_at_once
    )
    seconds = []
    hidden.grad, weight.grad = torch.zeros_like(hidden), torch.zeros_like(weight)
    before = bytes_held(case.device, "now")
    for _ in range(case.rounds + 1):
        begun = time.perf_counter()
        loss_of(hidden, weight, targets).backward()
        if case.device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:]), bytes_held(case.device, "most") - before


def bytes_held(device: str, when: str) -> int:
    """Memory that is taken now, or was at most."""
    if device != "cpu":
        return torch.cuda.memory_allocated() if when == "now" else torch.cuda.max_memory_allocated()
    field = "VmRSS:" if when == "now" else "VmHWM:"
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024


def alone(case: Case) -> tuple[float, int]:
    """:func:`measured` in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measured, case).result()


def compared(name: str, precision: str, options: argparse.Namespace) -> list[Row]:
    """Time and memory of one shape."""
    vocabulary, width = SHAPES[name]
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    tokens, rounds = (512, 1) if options.quick else (options.tokens, 5)
    ours, peer = (
        alone(Case(vocabulary, width, tokens, dtype, options.device, chunked, rounds))
        for chunked in (True, False)
    )
    what = f"{name}, {precision}, {tokens} tokens"
    return [
        Row(f"seconds: {what}", ours[0], peer[0], None, less=True),
        Row(f"memory, MB: {what}", ours[1] / 1e6, peer[1] / 1e6, None, less=True),
    ]


def main() -> None:
    """Run it."""
    made = parser(__doc__ or "")
    made.add_argument("--tokens", type=int, default=4096)
    made.add_argument(
        "--shape", action="append", choices=list(SHAPES), help="vocabulary x width; only this one"
    )
    made.add_argument("--device", choices=("cuda", "cpu"), default="cpu")
    options = made.parse_args()
    say_load()
    shapes = options.shape or (list(SHAPES)[:1] if options.quick else list(SHAPES)[:3])
    rows = [row for name in shapes for precision in PRECISIONS for row in compared(name, precision, options)]
    report(
        "head and loss: in chunks, and with all logits at once as the peer", "see the row", rows, options.json
    )


if __name__ == "__main__":
    main()
