"""The commands that look at a run's folder; as in ``cli.py``, each parses, calls one function, and prints."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from raypretrain.cliparts import AsJson, show

Run = Annotated[Path, typer.Argument(help="The folder of a run.", metavar="RUN")]


def checkpoints(
    run: Run,
    verify: Annotated[bool, typer.Option("--verify", help="Read every file and compare its hash.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say which checkpoints RUN has, in every tier: step, size, age and state of each.

    \b
    Examples:
      raypretrain checkpoints runs/pretrain-small
      raypretrain checkpoints runs/pretrain-small --verify --json
    """
    from raypretrain.console import print_checkpoints
    from raypretrain.training.listing import list_checkpoints
    from raypretrain.training.runfolder import RunFolder

    rows = list_checkpoints(RunFolder(run), verify)
    show(rows, as_json, print_checkpoints)


def status(
    run: Run,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again and again while the run goes on.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say how a run is doing: progress, time left, restarts and why, and what its wall time went to.

    Reads the run's folder alone, from any machine that sees it.

    \b
    Examples:
      raypretrain status runs/pretrain-small
      raypretrain status runs/pretrain-small --watch
    """
    from raypretrain.console import out
    from raypretrain.statusview import show_status, watch_status
    from raypretrain.training.status import status_of

    if watch and not as_json:
        watch_status(lambda: status_of(run), out)
        return
    found = status_of(run)
    show(found, as_json, lambda found: out.print(show_status(found)))


def logs(
    run: Run,
    rank: Annotated[int | None, typer.Option(min=0, help="Of this worker alone.")] = None,
    driver: Annotated[bool, typer.Option("--driver", help="Of the driver alone.")] = False,
    level: Annotated[str, typer.Option(help="At least: debug, info, warning or error.")] = "debug",
    step: Annotated[
        str | None, typer.Option(metavar="N..M", help="Of these steps; also N, N.. and ..M.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with what comes, while the run goes on.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="As they are stored: a JSON object a line.")
    ] = False,
) -> None:
    """Show what the workers and the driver of RUN have logged, by time, over all restarts.

    Reads the run's folder alone, from any machine that sees it. A line that is damaged is shown as it is.

    \b
    Examples:
      raypretrain logs runs/pretrain-small --level warning
      raypretrain logs runs/pretrain-small --rank 1 --step 100..120
      raypretrain logs runs/pretrain-small --follow
    """
    from raypretrain.training.logreading import LEVELS, Wanted, read_lines

    if driver and rank is not None:
        raise typer.BadParameter("give either --rank or --driver")
    if level not in LEVELS:
        raise typer.BadParameter(f"--level: '{level}' is not one of {', '.join(LEVELS)}")
    who = "driver" if driver else None if rank is None else f"rank-{rank}"
    for line in read_lines(run, Wanted(who, level, _steps(step)), follow):
        show(line.as_dict() if as_json else line, as_json, print)


def export(
    run: Run,
    to: Annotated[str, typer.Option("--to", metavar="FOLDER", help="The folder to write; local or s3://.")],
    at: Annotated[
        int | None, typer.Option("--at", metavar="STEP", help="The checkpoint of this step.")
    ] = None,
    average: Annotated[
        int | None,
        typer.Option(min=1, help="The mean of so many checkpoints; by default as the recipe says."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's newest checkpoint as a Hugging Face model, finished or not.

    \b
    Examples:
      raypretrain export runs/pretrain-small --to my-model
      raypretrain export runs/pretrain-small --to s3://bucket/models/my-model
      raypretrain export runs/pretrain-small --to averaged --average 5
    """
    from raypretrain.training.release import export as write
    from raypretrain.training.runfolder import RunFolder

    steps = write(RunFolder(run), to, lambda line: print(line, file=sys.stderr), at, average)
    which = (
        f"step {steps[0]:,}" if len(steps) == 1 else f"steps {', '.join(f'{s:,}' for s in steps)}, averaged"
    )
    values = {"model": to, "step": steps[0], "averaged": steps}
    show(values, as_json, lambda values: print(f"{to}: the weights after {which}"))


def trace(
    run: Run,
    step: Annotated[
        int | None, typer.Option("--step", help="Which documents were in the batch of this step.")
    ] = None,
    document: Annotated[
        str | None, typer.Option("--document", metavar="PATH:LINE", help="In which steps this document was.")
    ] = None,
    epochs: Annotated[
        int, typer.Option(min=1, help="With --document: look for so many times that it comes.")
    ] = 1,
    text: Annotated[bool, typer.Option("--text", help="With --step: print the documents' text.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say which documents a step was trained on, or in which steps a document was or will be.

    Nothing of it was recorded: it is computed again, and proved by the fingerprint in metrics.jsonl.

    \b
    Examples:
      raypretrain trace runs/pretrain-small --step 120
      raypretrain trace runs/pretrain-small --step 120 --text
      raypretrain trace runs/pretrain-small --document data/shard-3.jsonl:17
    """
    from raypretrain.corpusview import print_traced_document, print_traced_step
    from raypretrain.training.tracing import trace_document, trace_step

    if (step is None) == (document is None):
        raise typer.BadParameter("give either --step or --document")
    if document is not None:
        found = trace_document(run, document, epochs)
        show(found, as_json, print_traced_document)
        return
    assert step is not None
    found = trace_step(run, step)
    show(found, as_json, lambda found: print_traced_step(found, text))


def _steps(text: str | None) -> tuple[int, int | None]:
    """The first and the last of ``12..20``, ``12``, ``12..`` or ``..20``."""
    first, dots, last = (text or "..").partition("..")
    try:
        begin, end = int(first or 0), int(last) if last else None
    except ValueError:
        raise typer.BadParameter(f"--step: '{text}' is neither a step nor N..M") from None
    return begin, end if dots else begin


COMMANDS: tuple[Callable[..., Any], ...] = (checkpoints, status, logs, export, trace)
"""What ``cli.py`` adds, in the order of the help."""
