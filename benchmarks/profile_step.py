"""Where the time of a training step goes, by part, against the fastest matrix product on the same thread or GPU.

Marks are set inside the real step: where a part begins and ends in the forward pass, and where the gradient of what it
gives is there and that of what it was given, between which its backward pass lies. Nothing but the marks is added. The
parts are all layers' attention and feed-forward blocks, the head with the loss, the optimizer (with the clipping of the
gradient), and the rest: embedding, norms, additions. FLOPs are counted as for the utilisation of a model
(``ModelShape.flops_per_token``): a causal attention that skips what is hidden does with fewer. A compiled step has no
parts that could be told apart; --compiled prints its whole.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from peak import matmul_peak
from peers import CLIP, taking_part, transformers_llama
from race import in_turn
from report import Row, parser, say_load, show, write
from sizes import PRECISIONS, SIZES, Work, work_of
from torch import Tensor, nn

from raypretrain.models.cpu import use_cpus
from raypretrain.models.families import build

PARTS = ("attention", "feed-forward", "head and loss", "optimizer", "the rest")
# Our names and those of transformers.
_PARTS_OF_A_LAYER = {
    "attention": r".*\.\d+\.(attention|self_attn)",
    "feed-forward": r".*\.\d+\.(feed_forward|mlp)",
}
_LAST_NORM = r"(model\.)?norm"


class Marks:
    """Moments of a step, in the order in which the device comes to them."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.spans: list[tuple[str, Any, Any]] = []
        self._open: dict[str, Any] = {}

    def begin(self, part: str) -> None:
        """A span of that part begins; they do not overlap with their own kind."""
        self._open[part] = self._now()

    def end(self, part: str) -> None:
        """It ends; without a beginning nothing is noted."""
        if (begun := self._open.pop(part, None)) is not None:
            self.spans.append((part, begun, self._now()))

    def seconds(self) -> dict[str, float]:
        """By part; forgets the spans."""
        if self.device != "cpu":
            torch.cuda.synchronize()
        found: dict[str, float] = defaultdict(float)
        for part, begun, ended in self.spans:
            found[part] += ended - begun if self.device == "cpu" else begun.elapsed_time(ended) / 1000
        self.spans.clear()
        return found

    def _now(self) -> Any:
        if self.device == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def mark_parts(model: nn.Module, marks: Marks) -> None:
    """Set the marks in a network of ours or of transformers."""
    for name, module in model.named_modules():
        for part, pattern in _PARTS_OF_A_LAYER.items():
            if re.fullmatch(pattern, name):
                _mark(module, part, marks)
        if re.fullmatch(_LAST_NORM, name):
            module.register_forward_hook(lambda module, args, out: _begin_head(out, marks))


def _mark(module: nn.Module, part: str, marks: Marks) -> None:
    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        given = args[0] if args else kwargs["hidden_states"]
        given.register_hook(lambda grad: marks.end(part))
        marks.begin(part)

    def after(module: nn.Module, args: Any, out: Any) -> None:
        marks.end(part)
        (out[0] if isinstance(out, tuple) else out).register_hook(lambda grad: marks.begin(part))

    module.register_forward_pre_hook(before, with_kwargs=True)
    module.register_forward_hook(after)


def _begin_head(normed: Tensor, marks: Marks) -> None:
    normed.register_hook(lambda grad: marks.end("head and loss"))
    marks.begin("head and loss")


class Profiled:
    """The step of a network, timed by part."""

    def __init__(self, model: nn.Module, compute_loss: Callable[[], Tensor], device: str) -> None:
        self.compute_loss = compute_loss
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, fused=True)
        self.marks = Marks(device)
        mark_parts(model, self.marks)
        self.taken: list[dict[str, float]] = []

    def step(self) -> None:
        """One more."""
        marks = self.marks
        marks.begin("all")
        loss = self.compute_loss()
        marks.end("head and loss")
        marks.begin("head and loss")
        loss.backward()
        marks.begin("optimizer")
        nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        marks.end("optimizer")
        marks.end("all")
        self.taken.append(marks.seconds())

    def medians(self) -> dict[str, float]:
        """Seconds by part and of ``all``; the first two steps do not count."""
        found = {
            part: statistics.median(each[part] for each in self.taken[2:]) for part in ("all", *PARTS[:-1])
        }
        return found | {"the rest": found["all"] - sum(found[part] for part in PARTS[:-1])}


def profile(work: Work, rounds: int, with_peer: bool) -> dict[str, dict[str, float]]:
    """Seconds by part of our step, and of that of transformers, in turn."""
    inputs, targets = work.rows()
    model: Any = build(work.shape)
    model.init_weights(0)
    work.place(model)
    running = {"ours": Profiled(model, lambda: model(inputs, targets), work.device)}
    if with_peer:
        peer: Any = work.place(transformers_llama(work.shape))
        loss_of_peer = lambda: peer(input_ids=inputs, labels=inputs).loss  # noqa: E731
        running["transformers"] = Profiled(peer, loss_of_peer, work.device)
    for _ in range(rounds + 2):
        for each in running.values():
            each.step()
    return {name: each.medians() for name, each in running.items()}


def flops_by_part(shape: Any, length: int) -> dict[str, int]:
    """Of a token, forward and backward; ``all`` is the shape's ``flops_per_token``, and the others make it up."""
    every = shape.flops_per_token(length)
    feed_forward = 6 * shape.layers * 3 * shape.width * shape.feed_forward
    head = 6 * shape.vocabulary * shape.width
    return {
        "attention": every - feed_forward - head,
        "feed-forward": feed_forward,
        "head and loss": head,
        "all": every,
    }


def table(work: Work, found: dict[str, dict[str, float]], peak: float) -> list[list[object]]:
    """A line for each part, and one for the whole."""
    ours, peer = found["ours"], found.get("transformers")
    flops = flops_by_part(work.shape, work.length)
    rows: list[list[object]] = []
    for part in (*PARTS, "all"):
        row: list[object] = [part, 1000 * ours[part], f"{ours[part] / ours['all']:.1%}"]
        if part in flops:
            speed = work.tokens * flops[part] / ours[part]
            row += [speed / 1e9, speed / peak]
        else:
            row += ["", ""]
        row += [1000 * peer[part], peer[part] / ours[part]] if peer else ["", ""]
        rows.append(row)
    return rows


def as_rows(work: Work, found: dict[str, dict[str, float]], peak: float, what: str) -> list[Row]:
    """For the file: of each part its FLOP/s against the peak, and its time against that of the peer."""
    ours, peer = found["ours"], found.get("transformers")
    flops = flops_by_part(work.shape, work.length)
    rows = [
        Row(f"FLOP/s ÷ peak, {part}: {what}", work.tokens * flops[part] / ours[part], peak, None)
        for part in flops
    ]
    if peer:
        rows += [Row(f"seconds, {part}: {what}", ours[part], peer[part], None, less=True) for part in ours]
    return rows


def compiled(work: Work, rounds: int, peak: float) -> list[object]:
    """The line of the whole step, compiled."""
    [time_of] = in_turn(["ours"], ["compiled"], work, rounds)
    speed = time_of.flops_per_second
    return ["all, compiled", 1000 * time_of.median, "", speed / 1e9, speed / peak, "", ""]


def options_of() -> argparse.Namespace:
    """What the command line says."""
    made = parser(__doc__ or "")
    made.add_argument("--size", action="append", choices=list(SIZES), help="10m and 30m unless given")
    made.add_argument("--precision", action="append", choices=PRECISIONS, help="only this one")
    made.add_argument("--batch", type=int, help="sequences of a step")
    made.add_argument("--compiled", action="store_true", help="the whole of the compiled step as well")
    made.add_argument("--rounds", type=int, help="steps that count; 5, with --quick 2")
    made.add_argument("--device", choices=("cuda", "cpu"), default="cpu")
    return made.parse_args()


def main() -> None:
    """Run it."""
    options = options_of()
    use_cpus(1)
    rounds = options.rounds or (2 if options.quick else 5)
    with_peer = "transformers" in taking_part(["transformers"])
    figures: list[Row] = []
    say_load()
    for size in options.size or (["nano"] if options.quick else ["10m", "30m"]):
        for precision in options.precision or PRECISIONS:
            work = work_of(size, precision, options.device, options.batch)
            peak = matmul_peak(options.device, work.dtype, options.quick)
            found = profile(work, rounds, with_peer)
            lines = table(work, found, peak)
            if options.compiled:
                lines.append(compiled(work, rounds, peak))
            title = f"{size}, {precision}: a step by part; products at most {peak / 1e9:,.0f} GFLOP/s"
            columns = ["", "ms", "share", "GFLOP/s", "÷ peak", "transformers, ms", "its ÷ ours"]
            show(title, columns, lines)
            figures += as_rows(work, found, peak, f"{size}, {precision}")
    say_load()
    if options.json:
        write(figures, options.json)


if __name__ == "__main__":
    main()
