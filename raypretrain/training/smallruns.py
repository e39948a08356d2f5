"""Finished runs as the points that a scaling law is fitted to."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raypretrain.errors import RunError
from raypretrain.planning.fitting import SmallRun, fit_law, rate_for
from raypretrain.training.runfolder import RunFolder


def read_runs(patterns: Sequence[str]) -> list[SmallRun]:
    """The runs of folders and globs.

    Raises:
        RunError: one is no finished run, or measured no held-out loss.
    """
    names = [name for pattern in patterns for name in sorted(glob.glob(pattern)) or [pattern]]
    return [_read(Path(name)) for name in names]


def _read(path: Path) -> SmallRun:
    folder = RunFolder(path)
    done = folder.read_result()
    if done is None:
        raise RunError("is no finished run", where=str(path), fix="give --fit the folders of finished runs")
    loss = done.get("last_held_out_loss")
    if not loss:
        raise RunError(
            "measured no held-out loss", where=str(path), fix="leave the run out, or raise corpus.held_out"
        )
    rate = folder.read_recipe().training.learning_rate
    return SmallRun(str(path), done["parameters"], done["tokens"], loss, rate)


def predicted_loss(patterns: Sequence[str], parameters: int, tokens: int) -> dict[str, Any]:
    """What the runs say of one with so many parameters and tokens.

    Raises:
        RaypretrainError: a folder is no finished run, or they are too few.
    """
    runs = read_runs(patterns)
    fitted = fit_law(runs)
    law = fitted.law
    largest = max(run.parameters * run.tokens for run in fitted.runs)
    return {
        "law": {name: getattr(law, name) for name in ("floor", "a", "alpha", "b", "beta")},
        "runs": [{**vars(run), "fitted": law.loss(run.parameters, run.tokens)} for run in fitted.runs],
        "largest_error": fitted.error,
        "predicted": fitted.predict(parameters, tokens),
        "learning_rate": rate_for(runs, parameters),
        "beyond": parameters * tokens / largest,
    }
