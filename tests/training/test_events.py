"""The ledger: what was told stays told, whatever tears its last line."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raypretrain.training.events import Events, read_events
from raypretrain.training.metrics import StepLog, read_log


def test_a_line_has_the_time_the_event_and_its_values(tmp_path: Path) -> None:
    events = Events(tmp_path / "events.jsonl")
    before = time.time()
    events.append("save", step=3)
    events.append("start", time=5.0)
    first, second = read_events(tmp_path / "events.jsonl")
    assert before <= first.pop("time") <= time.time()
    assert first == {"event": "save", "step": 3}
    assert second == {"time": 5.0, "event": "start"}


def test_a_torn_line_is_no_event_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    Events(path).append("save", step=1)
    whole = path.read_bytes()
    for torn in range(2, len(whole)):  # without its last character alone it is whole
        path.write_bytes(whole[:-torn])
        Events(path).append("save", step=2)
        assert [event["step"] for event in read_events(path)] == [2], torn


def test_there_may_be_no_ledger_and_no_room_for_one(tmp_path: Path) -> None:
    assert read_events(tmp_path / "none.jsonl") == []
    Events(tmp_path / "no" / "folder" / "events.jsonl").append("save")


def _append(path: Path, number: int) -> None:
    for i in range(200):
        Events(path).append("save", writer=number, i=i, text="x" * 300)


def test_two_processes_may_append_at_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append, args=(path, number)) for number in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    rows = read_events(path)
    for number in (1, 2):
        assert [row["i"] for row in rows if row["writer"] == number] == list(range(200))


WRITES = """
import sys
from pathlib import Path
from raypretrain.training.metrics import StepLog, read_log
path = Path(sys.argv[1])
done = [row["step"] for row in read_log(path)]
after = max(0, (done[-1] if done else 0) - 3)
log = StepLog(path, after)
print("ready", flush=True)
for step in range(after + 1, 100_000):
    log.append({"step": step, "losses": [0.123456] * (step % 40 * 100)})
"""


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_of_a_line_leaves_every_step_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for attempt in range(6):
        process = subprocess.Popen([sys.executable, "-c", WRITES, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        size = path.stat().st_size
        while path.stat().st_size < size + 100_000 + 12_345 * attempt:
            time.sleep(0.0005)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        steps = [row["step"] for row in read_log(path)]
        assert steps == list(range(1, len(steps) + 1))
    StepLog(path, 9).close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == list(range(1, 10))
