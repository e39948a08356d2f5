"""The commands about clusters; as in ``cli.py``, each parses, calls one function, and prints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from raypretrain.cliparts import AsJson, Overrides, Recipe, show

Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        help="Of the cluster's dashboard, http://HOST:8265; by default RAY_API_SERVER_ADDRESS or RAY_ADDRESS, "
        "or this machine's.",
    ),
]
Name = Annotated[str, typer.Argument(help="The name of a job, or of its run.", metavar="NAME")]


def submit(
    recipe: Recipe,
    overrides: Overrides = None,
    address: Address = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show what it prints; Ctrl-C leaves it running.")
    ] = False,
    same_paths: Annotated[
        bool, typer.Option("--same-paths", help="All nodes of the cluster see this machine's paths.")
    ] = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Even where whoever asks is let in, without a token.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all, print it, send nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Have a Ray cluster carry out RECIPE: pretraining, or with tasks a search. The same command again goes on.

    \b
    Examples:
      raypretrain submit jobs/pretrain-gpt2-124m.yaml --set run.folder=/mnt/shared/runs/gpt2 --follow
      raypretrain submit jobs/pretrain-small.yaml --address http://127.0.0.1:8265 --dry-run
    """
    from raypretrain.cluster.submission import submit as send
    from raypretrain.jobsview import follow_job, print_submittable, print_submitted, say

    done = send(
        recipe, overrides or [], address, say, insecure=insecure, same_paths=same_paths, dry_run=dry_run
    )
    if dry_run:
        show(done.values, as_json, lambda values: print_submittable(done))
        return
    show(done.values, as_json, lambda values: print_submitted(done, address))
    if follow:
        raise typer.Exit(follow_job(done.server, done.name, address, quiet=as_json))


def jobs(address: Address = None, as_json: AsJson = False) -> None:
    """Say which jobs a Ray cluster carries out, and how far each is.

    \b
    Example:
      raypretrain jobs --address http://127.0.0.1:8265
    """
    from raypretrain.cluster.address import address_of
    from raypretrain.cluster.jobs import list_jobs
    from raypretrain.cluster.jobserver import JobServer
    from raypretrain.jobsview import print_jobs

    show(list_jobs(JobServer(address_of(address))), as_json, print_jobs)


def follow(name: Name, address: Address = None) -> None:
    """Show what the job NAME prints, from its beginning to its end, and end as it does; Ctrl-C leaves it running.

    \b
    Example:
      raypretrain follow pretrain-small
    """
    from raypretrain.cluster.address import address_of
    from raypretrain.cluster.jobs import find
    from raypretrain.cluster.jobserver import JobServer
    from raypretrain.jobsview import follow_job

    server = JobServer(address_of(address))
    raise typer.Exit(follow_job(server, find(server, name).name, address))


def stop(name: Name, address: Address = None, as_json: AsJson = False) -> None:
    """Have the job NAME save a checkpoint and end; waits for it. Submitting the same recipe again goes on.

    \b
    Example:
      raypretrain stop pretrain-small
    """
    from raypretrain.cluster.address import address_of
    from raypretrain.cluster.following import stop as end
    from raypretrain.cluster.jobserver import JobServer
    from raypretrain.jobsview import print_stopped, say

    show(end(JobServer(address_of(address)), name, say), as_json, print_stopped)


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


COMMANDS: tuple[Callable[..., Any], ...] = (submit, jobs, follow, stop, doctor)
"""What ``cli.py`` adds, in the order of the help."""
