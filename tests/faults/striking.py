"""What the tests of the schedule share: strike a run once, see what it cost, and compare it with one left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from runs import fingerprints, metrics

from raypretrain.training import worker as product
from raypretrain.training.checkpoint import committed, read_standing
from raypretrain.training.job import Job
from raypretrain.training.metrics import read_log

_LOOK_SECONDS = 0.02
_GIVE_UP_SECONDS = 150.0


class Recovery(threading.Thread):
    """Looks at a run's metrics from the moment it was struck to the first step of its next start."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._log = folder / "metrics.jsonl"
        self._struck, self._file = time.monotonic(), self._log.stat().st_ino
        self.done = last_step(folder)
        newest = committed(folder / "checkpoints")
        self.kept = read_standing(newest[0]).step if newest else 0
        self.seconds: float | None = None
        self.start()

    def run(self) -> None:
        while time.monotonic() - self._struck < _GIVE_UP_SECONDS:
            # Every start writes the steps that count anew, as another file.
            if self._log.stat().st_ino != self._file and last_step(self._log.parent) > self.kept:
                self.seconds = time.monotonic() - self._struck
                return
            time.sleep(_LOOK_SECONDS)

    @property
    def lost(self) -> str:
        """What had to be done again."""
        return f"{self.done - self.kept} steps done again"


class Strike:
    """A watch for a run: strikes it once, as soon as it has done ``at`` steps."""

    def __init__(self, folder: Path, at: int, blow: Callable[[], Any]) -> None:
        self._folder, self._at, self._blow = folder, at, blow
        self.recovery: Recovery | None = None

    def __call__(self, event: dict[str, Any]) -> None:
        if self.recovery is None and event.get("step", {}).get("step", 0) >= self._at:
            self._blow()
            self.recovery = Recovery(self._folder)


def carried_out_by(kind: type[product.Worker], **settings: Any) -> Callable[[dict[str, Job]], None]:
    """The product's training function, with another worker in it; the module of ``kind`` has to be pickled by value."""

    def function(config: dict[str, Job]) -> None:
        product.Worker = type("Broken", (kind,), settings)  # type: ignore[misc]
        product.train_worker(config)

    return function


def last_step(folder: Path) -> int:
    """The last step in the metrics."""
    rows = read_log(folder / "metrics.jsonl")
    return rows[-1]["step"] if rows else 0


def assert_exact(folder: Path, undisturbed: Path) -> None:
    """The batches, none missing and none twice, and the losses to the last bit; so are the evaluations."""
    assert fingerprints(folder) == fingerprints(undisturbed)
    assert [row["loss"] for row in metrics(folder)] == [row["loss"] for row in metrics(undisturbed)]

    def evaluated(run: Path) -> list[tuple[int, float]]:
        rows = read_log(run / "evaluations.jsonl")
        return [(row["step"], row["held_out_loss"]) for row in rows]

    assert evaluated(folder) == evaluated(undisturbed)


def start_command(recipe: Path, folder: Path, *overrides: str, **environment: str) -> subprocess.Popen[str]:
    """``raypretrain pretrain RECIPE --json`` as a process that leads a group of its own."""
    command = [sys.executable, "-m", "raypretrain.cli", "pretrain", str(recipe), "--json"]
    for override in (f"run.folder={folder}", *overrides):
        command += ["--set", override]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command,
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=True,
        env={**os.environ, **environment},
    )


def wait_for_step(process: subprocess.Popen[str], folder: Path, step: int) -> None:
    """Until the run of ``process`` has done so many steps."""
    deadline = time.monotonic() + 100
    while last_step(folder) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it does not get there"
        time.sleep(_LOOK_SECONDS)


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a command that ends well says."""
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    said: dict[str, Any] = json.loads(out)
    return said


def offspring(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """All processes that it has started, and those that they have."""
    return psutil.Process(process.pid).children(recursive=True)


def end_all(processes: list[psutil.Process], within: float) -> list[str]:
    """Wait for processes to end by themselves; end those that do not, and return what they were."""
    _, alive = psutil.wait_procs(processes, timeout=within)
    names = []
    for process in alive:
        try:
            names.append(process.name())
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    return names
