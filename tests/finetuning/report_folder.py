"""The folder of a search as a search leaves it, made of seeded numbers: what the report's tests read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]

KINDS: dict[str, dict[str, Any]] = {
    "topics": {"kind": "classify", "metric": "accuracy", "labels": ["economy", "science", "sport"]},
    "names": {"kind": "tag", "metric": "f1", "labels": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]},
    "stability": {"kind": "regress", "metric": "rmse", "labels": None},
}
WAYS: dict[str, list[Row]] = {
    "full": [{"learning_rate": 3e-4, "batch": 16}, {"learning_rate": 3e-3, "batch": 16}],
    "head": [{"ridge": 0.03}],
    "lora": [{"learning_rate": 1e-3, "batch": 16, "rank": 8}],
}
SKILL = {"full": 0.82, "head": 0.70, "lora": 0.79}
LOST = {"full": 0.21, "head": 0.0, "lora": 0.07}
FAILED, STOPPED = 4, 8
TEXT = "the film was a slow study of rain and markets whose price nobody had seen before it fell"


def write_folder(
    folder: Path,
    tasks: tuple[str, ...] = ("topics", "names"),
    *,
    forgetting: bool = True,
    counts: tuple[int, ...] = (),
    many_labels: int = 0,
    labels: list[str] | None = None,
    error: str = "RunError: the loss is no longer a number",
) -> Path:
    """Write RUN/results.json and what a report reads of RUN/trials; 24 trials a task, three seeds each.

    One trial of each task has failed (``full`` from scratch), one was stopped (``full`` from the base).

    Args:
        counts: numbers of labelled examples; ``full`` is then tried with each of them as well.
        many_labels, labels: of classify, instead of its three.
        error: the failed trial's.
    """
    chance = np.random.default_rng(7)
    rows: list[Row] = []
    about: dict[str, Row] = {}
    for name in tasks:
        about[name] = _about(name, labels or [f"label {i}" for i in range(many_labels)])
        own = [_row(name, about[name], settings, forgetting, chance) for settings in _settings(counts)]
        own[FAILED] = {
            k: v for k, v in own[FAILED].items() if k in ("trial", "task", "kind") or "adapt." in k
        }
        own[FAILED] |= {"status": "failed", "error": error}
        absent = ("test_", "forgetting", "tuned_", "base_")
        own[STOPPED] = {k: v for k, v in own[STOPPED].items() if not k.startswith(absent)}
        own[STOPPED] |= {"status": "stopped", "epochs": 1}
        for row in own:
            _write_trial(folder / "trials" / row["trial"], row, about[name], chance)
        rows += own
    results = {
        "seconds": 512.25,
        "best": {name: _best([row for row in rows if row["task"] == name], about[name]) for name in tasks},
        "comparison": [group for name in tasks for group in _compare(name, rows, about[name])],
        "rows": rows,
        "tasks": about,
    }
    (folder / "results.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    return folder


def _settings(counts: tuple[int, ...]) -> list[Row]:
    plain = [
        {"way": way, "init": init, "seed": seed} | values
        for way, options in WAYS.items()
        for values in options
        for init in ("base", "scratch")
        for seed in range(3)
    ]
    counted = [row | {"examples": n} for n in counts for row in plain if row["way"] == "full"]
    return plain + counted


def _about(name: str, labels: list[str]) -> Row:
    about = KINDS[name] | {"larger_is_better": name != "stability", "train": 1200, "validation": 200}
    if about["kind"] == "classify" and labels:
        about["labels"] = labels
    rival = {about["metric"]: 0.41 if name == "stability" else 0.8, "seconds": 0.6}
    return about | {"test": 400, "rival": rival if name != "names" else None}


def _row(name: str, about: Row, settings: Row, forgetting: bool, chance: np.random.Generator) -> Row:
    way, init = settings["way"], settings["init"]
    examples = settings.get("examples", 1200)
    skill = SKILL[way] - 0.12 * (init == "scratch") - 0.05 * np.log10(1200 / examples)
    trial = f"{name}-{way}-{init}-{chance.integers(16**10):010x}"
    row = {"trial": trial, "task": name, "kind": about["kind"], "status": "finished"}
    row |= {f"adapt.{key}": value for key, value in settings.items()}
    for split in ("validation", "test"):
        score = float(skill + chance.normal(0, 0.012))
        row[f"{split}_{about['metric']}"] = 1 - score if about["metric"] == "rmse" else score
        row[f"{split}_loss"] = float(1.5 * (1 - skill) + chance.normal(0, 0.02))
    seconds = float({"full": 31.0, "head": 4.0, "lora": 22.0}[way] + chance.normal(0, 0.5))
    row |= {"train_loss": 0.3, "seconds": seconds, "cpu_hours": seconds / 3600, "gpu_hours": 0.0}
    row |= {"parameters_trained": {"full": 1_127_296, "head": 384, "lora": 24_960}[way]}
    row |= {"epochs": 1 if way == "head" else 4, "examples": examples}
    if forgetting and init == "base":
        lost = float(LOST[way] * (1 + 40 * settings.get("learning_rate", 0)) + chance.uniform(0, 0.01))
        row |= {"base_nats": 4.54, "tuned_nats": 4.54 + lost, "forgetting": lost}
        row |= {"base_bits_per_byte": 1.84, "tuned_bits_per_byte": 1.84 + 0.4 * lost}
        row |= {"forgetting.reviews": 0.8 * lost, "forgetting.news": 1.3 * lost}
    return row


def _write_trial(folder: Path, row: Row, about: Row, chance: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    if row["status"] == "failed":
        return
    key = f"validation_{about['metric']}"
    lines = []
    for epoch in range(1, row["epochs"] + 1):
        left = 0.5 ** (epoch - 1) - 0.5 ** (row["epochs"] - 1)
        worse = -1 if about["larger_is_better"] else 1
        line = {"epoch": epoch, "train_loss": 0.3 + left, "seconds": epoch * 7.0}
        line |= {key: row[key] + worse * 0.2 * left, "validation_loss": row["validation_loss"] + left}
        lines.append(json.dumps(line) + "\n")
    (folder / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "examples.json").write_text(json.dumps(_examples(about, chance)), encoding="utf-8")


def _examples(about: Row, chance: np.random.Generator) -> Row:
    labels, classify = about["labels"] or [], about["kind"] == "classify"
    counts = chance.integers(0, 12, (len(labels), len(labels))) + 90 * np.eye(len(labels), dtype=int)
    scores = [[round(float(x), 3) for x in chance.uniform(0.5, 0.95, 3)] for _ in ("PER", "LOC")]
    per_label = [
        dict(zip(("name", "precision", "recall", "f1"), [name, *values], strict=True)) | {"support": 120}
        for name, values in zip(("PER", "LOC"), scores, strict=True)
    ]
    hardest = []
    for i in range(20):
        truth, predicted = (
            [labels[i % len(labels)], labels[(i + 1) % len(labels)]] if labels else [0.25 * i, 0.25 * i + 1.2]
        )
        text = " ".join(chance.permutation(TEXT.split()))
        hardest.append({"text": text, "truth": truth, "predicted": predicted, "loss": 6.0 - 0.2 * i})
    return {
        "confusion": {"labels": labels, "counts": counts.tolist()} if classify else None,
        "per_label": per_label if about["kind"] == "tag" else None,
        "hardest": hardest,
    }


def _best(rows: list[Row], about: Row) -> Row:
    sign = 1 if about["larger_is_better"] else -1
    finished = [row for row in rows if row["status"] == "finished"]
    return max(finished, key=lambda row: sign * row[f"validation_{about['metric']}"])


def _compare(name: str, rows: list[Row], about: Row) -> list[Row]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        key = (row["adapt.way"], row["adapt.init"])
        as_most = row.get("adapt.learning_rate") != 3e-3 and "adapt.examples" not in row
        if row["task"] == name and row["status"] == "finished" and as_most:
            groups.setdefault(key, []).append(row)
    found = []
    for (way, init), group in groups.items():
        scores = [row[f"test_{about['metric']}"] for row in group]
        found.append(
            {"task": name, "way": way, "init": init, "settings": WAYS[way][0] | {"way": way, "init": init}}
            | {
                "split": "test",
                "metric": about["metric"],
                "seeds": len(group),
                "score": float(np.mean(scores)),
            }
            | {"spread": float(np.std(scores, ddof=1)) if len(group) > 1 else None, "seconds": 20.0}
        )
    return found
