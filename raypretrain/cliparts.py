"""What the commands share: their arguments, and how a result is shown."""

from __future__ import annotations

import atexit
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

Recipe = Annotated[Path, typer.Argument(help="A recipe (YAML).", metavar="RECIPE")]
Model = Annotated[Path, typer.Argument(help="The folder of a released model, or a run's.", metavar="MODEL")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=c", help="Override a key of the recipe; as often as needed."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else on stdout.")]


def show(values: Any, as_json: bool, print_it: Callable[[Any], object]) -> None:
    """The result of a command: as JSON where nothing else is printed, or as people read it."""
    if as_json:
        text = json.dumps(values, ensure_ascii=False, default=str)
        print(text, file=_real_stdout or sys.stdout, flush=True)
    else:
        print_it(values)
        sys.stdout.flush()  # the logs of a run that goes on may be read by another program


_real_stdout: TextIO | None = None


@contextlib.contextmanager
def nothing_else_on_stdout() -> Iterator[None]:
    """With ``--json``, what is printed meanwhile or later goes to stderr: Ray tells there of nodes that are lost."""
    global _real_stdout
    if "--json" not in sys.argv:
        yield
        return
    _real_stdout = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _real_stdout = None
        # Ray prints what it has held back when the process ends; what was registered last runs first.
        atexit.register(setattr, sys, "stdout", sys.stderr)


def show_line(values: dict[str, Any], as_json: bool, line: str) -> None:
    """The same, as a line with places for the values."""
    show(values, as_json, lambda values: print(line.format(**values)))


def count_of(option: str, text: str) -> int:
    """What an option says, as a recipe may write it: ``20MB``.

    Raises:
        typer.BadParameter: it is no count of at least 1.
    """
    from raypretrain.config import parse_count

    try:
        count = parse_count(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option}: {error}") from None
    if not isinstance(count, int) or count < 1:
        raise typer.BadParameter(f"{option}: '{text}' is not at least 1")
    return count
