"""The commands about clusters; as in ``cli.py``, each parses, calls one function, and prints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from raypretrain.cliparts import AsJson, Overrides, show


def doctor(
    recipe: Annotated[
        Path | None, typer.Argument(help="A recipe (YAML), to see what it needs.", metavar="RECIPE")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Of the cluster: host:port or auto; by default this machine.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with a cluster, or with this machine, and what to do about it; it is measured.

    Ends with status 1 if anything fails.

    \b
    Examples:
      raypretrain doctor
      raypretrain doctor jobs/pretrain-small.yaml --address auto
    """
    from raypretrain.cluster import needs
    from raypretrain.cluster.doctor import examine
    from raypretrain.console import CopyView, out
    from raypretrain.doctorview import show_examination

    with CopyView() as view:
        found = examine(needs.load(recipe, overrides or []) if recipe else None, address, view.say)
    show(found, as_json, lambda found: out.print(show_examination(found)))
    if found["state"] == "fail":
        raise typer.Exit(1)


COMMANDS: tuple[Callable[..., Any], ...] = (doctor,)
"""What ``cli.py`` adds, in the order of the help."""
