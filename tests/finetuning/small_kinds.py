"""Small labelled files of every kind of task, made of real text, that a small model can learn."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from small_task import BAD, GOOD, sentences

KINDS = ["classify", "label", "regress", "tag", "generate", "embed", "prefer"]


def rows_of(kind: str, count: int, seed: int) -> list[dict[str, Any]]:
    """``count`` examples of a kind."""
    chance = random.Random(seed)
    rows = []
    for text, label in sentences(count, seed):
        words, moods = text.split(), [word for word in text.split() if word in GOOD + BAD]
        if kind == "classify":
            rows.append({"text": text, "label": label})
        elif kind == "label":
            rows.append({"text": text, "label": [label] + ["long"] * (len(words) > 8)})
        elif kind == "regress":
            rows.append({"text": text, "label": 20.0 + 5 * sum(word in GOOD for word in moods)})
        elif kind == "tag":
            tags = ["B-GOOD" if w in GOOD else "B-BAD" if w in BAD else "O" for w in words]
            rows.append({"words": words, "tags": tags})
        elif kind == "generate":
            rows.append({"prompt": " ".join([*words[:4], *moods]), "response": f"It is {label}."})
        elif kind == "embed":
            rows.append({"text": text, "pair": " ".join(chance.sample(words, len(words)))})
        else:
            other = "neg" if label == "pos" else "pos"
            asked = " ".join([*words[:4], *moods])
            rows.append({"prompt": asked, "chosen": f"It is {label}.", "rejected": f"It is {other}."})
    return rows


def write_kind(folder: Path, kind: str) -> dict[str, Any]:
    """Files of a kind, and a task of them as a recipe has it."""
    task: dict[str, Any] = {"name": kind, "kind": kind}
    for split, count, seed in (("train", 160, 0), ("validation", 40, 2), ("test", 40, 1)):
        path = folder / f"{kind}-{split}.jsonl"
        lines = [json.dumps(row) + "\n" for row in rows_of(kind, count, seed)]
        path.write_text("".join(lines), encoding="utf-8")
        task[split] = {"path": str(path)} | ({"pair": "pair"} if kind == "embed" else {})
    return task
