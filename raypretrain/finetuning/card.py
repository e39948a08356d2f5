"""The card of a released model: a README.md of what it was made of, how well it does and how it is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raypretrain.finetuning.work import PlannedTrial, Work
from raypretrain.training.card import render_card

_USES = {
    "ForSequenceClassification": ("text-classification", "AutoModelForSequenceClassification"),
    "ForTokenClassification": ("token-classification", "AutoModelForTokenClassification"),
    "ForCausalLM": ("text-generation", "AutoModelForCausalLM"),
    "LMHeadModel": ("text-generation", "AutoModelForCausalLM"),
    "Model": ("feature-extraction", "AutoModel"),
}
"""By the end of the architecture's name: the pipeline, and the class that loads it."""


def write_card(work: Work, trial: PlannedTrial, row: dict[str, Any], folder: Path) -> None:
    """Write ``README.md`` beside the model in ``folder``.

    Args:
        row: what the trial measured.
    """
    render_card("raypretrain.finetuning", "card.md.j2", _values(work, trial, row, folder), folder)


def _values(work: Work, trial: PlannedTrial, row: dict[str, Any], folder: Path) -> dict[str, Any]:
    task = work.tasks[trial.task]
    architecture = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    pipeline, loader = next(use for end, use in _USES.items() if architecture.endswith(end))
    names = [key.removeprefix("validation_") for key in row if key.startswith("validation_")]
    base = work.base.folder
    return {
        "task": task.name,
        "kind": task.config.kind,
        "architecture": architecture,
        "pipeline": pipeline,
        # A name, not a place: of a run's model that of the run.
        "base": (base.parent if base.name == "model" else base).name if trial.adapt.init == "base" else None,
        "labels": list(getattr(task.kind, "labels", []))[:100],
        "examples": row["examples"],
        "validation": len(task.validation),
        "test": len(task.test),
        "dropped": task.dropped,
        "length": trial.length,
        "metric": work.goals[trial.task].metric,
        "scores": {name: (row[f"validation_{name}"], row.get(f"test_{name}")) for name in names},
        "forgetting": row.get("forgetting"),
        "base_nats": row.get("base_nats"),
        "tuned_nats": row.get("tuned_nats"),
        "settings": {key: value for key, value in trial.adapt.effective().items() if value is not None},
        "use": (
            f"from transformers import {loader}, AutoTokenizer\n\n"
            f'tokenizer = AutoTokenizer.from_pretrained("{task.name}")\n'
            f'model = {loader}.from_pretrained("{task.name}")'
        ),
        **{key: row[key] for key in ("parameters_trained", "seconds", "cpu_hours", "gpu_hours")},
    }
