"""How many workers an elastic group has where a node is about to leave; the cluster is made up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision

from raypretrain.training import elastic
from raypretrain.training.elastic import DivisorPolicy, scaling

ONE, TWO = ({"NodeID": name, "Alive": True, "Resources": {"CPU": 2.0}} for name in ("one", "two"))


class Board:
    """Takes what it is told, and forgets it."""

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *given, **more: None)


def policy(monkeypatch: pytest.MonkeyPatch, reserved: dict[str, Any], leaving: list[str]) -> DivisorPolicy:
    """On two nodes of two CPUs, for one to two workers of a CPU each."""
    made = DivisorPolicy(scaling((1, 2), 1.0, gpu=False), 12, Board())
    monkeypatch.setattr(made, "_maybe_send_resource_request", lambda: None)
    monkeypatch.setattr(made, "_coordinator_client", SimpleNamespace(_autoscaling_coordinator=Board()))
    monkeypatch.setattr(made, "_requester_id", "test", raising=False)
    monkeypatch.setattr(elastic.ray, "get", lambda *given, **more: reserved)
    monkeypatch.setattr(elastic.ray, "nodes", lambda: [ONE, TWO])
    monkeypatch.setattr(ray._private.state.state, "get_draining_nodes", lambda: dict.fromkeys(leaving, 0))
    monkeypatch.setattr(elastic.time, "sleep", lambda seconds: None)
    return made


def workers(decision: Any) -> int | None:
    return decision.num_workers if isinstance(decision, ResizeDecision) else None


def test_a_group_begins_on_what_is_reserved_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"one": {"CPU": 1.0}, "two": {"CPU": 1.0}}
    assert workers(policy(monkeypatch, both, []).make_decision_for_non_running_worker_group()) == 2


def test_where_a_leaving_node_is_reserved_the_others_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise nothing would begin before that node is gone."""
    made = policy(monkeypatch, {"two": {"CPU": 2.0}}, ["two"])
    assert workers(made.make_decision_for_non_running_worker_group()) == 1  # the stream needs a CPU too


def test_it_waits_where_no_node_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    made = policy(monkeypatch, {"two": {"CPU": 2.0}}, ["one", "two"])
    assert workers(made.make_decision_for_non_running_worker_group()) is None


def test_a_group_that_works_is_not_ended_because_a_node_will_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """It saves and leaves by itself, in time."""
    made = policy(monkeypatch, {"one": {"CPU": 1.0}, "two": {"CPU": 1.0}}, ["two"])
    state = SimpleNamespace(num_workers=2, start_time=0.0)
    decision = made.make_decision_for_running_worker_group(state, SimpleNamespace())
    assert isinstance(decision, NoopDecision)
