"""What a report says of a task beside its trials: its data, its cheap rival, and what the base has seen of it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from raypretrain.errors import RaypretrainError
from raypretrain.finetuning.overlap import corpus_of_run, corpus_overlap
from raypretrain.finetuning.tasks import Task
from raypretrain.finetuning.work import Work
from raypretrain.storage import write_atomic


def described(work: Work, with_rivals: bool = False) -> dict[str, dict[str, Any]]:
    """Of each task, for the report: kind, metric, labels, how many examples there are, and its cheap rival."""
    return {
        name: {
            "kind": task.config.kind,
            "metric": work.goals[name].metric,
            "larger_is_better": work.goals[name].larger_is_better,
            "labels": list(getattr(task.kind, "labels", [])),
            "train": task.config.examples or len(task.train),
            "validation": len(task.validation),
            "test": len(task.test),
            "dropped": task.dropped,
            "seen": _seen(work, task),
            "rival": _rival(work, task) if with_rivals else None,
        }
        for name, task in work.tasks.items()
    }


def _seen(work: Work, task: Task) -> dict[str, Any] | None:
    """How many test texts are in the corpus that the base was pretrained on, where that is at hand, and some."""
    text = work.recipe.base.text
    if text is None or text.run is None or not text.overlap or not task.test:
        return None
    key = hashlib.sha256(f"{task.fingerprint} {text.run}".encode()).hexdigest()[:10]
    path = work.folder / "rivals" / f"{task.name}-seen-{key}.json"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        texts = [example.text for example in task.test]
        try:
            found = corpus_overlap(texts, corpus_of_run(text.run))
        except RaypretrainError as error:  # no reason to lose the trials
            return {"texts": None, "of": len(texts), "some": [], "why": str(error)}
        some = [" ".join(texts[i].split())[:100] for i in found[:5]]
        write_atomic(path, json.dumps({"texts": len(found), "of": len(texts), "some": some}) + "\n")
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return known


def _rival(work: Work, task: Task) -> dict[str, Any] | None:
    """Of the seeds that the trials have, kept for the next time."""
    from raypretrain.finetuning.rival import rivals

    seeds = sorted({trial.adapt.seed for trial in work.trials if trial.task == task.name})
    key = hashlib.sha256(f"{task.fingerprint} {seeds}".encode()).hexdigest()[:10]
    path = work.folder / "rivals" / f"{task.name}-{key}.json"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, json.dumps(rivals(task, seeds)) + "\n")
    found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8"))
    return found
