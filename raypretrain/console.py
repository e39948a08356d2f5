"""What the commands show: progress while they run, and their results."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from raypretrain.statusview import bits, goodput_line

if TYPE_CHECKING:
    from raypretrain.training.pretrain import Outcome

LINE_SECONDS = 15.0
"""Without a terminal, a line of progress comes so often."""

# Without markup: what is shown are names, texts and errors of others, with whatever brackets they have.
out = Console(highlight=False, markup=False)
progress_out = Console(stderr=True, highlight=False, markup=False)


class View:
    """A progress bar on a terminal, now and then a line elsewhere; both on stderr, so that stdout stays for results."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=progress_out,
            transient=True,
        )
        self._task: Any = None
        self._line_at = 0.0
        self._begun = time.monotonic()

    def __enter__(self) -> Any:
        if progress_out.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if progress_out.is_terminal:  # elsewhere it would print an empty line
            self._bar.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        clock = f"{time.monotonic() - self._begun:6.1f} s"
        progress_out.print(Text.assemble((clock, "dim"), f"  {line}"), soft_wrap=True)

    def advance(self, name: str, done: float, total: float, figures: str) -> None:
        """How far ``name`` is."""
        if progress_out.is_terminal:
            if self._task is None:
                self._task = self._bar.add_task(name, total=total, figures="")
            self._bar.update(self._task, description=name, completed=done, total=total, figures=figures)
        elif done >= total or time.monotonic() - self._line_at > LINE_SECONDS:
            self._line_at = time.monotonic()
            self.say(f"{name} {done:,.0f}/{total:,.0f}  {figures}")


class PretrainView(View):
    """The progress of a pretraining run."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, Any] = {}
        self._steps = 0
        self._first: tuple[int, float] | None = None

    def watch(self, event: dict[str, Any]) -> None:
        """To be given to :func:`raypretrain.training.pretrain.pretrain`."""
        if "say" in event:
            self.say(event["say"])
        if "start" in event:
            self._start(event["start"])
        if self._new(event, "starting"):
            parts = ", ".join(f"{name.replace('_', ' ')} {s:.1f} s" for name, s in event["starting"].items())
            self.say(f"start: {parts}")
        if self._new(event, "evaluation"):
            row = event["evaluation"]
            self.say(
                f"step {row['step']:,}: held-out loss {row['held_out_loss']:.4f} nats a token"
                + bits(row["held_out_bits_per_byte"])
                + "".join(f"; {name} {part['loss']:.4f}" for name, part in row.get("sources", {}).items())
            )
        if self._new(event, "step"):
            self._step(event["step"])

    def _new(self, event: dict[str, Any], key: str) -> bool:
        if key not in event or self._seen.get(key) == event[key]:
            return False
        self._seen[key] = event[key]
        return True

    def _start(self, start: dict[str, Any]) -> None:
        shape, length, sizes = start["shape"], start["length"], start["sizes"]
        self._steps = length.steps
        resumed = "going on with" if start["resumed"] else "training"
        self.say(
            f"{resumed} {shape.parameters:,} parameters for {length.steps:,} steps "
            f"of {length.tokens_per_step:,} tokens: {_workers(vars(sizes))} on {sizes.device}, "
            f"{sizes.precision}, micro-batches of {sizes.micro_batch}"
        )

    def _step(self, row: dict[str, Any]) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = (row["step"], now)
        left = ""
        if row["step"] > self._first[0] and not progress_out.is_terminal:
            each = (now - self._first[1]) / (row["step"] - self._first[0])
            left = f"  {each * (self._steps - row['step']):.0f} s left"
        skipped = f"  {row['skipped_steps']:,} skipped" if row.get("skipped_steps") else ""
        figures = f"loss {row['loss']:.3f}  {row['tokens_per_second']:,.0f} tokens/s{skipped}{left}"
        self.advance("step", row["step"], self._steps, figures)


class CopyView(View):
    """The progress of what is done with a corpus."""

    def watch(self, event: dict[str, Any]) -> None:
        """To be given to :func:`raypretrain.training.tokenizing.tokenize`."""
        if "say" in event:
            self.say(event["say"])
        if "sequences" in event:
            figures = f"{event['tokens_per_second']:,.0f} tokens/s"
            self.advance("sequence", event["sequences"], event["of"], figures)


def print_dry_run(resolved: dict[str, Any]) -> None:
    """What a dry run found."""
    corpus, model, training = resolved["corpus"], resolved["model"], resolved["training"]
    compute, memory = resolved["compute"], resolved["memory_per_worker"]
    lines = {
        "run": resolved["run"],
        "corpus": f"{corpus['files']:,} files, {corpus['bytes'] / 1e6:,.1f} MB",
        "model": f"{model['parameters']:,} parameters, {model['layers']} layers of width {model['width']}, "
        f"vocabulary {model['vocabulary']:,}",
        "training": f"{training['steps']:,} steps of {training['tokens_per_step']:,} tokens: "
        f"{training['tokens']:,} tokens, {training['flops']:.2e} FLOP",
        "": f"held-out loss every {training['evaluate_every']:,} steps, "
        + (
            "checkpoints as often as it pays"
            if training["checkpoint_every"] == "auto"
            else f"a checkpoint every {training['checkpoint_every']:,}"
        ),
        "compute": f"{_workers(compute)} on {compute['device']}, {compute['precision']}, "
        f"{compute['cpus_per_worker']:g} CPUs each, micro-batches of {compute['micro_batch']}",
        "memory a worker": ", ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in memory.items()),
    }
    if assumed := resolved["assumed"]:
        lines["note"] = (
            f"this machine has fewer GPUs than the recipe asks for: reckoned for a cluster with {assumed['GPU']:g} "
            f"GPUs and {assumed['CPU']:g} CPUs"
        )
    table = Table(show_header=False, box=None)
    for name, text in lines.items():
        table.add_row(name, text)
    out.print(table)


def print_checkpoints(rows: list[dict[str, Any]]) -> None:
    """The checkpoints of a run."""
    if not rows:
        out.print("no checkpoint yet")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("step", "tier", "size", "age", "held-out loss", "state"):
        table.add_column(name, justify="left" if name in ("tier", "state") else "right", overflow="fold")
    for row in rows:
        age, loss = row["age_seconds"], row["held_out_loss"]
        table.add_row(
            f"{row['step']:,}",
            row["tier"],
            bytes_text(row["bytes"]),
            "" if age is None else f"{timedelta(seconds=round(max(0.0, age)))}",
            "" if loss is None else f"{loss:.4f}",
            row["state"] + (f": {row['problem']}" if row["problem"] else ""),
        )
    out.print(table)


def print_outcome(outcome: Outcome) -> None:
    """How a pretraining run ended."""
    if outcome.goodput:
        out.print(goodput_line(outcome.goodput), soft_wrap=True)
    if outcome.status == "stopped":
        out.print(
            f"stopped after step {outcome.step:,} of {outcome.steps:,}, which is saved; the same command goes on",
            soft_wrap=True,
        )
        return
    result = outcome.result
    lines = [
        f"finished: {result['steps']:,} steps, {result['tokens']:,} tokens, {result['tokens_per_second']:,.0f} tokens/s"
    ]
    lines.append(f"waiting for data: {result['data_wait_share']:.2%} of the time")
    if result.get("skipped_steps"):
        lines.append(
            f"skipped: {result['skipped_steps']:,} steps, rewinds: {result['rewinds']:,}; "
            f"{result['updates']:,} updates are in the model; metrics.jsonl says which and why"
        )
    if "last_held_out_loss" in result:
        lines.append(
            f"held-out loss: {result['first_held_out_loss']:.4f} → {result['last_held_out_loss']:.4f} nats a token"
            + bits(result["first_held_out_bits_per_byte"], result["last_held_out_bits_per_byte"])
        )
    first = result.get("first_held_out_of_sources", {})
    for name, last in result.get("last_held_out_of_sources", {}).items():
        if name in first:
            lines.append(
                f"  {name}: {first[name]['loss']:.4f} → {last['loss']:.4f} nats a token"
                + bits(first[name]["bits_per_byte"], last["bits_per_byte"])
            )
    lines.append(f"model: {result['model']}")
    for line in lines:
        out.print(line, soft_wrap=True)


if not sys.stdout.isatty():
    out.width = 160


def _workers(sizes: dict[str, Any]) -> str:
    """``2 workers``, or ``2 workers (1 to 8)`` where their number may change."""
    pair = sizes.get("elastic")
    return f"{sizes['workers']} workers" + (f" ({pair[0]} to {pair[1]})" if pair else "")


def bytes_text(number: float) -> str:
    """``2.04 MB``."""
    return f"{scaled(number)}B" if number >= 1000 else f"{number:.0f} bytes"


def scaled(number: float) -> str:
    """Three digits, with a letter for thousands."""
    for unit in (" ", " k", " M", " G"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:,.3g} T"
