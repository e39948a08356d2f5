"""``raypretrain status``: read from a run's folder alone, at once, whatever state the run is in."""

from __future__ import annotations

import fcntl
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from yardstick import seconds_of_importing_torch

from raypretrain.errors import RunError
from raypretrain.statusview import duration, goodput_line, show_status
from raypretrain.training.events import Events
from raypretrain.training.runfolder import RunFolder
from raypretrain.training.status import status_of

NOW = 2_000_000_000.0


class Made:
    """A run's folder as a run would leave it."""

    def __init__(self, path: Path) -> None:
        self.folder = RunFolder(path)
        path.mkdir()
        self.folder.recipe.write_text("{}")
        self.events = Events(self.folder.events)

    def start(self, at: float, resumed: bool = False) -> None:
        self.events.append("start", time=NOW + at, resumed=resumed, steps=100, sizes={"workers": 2})

    def group(self, at: float, step: int, **values: Any) -> None:
        self.events.append("group", time=NOW + at, step=step, world=2, spans={}, **values)

    def steps(self, first: int, last: int, begun: float) -> None:
        rows = [
            {
                "step": s, "loss": 5.0 - s / 100, "tokens": 1000 * s, "step_seconds": 2.0,
                "data_wait_seconds": 0.5, "time": NOW + begun + 2 * (s - first + 1),
            }
            for s in range(first, last + 1)
        ]  # fmt: skip
        with self.folder.metrics.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def checkpoint(self, step: int, at: float) -> None:
        folder = self.folder.checkpoints / f"step-{step:08d}"
        folder.mkdir(parents=True)
        (folder / "MANIFEST.json").write_text("{}")
        os.utime(folder / "MANIFEST.json", (NOW + at, NOW + at))

    def status(self, at: float) -> dict[str, Any]:
        return status_of(self.folder.path, NOW + at)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "run")


@pytest.fixture
def lost(made: Made) -> Made:
    """A run that lost a worker after step 14, and has done 20 steps of 100."""
    made.start(0)
    made.group(10, 0)
    made.steps(1, 10, 10)
    made.checkpoint(10, 30)
    made.events.append(
        "lost", time=NOW + 40, step=14, reason="worker 1 was lost (node 10.0.0.2, pid 7)", ranks=[1]
    )
    made.group(52, 10, repeated={"steps": 4, "last": 14, "seconds": 8.0, "until": NOW + 38})
    made.steps(11, 20, 52)
    made.folder.evaluations.write_text(
        "".join(
            json.dumps(
                {"step": s, "held_out_loss": 6.0 - s / 10, "held_out_bits_per_byte": 2.5, "seconds": 1.0}
            )
            + "\n"
            for s in (0, 10)
        )
    )
    return made


def test_a_run_under_way(lost: Made) -> None:
    with lost.folder.lock():
        found = lost.status(75)
    assert (found["state"], found["step"], found["steps"], found["tokens"]) == ("running", 20, 100, 20_000)
    assert found["last_step_seconds_ago"] == pytest.approx(3)
    assert found["tokens_per_second"] == pytest.approx(500)
    assert found["data_wait_share"] == pytest.approx(0.25)
    assert found["seconds_left"] == pytest.approx(80 * (2.0 + 2.0 / 20))
    assert found["checkpoint"] == {"step": 10, "age_seconds": pytest.approx(45)}
    assert found["held_out"] == {"step": 10, "loss": 5.0, "bits_per_byte": 2.5, "first_loss": 6.0}
    assert found["workers"] == 2
    assert found["restarts"] == [
        {
            "time": NOW + 40, "reason": "worker 1 was lost (node 10.0.0.2, pid 7)", "after_step": 14,
            "from_step": 10, "seconds": pytest.approx(12),
        }
    ]  # fmt: skip
    assert found["account"]["wall"] == pytest.approx(75)
    assert found["account"]["lost"] == pytest.approx(8 + 2)


def test_a_run_whose_driver_was_killed(lost: Made) -> None:
    found = lost.status(5000)
    assert (found["state"], found["seconds_left"]) == ("failed", None)
    assert "its driver was killed" in found["reason"]
    assert found["account"]["wall"] == pytest.approx(72)


def test_a_run_that_was_stopped_and_one_that_failed(lost: Made) -> None:
    lost.events.append("stopped", time=NOW + 80, step=20, reason="SIGINT")
    found = lost.status(90)
    assert (found["state"], found["reason"]) == ("stopped", "SIGINT")
    lost.start(100, resumed=True)
    lost.group(110, 20)
    lost.events.append("failed", time=NOW + 115, reason="worker 0 was lost, after 0 restarts")
    found = lost.status(120)
    assert (found["state"], found["reason"]) == ("failed", "worker 0 was lost, after 0 restarts")
    whys = [(row["reason"], row.get("from_step")) for row in found["restarts"]]
    assert whys[1:] == [("stopped: SIGINT", 20), ("failed: worker 0 was lost, after 0 restarts", None)]


def test_a_finished_run_says_what_the_planner_would_have_said(lost: Made) -> None:
    assert lost.status(90)["plan"] is None
    planned = {"measured_step_seconds": 2.0, "predicted_step_seconds": 1.5}
    lost.folder.result.write_text(json.dumps({"plan": planned}))
    found = lost.status(90)
    assert (found["state"], found["plan"]) == ("finished", planned)
    console = Console(width=100, file=io.StringIO())
    console.print(show_status(found))
    assert "a step took 2.000 s; the planner says 1.500, -25%" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_hang_is_the_reason_of_the_loss_that_follows(made: Made) -> None:
    made.start(0)
    made.group(10, 0)
    made.events.append("stall", time=NOW + 20, reason="worker 1 (node a, pid 7) does not answer for 5 s")
    made.events.append("lost", time=NOW + 21, step=3, reason="worker 1 was lost", ranks=[1])
    assert [row["reason"] for row in made.status(30)["restarts"]] == [
        "worker 1 (node a, pid 7) does not answer for 5 s; it was ended"
    ]


def test_each_start_after_the_first_has_its_reason(made: Made) -> None:
    made.start(0, resumed=True)  # the folder is older than the ledger
    made.group(10, 40)
    made.start(50, resumed=True)
    made.group(60, 45, repeated={"steps": 3, "last": 48, "seconds": 8.0, "until": NOW + 38})
    rows = made.status(70)["restarts"]
    assert [(r["reason"], r["after_step"], r["from_step"], r["seconds"]) for r in rows] == [
        ("started again", None, 40, 10.0),
        ("the driver was killed", 48, 45, 10.0),
    ]


def test_what_other_parts_told_the_ledger_is_counted(lost: Made) -> None:
    for step in (3, 4):
        lost.events.append("skip", step=step)
    assert lost.status(75)["others"] == {"skip": 2}
    assert "skip: 2" in command(lost.folder.path).stdout


def test_a_run_that_has_not_begun_to_train(made: Made) -> None:
    assert made.status(0)["state"] == "stopped"
    with made.folder.lock():
        assert made.status(0)["state"] == "running"


def test_looking_does_not_keep_a_run_from_starting(made: Made) -> None:
    with made.folder.lock():
        pass
    with (made.folder.path / ".lock").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        with pytest.raises(RunError, match="another process"), made.folder.lock():
            pass
        until = time.monotonic() + 0.06
        script = "import sys, time; time.sleep(0.06)"
        held = subprocess.Popen([sys.executable, "-c", script], pass_fds=[looking.fileno()])
    with made.folder.lock():  # as soon as the look is over
        assert time.monotonic() >= until
    held.wait()


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys\n"
        f"sys.argv = ['raypretrain', 'status', *{[str(a) for a in arguments]!r}]\n"
        "from raypretrain.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print([m for m in ('torch', 'ray', 'numpy') if m in sys.modules], file=sys.stderr)\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_command_answers_at_once_and_without_torch(lost: Made) -> None:
    took = []
    for _ in range(4):
        begun = time.perf_counter()
        done = command(lost.folder.path)
        took.append(time.perf_counter() - begun)
        assert (done.returncode, done.stderr) == (0, "[]\n")
    assert min(took) < seconds_of_importing_torch() / 3
    for part in (
        "20 of 100 (20.0%), 20,000 tokens", "failed: its driver was killed", "500 tokens/s with 2 workers",
        "6.0000 → 5.0000 nats a token", "worker 1 was lost (node 10.0.0.2, pid 7)", "goodput",
    ):  # fmt: skip
        assert part in done.stdout, part


def test_the_command_as_json_is_json_and_nothing_else(lost: Made) -> None:
    found = json.loads(command(lost.folder.path, "--json").stdout)
    assert (found["step"], found["state"]) == (20, "failed")
    assert found["account"].keys() >= {"goodput", "wall", "productive", "start", "lost", "idle"}


@pytest.mark.slow
def test_watching_ends_with_the_run(lost: Made) -> None:
    with lost.folder.lock():
        process = subprocess.Popen(
            [sys.executable, "-m", "raypretrain.cli", "status", str(lost.folder.path), "--watch"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        time.sleep(1.0)
        assert process.poll() is None
    lost.events.append("stopped", step=20)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "stopped" in out


def test_what_is_no_run_is_refused_with_one_line(tmp_path: Path) -> None:
    done = command(tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        f"raypretrain: {tmp_path}: is no run: it has no recipe.yaml; give the folder of a run"
    )


def test_a_goodput_is_a_line_with_the_greatest_losses_first() -> None:
    account = dict.fromkeys(
        ("start", "restore", "checkpoint", "data", "evaluation", "lost", "idle", "other"), 0.0
    )
    account |= {"productive": 60.0, "wall": 100.0, "goodput": 0.6, "start": 10.0, "lost": 30.0}
    assert goodput_line(account) == "goodput 60.0% of 1 min 40 s: lost 30.0%, start 10.0%"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.26, "0.3 s"), (42.4, "42 s"), (61, "1 min 1 s"), (7500, "2 h 5 min"), (200_000, "2 d 7 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
