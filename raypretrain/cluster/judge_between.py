"""What a doctor says of what lies between nodes: clocks, network, folder, bucket, doors, collectives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from raypretrain.cluster.judge import Line
from raypretrain.cluster.judge_room import size

AGENT_FIX = (
    "wait until its head is up; where another Ray on that machine holds port 52365, start this one with "
    "--dashboard-agent-listen-port"
)
"""What to do where the agent that starts jobs is missing."""

_LATE, _WRONG = 1.0, 60.0
"""Seconds that a clock is off: the notice of a node's end is misjudged; signed requests and time limits fail."""

_SLOW_LINK = 100e6
"""Bytes a second: a network of 1 Gbit/s."""

_TOKENIZED_BY_A_CPU = 5e6
"""Bytes of text a second, about."""


@dataclass(frozen=True)
class Clock:
    """A node's clock less this one's, in seconds, and by how much that may be wrong: half the round trip."""

    node: str
    offset: float
    doubt: float


@dataclass(frozen=True)
class Link:
    """Bytes that went from one node to another, and the seconds they took; or why they did not arrive."""

    source: str
    target: str
    bytes: int = 0
    seconds: float = 0.0
    problem: str = ""


@dataclass(frozen=True)
class Written:
    """What a node could do in the run's folder.

    Args:
        node: its name; ``here`` is this process.
        problem: why it could not write there; empty if it could.
        unseen: whose files it did not find there.
        trains: whether it may have a worker, not only a part of the stream.
    """

    node: str
    problem: str = ""
    unseen: tuple[str, ...] = ()
    trains: bool = True


@dataclass(frozen=True)
class Reading:
    """What a node read of a bucket, in seconds; or why it could not, and what to do."""

    url: str
    node: str
    bytes: int = 0
    seconds: float = 0.0
    problem: str = ""
    do: str = ""


@dataclass(frozen=True)
class Door:
    """A port of Ray's, and what it did for somebody without a token.

    Args:
        what: listens there, e.g. ``dashboard``.
        loopback: whether it can only be reached from its own machine.
        state: ``open``, ``closed`` (it asks for a token), ``silent``, or ``missing`` where it has to be.
    """

    what: str
    address: str
    loopback: bool
    state: Literal["open", "closed", "silent", "missing"]


@dataclass(frozen=True)
class AllReduce:
    """Numbers added up over all workers.

    Args:
        backend: ``nccl`` or ``gloo``.
        bytes, seconds: of what each worker brought, and the median time of one.
        right: whether the sum was.
        problem: why there was none.
    """

    backend: str
    workers: int
    nodes: int
    bytes: int = 0
    seconds: float = 0.0
    right: bool = False
    problem: str = ""


def offset(asked: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """How far another clock is ahead, in seconds, and by how much that may be wrong.

    Args:
        asked: for each time that it was asked: our clock before, its clock, our clock after. The shortest counts.
    """
    before, theirs, after = min(asked, key=lambda times: times[2] - times[0])
    return theirs - (before + after) / 2, (after - before) / 2


def clocks(found: Sequence[Clock]) -> list[Line]:
    """Whether the clocks go alike."""
    lines = []
    for clock in found:
        sure = max(0.0, abs(clock.offset) - clock.doubt)
        if sure >= _LATE:
            way = "ahead of" if clock.offset > 0 else "behind"
            what = f"{clock.node} is {abs(clock.offset):.3g} s {way} this machine"
            state: Literal["warn", "fail"] = "fail" if sure >= _WRONG else "warn"
            lines.append(Line(state, "clocks", what, "have its clock set by NTP (chrony, systemd-timesyncd)"))
    most = max((abs(clock.offset) + clock.doubt for clock in found), default=0.0)
    return lines or [Line("ok", "clocks", f"within {max(most, 0.001):.3f} s")] if found else []


def links(found: Sequence[Link]) -> list[Line]:
    """Whether nodes reach each other, and how fast."""
    lines = []
    for link in found:
        way = f"{link.source} to {link.target}"
        if link.problem:
            fix = "open all ports between the nodes, in both directions"
            lines.append(Line("fail", "between nodes", f"{way}: {link.problem}", fix))
        elif link.bytes / link.seconds < _SLOW_LINK:
            what = f"{way}: {size(link.bytes / link.seconds)}/s, less than a network of 1 Gbit/s gives"
            fix = (
                "see that they lie in one zone and take the fast network; gradients go this way in every step"
            )
            lines.append(Line("warn", "between nodes", what, fix))
    if lines or not found:
        return lines
    rates = sorted(link.bytes / link.seconds for link in found)
    span = f"{size(rates[0])}/s" + (f" to {size(rates[-1])}/s" if len(rates) > 1 else "")
    return [Line("ok", "between nodes", f"{span}, all at the same time")]


def folder(path: str, found: Sequence[Written]) -> list[Line]:
    """Whether every node writes to the run's folder and sees there what the others write."""
    lines = []
    for written in found:
        state: Literal["warn", "fail"] = "fail" if written.trains else "warn"
        if written.problem:
            what = f"{written.node} cannot write to {path}: {written.problem}"
            fix = "put run.folder on storage that every node sees, with the right to write"
            lines.append(Line(state, "run's folder", what, fix))
        elif written.unseen:
            what = f"{written.node} does not see in {path} what {', '.join(written.unseen)} wrote"
            fix = "put run.folder on storage that every node sees; this is another disk under the same name"
            lines.append(Line(state, "run's folder", what, fix))
    who = "this process and every node write there" if len(found) > 2 else "can be written"
    shared = " and see each other's files" if len(found) > 2 else ""
    return lines or [Line("ok", "run's folder", f"{path}: {who}{shared}")]


def buckets(found: Sequence[Reading], stream_cpus: float) -> list[Line]:
    """Whether every node reads the corpus, and fast enough for the CPUs of the stream."""
    lines = [
        Line("fail", "bucket", f"{reading.url} from {reading.node}: {reading.problem}", reading.do)
        for reading in found
        if reading.problem
    ]
    if lines or not found:
        return lines
    want = stream_cpus * _TOKENIZED_BY_A_CPU
    for url in dict.fromkeys(reading.url for reading in found):
        rates = [reading.bytes / reading.seconds for reading in found if reading.url == url]
        what = f"{url}: {size(sum(rates))}/s" + (f" over {len(rates)} nodes" if len(rates) > 1 else "")
        if sum(rates) < want:
            fix = "read from a bucket in the nodes' region; or nothing, if the text is compressed or the model large"
            what = f"{what}; {stream_cpus:g} CPUs tokenize about {size(want)}/s"
            lines.append(Line("warn", "bucket", what, fix))
        else:
            lines.append(Line("ok", "bucket", what))
    return lines


def doors(found: Sequence[Door]) -> list[Line]:
    """Whether whoever reaches Ray's ports can have the cluster run what they like."""
    fix = (
        "start Ray everywhere with RAY_AUTH_MODE=token and one token (ray get-auth-token --generate), and let nobody "
        "else reach its ports"
    )
    lines = []
    for what in dict.fromkeys(door.what for door in found if door.state == "open"):
        opened = sorted(
            (door for door in found if door.what == what and door.state == "open"),
            key=lambda door: door.loopback,
        )
        inside = all(door.loopback for door in opened)
        state: Literal["warn", "fail"] = "warn" if inside else "fail"
        who = "any user of this machine" if inside else "anybody who reaches it"
        at = ", ".join(door.address for door in opened)
        lines.append(
            Line(state, "authentication", f"the {what} takes orders without a token, from {who}: {at}", fix)
        )
    for door in found:
        if door.state == "missing":
            what = f"the {door.what} of {door.address} is not there: the cluster takes no jobs"
            lines.append(Line("warn", "jobs", what, AGENT_FIX))
    if any(line.what == "authentication" for line in lines):
        return lines
    asking = list(dict.fromkeys(door.what for door in found if door.state == "closed"))
    if not asking:
        return [
            *lines,
            Line("warn", "authentication", "no port of Ray's answers here, so none could be tried", ""),
        ]
    return [*lines, Line("ok", "authentication", f"a token is asked for: {', '.join(asking)}")]


def all_reduce(found: AllReduce) -> list[Line]:
    """Whether all workers add up, and how fast."""
    who = f"{found.backend}, {found.workers} worker{'' if found.workers == 1 else 's'}"
    who += f" on {found.nodes} node{'' if found.nodes == 1 else 's'}"
    if found.problem:
        fix = "open all ports between the nodes; GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME name the network to take"
        return [Line("fail", "all-reduce", f"{who}: {found.problem}", fix)]
    if not found.right:
        fix = "do not train on this: exchange the node or the card that adds wrongly"
        return [Line("fail", "all-reduce", f"{who}: the sum is wrong", fix)]
    if found.workers == 1:
        return [Line("ok", "all-reduce", f"{who}: the sum is right")]
    rate = found.bytes / found.seconds
    took = f"{size(found.bytes)} in {found.seconds * 1000:.3g} ms, {size(rate)}/s"
    if found.nodes > 1 and rate < _SLOW_LINK / 2:  # every byte crosses the network about twice
        fix = "a step waits for this; see that the workers take the fast network (NCCL_SOCKET_IFNAME, EFA)"
        return [Line("warn", "all-reduce", f"{who}: {took}", fix)]
    return [Line("ok", "all-reduce", f"{who}: the sum is right; {took}")]
