"""What the doctor says of measurements: plain functions, each state of each line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from raypretrain.cluster import judge, judge_between, judge_room
from raypretrain.cluster.judge import Card, Line, Node
from raypretrain.cluster.judge_between import AllReduce, Clock, Door, Link, Reading, Written
from raypretrain.cluster.judge_room import Disk
from raypretrain.doctorview import show_examination
from raypretrain.training.cluster import Sizes

VERSIONS: dict[str, str | None] = {
    "python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0+cpu", "deepspeed": "0.19.8", "raypretrain": "0.1.0",
}  # fmt: skip
GB = 10**9
A = Node("a", cpus=8, gpus=0, store=2 * GB, versions=VERSIONS, shared_memory=(8 * GB, 7 * GB))
B = replace(A, name="b")
H100 = Card("H100", "570.1", 80 * GB)
SIZES = Sizes(
    workers=4, device="cpu", precision="fp32", cpus_per_worker=2, threads=2, micro_batch=1, stream_cpus=2
)


def only(lines: list[Line]) -> Line:
    [line] = lines
    assert (line.do == "") == (line.state == "ok"), "what is not ok says what to do, and nothing else does"
    return line


def states(lines: list[Line]) -> list[str]:
    return [line.state for line in lines]


def test_the_worst_state_counts() -> None:
    ok, warn, fail = (Line(state, "x", "y") for state in ("ok", "warn", "fail"))
    assert judge.worst([]) == "ok"
    assert judge.worst([ok, warn, ok]) == "warn"
    assert judge.worst([warn, fail, ok]) == "fail"


def test_the_same_versions_everywhere_are_named_once() -> None:
    line = only(judge.versions([A, B], VERSIONS))
    assert line.state == "ok"
    assert "raypretrain 0.1.0" in line.found
    assert "all 2 nodes" in line.found


@pytest.mark.parametrize(
    ("name", "there", "found"),
    [
        ("raypretrain", None, "raypretrain 0.1.0 here, none on b"),
        ("torch", "2.12.1+cpu", "torch 2.13.0+cpu here, 2.12.1+cpu on b"),
        ("ray", "2.59.0", "ray 2.60.0 here, 2.59.0 on b"),
    ],
)
def test_another_version_on_a_node_is_named_with_it(name: str, there: str | None, found: str) -> None:
    line = only(judge.versions([A, replace(B, versions=VERSIONS | {name: there})], VERSIONS))
    assert (line.state, line.found) == ("fail", found)


def test_the_nodes_of_each_other_version_are_named() -> None:
    others = [replace(A, name=f"n{i}", versions=VERSIONS | {"ray": "1"}) for i in range(6)]
    line = only(judge.versions([*others, replace(B, versions=VERSIONS | {"ray": None})], VERSIONS))
    assert line.found == "ray 2.60.0 here, 1 on n0, n1, n2, n3 and 2 more; none on b"


def test_another_build_of_the_same_torch_is_the_same_version() -> None:
    gpu = replace(B, versions=VERSIONS | {"torch": "2.13.0+cu126"})
    assert only(judge.versions([A, gpu], VERSIONS)).state == "ok"


def with_cards(node: Node, *cards: Card, **values: Any) -> Node:
    return replace(node, **({"gpus": float(len(cards)), "cards": cards, "cuda": "12.6"} | values))


def test_no_gpus_are_fine_and_alike_ones_are_counted() -> None:
    assert only(judge.gpus([A, B])) == Line("ok", "GPUs", "none")
    line = only(judge.gpus([A, with_cards(B, H100, H100)]))
    assert line == Line("ok", "GPUs", "2 H100, driver 570.1")


@pytest.mark.parametrize(
    ("node", "state", "found"),
    [
        (with_cards(B, H100, cuda=None), "fail", "its torch 2.13.0+cpu is built for CPUs"),
        (with_cards(B, gpus=1.0, cards_problem="there is no nvidia-smi"), "fail", "there is no nvidia-smi"),
        (with_cards(B, H100, H100, gpus=1.0), "warn", "b has 2, Ray counts 1"),
    ],
)
def test_gpus_that_a_worker_could_not_use(node: Node, state: str, found: str) -> None:
    line = only(judge.gpus([A, node]))
    assert line.state == state
    assert found in line.found


def test_other_kinds_and_other_drivers_are_said() -> None:
    nodes = [with_cards(A, H100), with_cards(B, Card("A100", "560.9", 40 * GB))]
    lines = judge.gpus(nodes)
    assert states(lines) == ["warn", "warn"]
    assert "A100 on b" in lines[0].found
    assert "560.9 on b" in lines[1].found


@pytest.mark.parametrize(("asked", "state"), [(True, "fail"), ("auto", "warn"), (False, "ok")])
def test_a_compiler_is_missed_only_by_who_compiles(asked: Any, state: str) -> None:
    line = only(judge.compiler([A, replace(B, compiler="there is no g++")], asked))
    assert line.state == state
    assert state == "ok" or "on b (there is no g++)" in line.found


def test_locks_of_killed_builds_and_a_missing_ninja_are_warnings() -> None:
    lines = judge.compiler([replace(A, ninja=False), replace(B, locks=("/x/shm/lock",))])
    assert states(lines) == ["warn", "warn"]
    assert "/x/shm/lock" in lines[1].found


def test_the_cpus_of_workers_and_stream_are_counted() -> None:
    line = only(judge_room.cpus([A, B], SIZES, ""))
    assert (line.state, line.found) == ("ok", "16 on 2 nodes: 4 workers of 2, 2 for the stream")
    assert only(judge_room.cpus([A], None, "")).found == "8 on 1 node"


def test_workers_that_fit_on_no_node_would_wait_for_ever() -> None:
    nodes = [replace(A, cpus=3), replace(B, cpus=3)]
    line = only(judge_room.cpus(nodes, replace(SIZES, workers=2, cpus_per_worker=2.5), ""))
    assert line.state == "ok"
    line = only(judge_room.cpus(nodes, replace(SIZES, workers=1, cpus_per_worker=4), ""))
    assert line.state == "fail"
    assert "room for 0 workers" in line.found


def test_a_cluster_that_grows_brings_what_is_not_there_yet() -> None:
    line = only(judge_room.cpus([replace(A, cpus=1)], SIZES, "8 CPUs", grows=True))
    assert (line.state, "a run waits for the nodes" in line.found) == ("ok", True)
    assert "waits" not in only(judge_room.cpus([A, B], SIZES, "", grows=True)).found


def test_what_others_use_and_a_starved_stream_are_warnings() -> None:
    line = only(judge_room.cpus([A, B], SIZES, "2 CPUs"))
    assert line.state == "warn"
    assert "2 CPUs of it are in use" in line.found
    eight = [replace(A, gpus=8)]
    line = only(judge_room.cpus(eight, replace(SIZES, workers=8, device="cuda", cpus_per_worker=0.9), ""))
    assert line.state == "ok"
    starved = replace(SIZES, workers=8, device="cuda", cpus_per_worker=0.9, stream_cpus=0.8)
    assert only(judge_room.cpus(eight, starved, "")).state == "warn"


def test_trials_need_one_node_with_room() -> None:
    line = only(judge_room.trials([A, B], (2, 0)))
    assert (line.state, line.found) == ("ok", "a trial takes 2 CPUs and 0 GPUs: room for 8 at once")
    assert only(judge_room.trials([A, B], (9, 0))).state == "fail"
    assert only(judge_room.trials([A, B], (1, 1))).state == "fail"
    assert only(judge_room.trials([A, B], (4, 0), 2)).found.startswith(
        "a trial takes 2 workers of 4 CPUs and 0 GPUs each"
    )
    assert only(judge_room.trials([A, B], (4, 0), 9)).state == "fail"


def test_the_object_store_holds_twice_what_is_read_ahead() -> None:
    assert only(judge_room.object_store([A, B], 2 * GB)).state == "ok"
    line = only(judge_room.object_store([A, B], 2 * GB + 1))
    assert (line.state, "4 GB on 2 nodes" in line.found) == ("warn", True)


@pytest.mark.parametrize(
    ("memory", "gpus", "state"),
    [
        ((8 * GB, 7 * GB), 0, "ok"),
        ((1 * GB, 1 * GB), 0, "warn"),  # less than the object store
        ((8 * GB, 10_000_000), 0, "fail"),
        ((64 << 20, 64 << 20), 0, "warn"),
        ((64 << 20, 64 << 20), 8, "fail"),  # what Docker gives, with workers that meet there
        (None, 0, "warn"),
    ],
)
def test_shared_memory(memory: tuple[int, int] | None, gpus: int, state: str) -> None:
    line = only(judge_room.shared_memory([A, replace(B, shared_memory=memory, gpus=gpus)]))
    assert line.state == state
    assert state == "ok" or line.found.startswith("b ")


@pytest.mark.parametrize(
    ("free", "need", "spills", "state"),
    [
        (40, 0, True, "ok"),
        (14, 0, True, "warn"),
        (5, 0, True, "fail"),
        (5, 0, False, "ok"),
        (40, 41, False, "fail"),
        (40, 40, False, "ok"),
    ],
)
def test_disks(free: int, need: int, spills: bool, state: str) -> None:
    disk = Disk("fast tier", "/x", "a", total=100 * GB, free=free * GB, need=need * GB, spills=spills)
    assert only(judge_room.disks([disk])).state == state


def test_a_disk_that_cannot_be_looked_at_fails() -> None:
    line = only(judge_room.disks([Disk("fast tier", "/x", "a", problem="Input/output error")]))
    assert (line.state, line.found) == ("fail", "fast tier on a: /x: Input/output error")


def test_the_clock_of_the_shortest_round_trip_counts() -> None:
    # The other clock is 90 s ahead; one of the answers was 2 s under way, all of it on the way back.
    asked = [(0.0, 90.0, 2.0), (10.0, 100.004, 10.01), (20.0, 110.3, 20.6)]
    ahead, doubt = judge_between.offset(asked)
    assert ahead == pytest.approx(90.0, abs=0.005)
    assert doubt == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("ahead", "doubt", "state"),
    [(0.2, 0.001, "ok"), (-1.5, 0.3, "warn"), (-1.5, 0.6, "ok"), (90, 0.1, "fail"), (-90, 0.1, "fail")],
)
def test_clocks(ahead: float, doubt: float, state: str) -> None:
    line = only(judge_between.clocks([Clock("a", 0.0, 0.0), Clock("b", ahead, doubt)]))
    assert line.state == state
    if state != "ok":
        assert f"b is {abs(ahead):g} s {'ahead of' if ahead > 0 else 'behind'}" in line.found


def test_links() -> None:
    fast, slow = Link("a", "b", 32 << 20, 0.01), Link("b", "a", 32 << 20, 0.5)
    assert judge_between.links([]) == []
    assert only(judge_between.links([fast, fast])).state == "ok"
    line = only(judge_between.links([fast, slow]))
    assert (line.state, line.found.startswith("b to a: 67.1 MB/s")) == ("warn", True)
    cut = only(judge_between.links([Link("a", "b", problem="nothing arrived")]))
    assert (cut.state, cut.found) == ("fail", "a to b: nothing arrived")


def test_the_folder_of_a_run() -> None:
    me, a, b = Written("this process"), Written("a"), Written("b")
    assert "see each other's files" in only(judge_between.folder("/r", [me, a, b])).found
    line = only(judge_between.folder("/r", [me, a, replace(b, problem="Permission denied")]))
    assert (line.state, line.found) == ("fail", "b cannot write to /r: Permission denied")
    line = only(judge_between.folder("/r", [me, a, replace(b, unseen=("this process", "a"))]))
    assert (line.state, line.found) == ("fail", "b does not see in /r what this process, a wrote")
    assert states(judge_between.folder("/r", [me, a, replace(b, problem="x", trains=False)])) == ["warn"]


def test_buckets() -> None:
    a, b = Reading("s3://x/y", "a", 16 << 20, 1.0), Reading("s3://x/y", "b", 16 << 20, 1.0)
    assert only(judge_between.buckets([a, b], 2)).found == "s3://x/y: 33.6 MB/s over 2 nodes"
    assert only(judge_between.buckets([a, b], 8)).state == "warn"
    denied = replace(b, problem="access denied", do="check the keys")
    line = only(judge_between.buckets([a, denied], 2))
    assert line == Line("fail", "bucket", "s3://x/y from b: access denied", "check the keys")


def test_an_open_door_fails_where_others_reach_it_and_warns_where_they_do_not() -> None:
    closed = Door("GCS", "10.0.0.1:6379", False, "closed")
    line = only(judge_between.doors([closed, Door("dashboard", "127.0.0.1:8265", True, "closed")]))
    assert (line.state, line.found) == ("ok", "a token is asked for: GCS, dashboard")
    inside = Door("dashboard", "127.0.0.1:8265", True, "open")
    assert only(judge_between.doors([closed, inside])).state == "warn"
    outside = replace(inside, address="10.0.0.1:8265", loopback=False)
    line = only(judge_between.doors([closed, outside]))
    assert (line.state, "from anybody who reaches it: 10.0.0.1:8265" in line.found) == ("fail", True)
    both = only(judge_between.doors([inside, outside]))
    assert (both.state, both.found.endswith(": 10.0.0.1:8265, 127.0.0.1:8265")) == ("fail", True)
    silent = replace(closed, state="silent")
    assert states(judge_between.doors([silent])) == ["warn"]
    missing, asked = judge_between.doors([closed, Door("job agent", "head", False, "missing")])
    assert (missing.state, missing.what, asked.state) == ("warn", "jobs", "ok")
    assert missing.found == "the job agent of head is not there: the cluster takes no jobs"
    assert "--dashboard-agent-listen-port" in missing.do


def test_all_reduce() -> None:
    found = AllReduce("gloo", workers=4, nodes=2, bytes=16 << 20, seconds=0.1, right=True)
    line = only(judge_between.all_reduce(found))
    assert (line.state, "4 workers on 2 nodes: the sum is right" in line.found) == ("ok", True)
    assert only(judge_between.all_reduce(replace(found, seconds=1.0))).state == "warn"
    assert only(judge_between.all_reduce(replace(found, seconds=1.0, nodes=1))).state == "ok"
    assert only(judge_between.all_reduce(replace(found, right=False))).state == "fail"
    assert only(judge_between.all_reduce(replace(found, problem="timed out"))).state == "fail"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_it_is_readable_at_any_width(width: int) -> None:
    lines = [
        Line("ok", "GPUs", "none"),
        Line("fail", "all-reduce", "gloo, 2 workers: timed out", "open all ports"),
    ]
    console = Console(width=width, record=True, markup=False, highlight=False)
    with console.capture() as capture:
        console.print(show_examination({"lines": [vars(line) for line in lines], "nodes": [{}, {}]}))
    shown = capture.get()
    assert max(map(len, shown.splitlines())) <= width
    words = shown.split()
    for word in ("ok", "GPUs", "none", "fail", "all-reduce", "gloo,", "timed", "→", "ports"):
        assert word in words
    assert "2 nodes: 1 fail, 1 ok" in shown
