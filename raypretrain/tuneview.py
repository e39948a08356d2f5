"""What fine-tuning and searches show: a table of the trials while they run, and what came out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.table import Table

from raypretrain.console import PretrainView, View, out, print_outcome, progress_out

if TYPE_CHECKING:
    from raypretrain.finetuning.search import SearchResult
    from raypretrain.sweeps.sweep import SweepResult

SHOWN = 12
"""Trials in the table: those that run, and the last that ended."""


class SearchView(View):
    """On a terminal a table of the trials that run or ended last; elsewhere a line now and then."""

    def __init__(self) -> None:
        super().__init__()
        self._trials = self._done = self._before = 0
        self._rows: dict[str, dict[str, Any]] = {}
        self._live = Live(
            console=progress_out, transient=True, refresh_per_second=4, get_renderable=self._table
        )

    def __enter__(self) -> SearchView:
        if progress_out.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if progress_out.is_terminal:
            self._live.stop()

    def watch(self, event: dict[str, Any]) -> None:
        """To be given to the functions of :mod:`raypretrain.finetuning`."""
        kind = event.get("event")
        if kind == "plan":
            self._trials, self._done = event["trials"], event["done"]
            self._before = self._done
            self.say(f"{self._trials} trials, {self._done} of them done before")
        elif kind == "epoch":
            self._rows.setdefault(event["trial"], {"status": "runs"}).update(event)
        elif kind == "trial":
            self._done += 1
            row = self._rows.pop(event["trial"], {})  # to its end: the last that ended are shown
            self._rows[event["trial"]] = row | event
            if event.get("status") == "failed":
                self.say(f"trial {event['trial']} failed: {event.get('error', 'see its folder')}")
            if not progress_out.is_terminal:
                self.advance("trial", self._done, self._trials, str(event.get("status", "")) + self._left())

    def _left(self) -> str:
        ended = self._done - self._before
        if not ended or self._done >= self._trials:
            return ""
        each = (time.monotonic() - self._begun) / ended
        return f"  about {each * (self._trials - self._done):.0f} s left"

    def _table(self) -> Table:
        table = Table(title=f"{self._done} of {self._trials} trials{self._left()}", box=None, pad_edge=False)
        for name in ("trial", "", "epoch", "training loss", "validation", "seconds"):
            table.add_column(name, justify="left" if name in ("trial", "") else "right")
        for name, row in list(self._rows.items())[-SHOWN:]:
            measured = [f"{k.removeprefix('validation_')} {v:.3f}" for k, v in row.items() if _is_score(k)]
            table.add_row(
                name,
                str(row.get("status", "")),
                str(row.get("epoch", "")),
                _number(row.get("train_loss")),
                ", ".join(measured[:2]),
                _number(row.get("seconds")),
            )
        return table


class SweepView(View):
    """A search over pretraining: a bar of the trial that runs, a line of each that ended; then the run in full."""

    def __init__(self) -> None:
        super().__init__()
        self._run: PretrainView | None = None

    def __exit__(self, *exc: object) -> None:
        if self._run:
            self._run.__exit__(*exc)
        else:
            super().__exit__(*exc)

    def watch(self, event: dict[str, Any]) -> None:
        """To be given to :func:`raypretrain.sweeps.sweep.sweep`."""
        kind = event.get("event")
        if kind == "run":
            self._of_the_run().watch(event)
        elif "say" in event:
            self.say(event["say"])
        elif kind == "step":
            figures = f"loss {event['loss']:.3f}"
            self.advance(event["trial"], event["step"], event["steps"], figures)
        elif kind == "trial":
            loss = event["held_out_loss"]
            more = event.get("error") or ("" if loss is None else f"held-out loss {loss:.4f}")
            self.say(f"trial {event['trial']} {event['status']} after {event['tokens']:,} tokens: {more}")

    def _of_the_run(self) -> PretrainView:
        if self._run is None:
            super().__exit__()
            self._run = PretrainView()
            self._run.__enter__()
        return self._run


def print_sweep(result: SweepResult) -> None:
    """The trials from the best to the worst, and the run that came of the best."""
    table = Table(*dict.fromkeys(key for row in result.rows for key in row if key != "error"))
    order = {"finished": 0, "stopped": 1}

    def place(row: dict[str, Any]) -> tuple[int, float]:
        return order.get(row["status"], 2), row["held_out_loss"] or 0.0

    for row in sorted(result.rows, key=place):
        table.add_row(*(_short(row.get(str(column.header))) for column in table.columns))
    out.print(table)
    if result.outcome:
        print_outcome(result.outcome)
    elif result.signal:
        out.print("stopped; the same command goes on", soft_wrap=True)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _is_score(key: str) -> bool:
    return key.startswith("validation_") and key != "validation_loss"


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)


def print_finetuned(result: dict[str, Any]) -> None:
    """What fine-tuning came to, task by task."""
    for name, row in result["tasks"].items():
        out.print(
            f"{name}: {row['metric']} {row['score']:.4f}, {row['seconds']:.1f} s, model: {row['model']}",
            soft_wrap=True,
        )


def print_planned(planned: dict[str, Any]) -> None:
    """What a dry run of a search found."""
    out.print(
        f"run: {planned['run']}\n{planned['trials']} trials of {', '.join(planned['tasks'])}; "
        f"searcher {planned['searcher']}, scheduler {planned['scheduler']}",
        soft_wrap=True,
    )
    if sizes := planned["populations"]:
        out.print(f"populations: {len(sizes)}, of {', '.join(map(str, sorted(set(sizes))))} trials")
    keys = dict.fromkeys(key for settings in planned["settings"] for key in settings)
    table = Table(*keys)
    for settings in planned["settings"]:
        table.add_row(*(_short(value) for value in settings.values()))
    if keys:
        out.print(table)


def print_search(result: SearchResult) -> None:
    """The comparison that a search ends with, the cheap rivals, and the best of each task."""
    columns = [key for key in dict.fromkeys(k for row in result.comparison for k in row) if key != "settings"]
    table = Table(*columns)
    for row in result.comparison:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    out.print(table)
    for task, found in result.tasks.items():
        if found["rival"]:
            score, spread = (
                found["rival"][found["metric"]],
                found["rival"]["spread"].get(found["metric"]),
            )
            more = f" ± {spread:.4f}" if spread is not None else ""
            out.print(f"the cheap rival of {task}, TF-IDF: {found['metric']} {score:.4f}{more}")
    for task, row in result.best.items():
        settings = {k.removeprefix("adapt."): v for k, v in row.items() if k.startswith("adapt.")}
        told = ", ".join(f"{k} {v}" for k, v in settings.items() if not isinstance(v, dict))
        out.print(f"best for {task}: {row['trial']} ({told}), model: {row['model']}", soft_wrap=True)
    out.print(f"report: {result.paths['report']}", soft_wrap=True)


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
