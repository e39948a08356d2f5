"""What is said and recorded when a node is being reclaimed: what all workers do, whoever asked for it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from raypretrain.training.events import Events, read_events
from raypretrain.training.preemption import Preemption
from raypretrain.training.requests import Notice, Request

pytestmark = pytest.mark.unit


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Preemption:
    """A worker that has heard of a node which is gone in 8 s."""
    made = Preemption(save_bytes=1000)
    now = time.time()

    def hear(self: Preemption) -> Notice:
        self._notice = self._notice or Notice(now + 8, noticed=now)
        return self._notice

    monkeypatch.setattr(Preemption, "_hear", hear)
    return made


def test_what_another_worker_asked_for_a_moment_earlier_is_recorded_once(heard, tmp_path: Path) -> None:
    notes: list[str] = []
    events = Events(tmp_path / "events.jsonl")
    assert heard.request() == Request.SAVE
    heard.tell(Request.SAVE, notes.append, events)
    heard.saved(0.01)
    assert heard.request() == Request.NOTHING
    heard.tell(Request.NOTHING, notes.append, events)
    heard.tell(Request.REGROUP, notes.append, events)  # its own clock is not so far yet
    heard.tell(Request.REGROUP, notes.append, events)
    assert [row["request"] for row in read_events(tmp_path / "events.jsonl")] == ["save", "regroup"]
    assert len(notes) == 2
    assert "going on without it" in notes[1]


def test_that_no_checkpoint_fits_any_more_is_said(heard, tmp_path: Path) -> None:
    notes: list[str] = []
    heard.step_seconds = 60.0
    assert heard.request() == Request.NOTHING
    heard.tell(Request.NOTHING, notes.append, Events(tmp_path / "events.jsonl"))
    assert "no checkpoint fits before that" in notes[0]


def test_without_a_notice_nothing_is_said(tmp_path: Path) -> None:
    notes: list[str] = []
    Preemption(1000).tell(Request.REGROUP, notes.append, Events(tmp_path / "events.jsonl"))
    assert not notes
