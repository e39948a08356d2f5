"""Which trials went on from another's state, and with which settings: ``trials/TRIAL/population.jsonl``. No Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raypretrain.finetuning.adapt import AdaptConfig
from raypretrain.finetuning.space import changed
from raypretrain.training.metrics import read_log

HISTORY = "population.jsonl"


def record(folder: Path, change: dict[str, Any]) -> None:
    """Add a line to the history of the trial in ``folder``.

    Args:
        change: after which ``epoch``, ``from`` which trial, and of the keys that change their values ``before``,
            ``theirs`` (of the other trial) and ``after``.
    """
    with (folder / HISTORY).open("a", encoding="utf-8") as file:
        file.write(json.dumps(change) + "\n")


def history(folder: Path) -> list[dict[str, Any]]:
    """What :func:`record` was given, in order; nothing of a trial that went its own way."""
    return read_log(folder / HISTORY)


def settings_at_end(folder: Path, adapt: AdaptConfig) -> AdaptConfig:
    """With what the trial in ``folder`` ended that began with ``adapt``."""
    changes = history(folder)
    return changed(adapt, changes[-1]["after"]) if changes else adapt
