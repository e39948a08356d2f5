"""How a run is doing, read from its folder alone: no Ray, no torch, while it goes on and afterwards."""

from __future__ import annotations

import fcntl
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from raypretrain.errors import RunError
from raypretrain.training.goodput import ENDS, account, read_logs

_RECENT_STEPS = 50
_SHOWN = {"start", "group", "save", "lost", "stall", "killed", "straggler", *ENDS}


def status_of(run: Path, now: float | None = None) -> dict[str, Any]:
    """State, progress, restarts and the account of the wall time of a run.

    Raises:
        RunError: there is no run.
    """
    refuse_no_run(run)
    now = time.time() if now is None else now
    # Read before the state: a run that ends meanwhile is shown as it ended.
    lives = state_of(run)
    events, metrics, evaluations = read_logs(run)
    state, reason = lives or _ended(run, events)
    wall = account(events, metrics, evaluations, now if state == "running" else None)
    starts = [event for event in events if event["event"] == "start"]
    start = starts[-1] if starts else {}
    last = metrics[-1] if metrics else {}
    return {
        "run": str(run),
        "state": state,
        "reason": reason,
        "step": last.get("step", 0),
        "steps": start.get("steps"),
        "tokens": last.get("tokens", 0),
        "loss": last.get("loss"),
        "last_step_seconds_ago": now - last["time"] if "time" in last else None,
        **_pace(metrics, start.get("steps"), wall.evaluation + wall.checkpoint, state),
        "workers": _workers(events, start),
        "checkpoint": _checkpoint(run, now),
        "held_out": _held_out(evaluations),
        "plan": _planned(run),
        "restarts": restarts(events),
        "stragglers": [event for event in events if event["event"] == "straggler"],
        "others": dict(Counter(event["event"] for event in events if event["event"] not in _SHOWN)),
        "account": wall.as_dict(),
    }


def refuse_no_run(run: Path) -> None:
    """See that a folder is a run's.

    Raises:
        RunError: it is not.
    """
    if not (run / "recipe.yaml").is_file():
        raise RunError("is no run: it has no recipe.yaml", where=str(run), fix="give the folder of a run")


def state_of(run: Path) -> tuple[str, str] | None:
    """``finished`` or ``running``, else None. Who carries a run out holds the kernel's lock on its file."""
    if (run / "result.json").is_file():
        return "finished", ""
    try:
        with (run / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "running", ""
    except OSError:
        return None
    return None


def restarts(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every time that workers had to begin again: why, after which step, from which, and how long it took."""
    found: list[dict[str, Any]] = []
    waiting: dict[str, Any] | None = None
    stall, open_ = "", False
    for event in events:
        kind = event["event"]
        if kind == "stall":
            stall = event["reason"]
        elif kind == "lost":
            reason = f"{stall}; it was ended" if stall else event["reason"]
            waiting, stall = {"time": event["time"], "reason": reason, "after_step": event["step"]}, ""
            found.append(waiting)
        elif kind in ENDS and kind != "finished":
            what = "stopped" if kind == "stopped" else "failed"
            reason = f"{what}: {event['reason']}" if event.get("reason") else what
            waiting, open_ = {"time": event["time"], "reason": reason, "after_step": event.get("step")}, False
            found.append(waiting)
        elif kind == "start":
            if open_ or (event.get("resumed") and waiting is None):
                reason = "the driver was killed" if open_ else "started again"
                waiting = {"time": event["time"], "reason": reason, "after_step": None}
                found.append(waiting)
            open_ = True
        elif kind == "group":
            if waiting is not None:
                again = event.get("repeated") or {}
                waiting |= {"from_step": event["step"], "seconds": event["time"] - waiting["time"]}
                waiting["after_step"] = again.get("last", waiting["after_step"])
            waiting = None
    return found


def _ended(run: Path, events: list[dict[str, Any]]) -> tuple[str, str]:
    lives = [event for event in events if event["event"] in (*ENDS, "start")]
    if not lives:
        return "stopped", "it has not begun to train" if not (run / "metrics.jsonl").is_file() else ""
    last = lives[-1]
    if last["event"] == "start":
        return "failed", "its driver was killed; the same command goes on"
    return last["event"], last.get("reason", "")


def _pace(metrics: list[dict[str, Any]], steps: int | None, beside: float, state: str) -> dict[str, Any]:
    recent = metrics[-_RECENT_STEPS:]
    seconds = sum(row["step_seconds"] for row in recent)
    if not recent or not seconds:
        return {"tokens_per_second": None, "data_wait_share": None, "seconds_left": None}
    each = recent[-1]["tokens"] / recent[-1]["step"]
    left = None
    if steps and state == "running":
        per_step = seconds / len(recent) + beside / len(metrics)
        left = (steps - recent[-1]["step"]) * per_step
    return {
        "tokens_per_second": each * len(recent) / seconds,
        "data_wait_share": sum(row["data_wait_seconds"] for row in recent) / seconds,
        "seconds_left": left,
    }


def _workers(events: list[dict[str, Any]], start: dict[str, Any]) -> int | None:
    groups = [event["world"] for event in events if event["event"] == "group"]
    return groups[-1] if groups else start.get("sizes", {}).get("workers")


def _checkpoint(run: Path, now: float) -> dict[str, Any] | None:
    found = sorted((run / "checkpoints").glob("step-*/MANIFEST.json"))
    for manifest in reversed(found):
        try:
            age = now - manifest.stat().st_mtime
        except OSError:  # removed at this moment
            continue
        return {"step": int(manifest.parent.name.removeprefix("step-")), "age_seconds": age}
    return None


def _planned(run: Path) -> dict[str, Any] | None:
    """Of a finished run: seconds of a step as the planner would have said, and as measured."""
    try:
        found: dict[str, Any] | None = json.loads((run / "result.json").read_text(encoding="utf-8")).get(
            "plan"
        )
    except (OSError, ValueError):
        return None
    return found


def _held_out(evaluations: list[dict[str, Any]]) -> dict[str, Any] | None:
    if not evaluations:
        return None
    last = evaluations[-1]
    return {
        "step": last["step"],
        "loss": last["held_out_loss"],
        "bits_per_byte": last["held_out_bits_per_byte"],
        "first_loss": evaluations[0]["held_out_loss"],
    }
