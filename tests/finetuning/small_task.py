"""A task that a small model can learn, and the shape of one."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

from real_text import reviews

from raypretrain.models.config import ModelConfig, ModelShape

GOOD = ["great", "wonderful", "superb", "lovely"]
BAD = ["awful", "terrible", "boring", "dreadful"]


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    """Real text of a few words with one word in it that decides; each label has half of them."""
    chance = random.Random(seed)
    words = " ".join(reviews(50)).split()
    rows = []
    for i in range(count):
        at = chance.randrange(len(words) - 20)
        some = words[at : at + chance.randrange(4, 14)]
        some.insert(chance.randrange(len(some)), chance.choice(GOOD if i % 2 else BAD))
        rows.append((" ".join(some), "pos" if i % 2 else "neg"))
    return rows


def write_csv(path: Path, rows: list[tuple[str, str]], head: tuple[str, str] = ("text", "label")) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def small_shape(vocabulary: int, **sizes: float) -> ModelShape:
    small = {"width": 32, "layers": 2, "heads": 4, "key_value_heads": 2, "feed_forward": 64}
    config: Any = {"preset": "llama-1m", "initializer_range": 0.2} | small | sizes
    return ModelConfig(**config).shape(vocabulary, 64)
