"""Whether the nodes share the run's folder: each writes a file there and looks for those of the others."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from raypretrain.cluster import probe
from raypretrain.cluster.judge_between import Written
from raypretrain.cluster.measure import SECONDS
from raypretrain.cluster.nodes import Nodes, within

_HERE = "this process"


def existing(path: str) -> str:
    """The folder itself, or what is above it where it is still to be made."""
    return str(next((p for p in (Path(path), *Path(path).parents) if p.is_dir()), Path("/")))


def share(nodes: Nodes, folder: str, trains: dict[str, bool]) -> list[Written]:
    """What this process and every node could do in ``folder``, which exists here; leaves nothing behind.

    Args:
        trains: name of a node → whether it may have a worker.
    """
    mark = f".raypretrain-doctor-{secrets.token_hex(4)}-"
    problems = _write(nodes, folder, mark)
    wrote = [who for who, problem in problems.items() if not problem]
    seen = _look(nodes, folder)
    _remove(nodes, folder, mark)
    return [
        Written(
            node=who,
            problem=problem,
            unseen=tuple(other for other in wrote if mark + other not in seen.get(who, ())),
            trains=trains.get(who, True),
        )
        for who, problem in problems.items()
    ]


def _write(nodes: Nodes, folder: str, mark: str) -> dict[str, str]:
    """Who → why it cannot write there; nothing if it can."""
    here = within(SECONDS, probe.write, folder, mark + _HERE)
    told = nodes.ask("run's folder", SECONDS, lambda p: p.actor.write.remote(folder, mark + p.name))
    return {_HERE: "it hangs" if here is None else here} | {place.name: said for place, said in told.items()}


def _look(nodes: Nodes, folder: str) -> dict[str, list[str]]:
    """Who → the names that it finds there."""
    here = within(SECONDS, os.listdir, folder)
    told = nodes.ask("run's folder", SECONDS, lambda place: place.actor.names.remote(folder))
    return {_HERE: here or []} | {place.name: names for place, names in told.items()}


def _remove(nodes: Nodes, folder: str, mark: str) -> None:
    """Each takes its own away; who has it under another disk's name has it there."""
    with suppress(OSError):
        os.unlink(Path(folder, mark + _HERE))
    nodes.ask("run's folder", SECONDS, lambda place: place.actor.remove.remote(folder, mark + place.name))
