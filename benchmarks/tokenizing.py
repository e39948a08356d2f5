"""Tokenizers against the libraries that they come from, on prose and on source code, in one process.

The peer is the library's own call for a batch, whose ids are made arrays of int32, as ours are. "First" is each text
once, with the words of the texts before it known; "known" is the same texts again. Times are of the CPU, medians of
rounds in turn.
"""

from __future__ import annotations

import pickle
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from report import Row, arguments, report, say_load
from stream import trained

from raypretrain.demo.reviews import read_reviews
from raypretrain.tokens.tokenizer import Tokenizer

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import tokenizer_kinds
from real_text import python_files

VOCABULARY = 16384
MANNERS = {
    "byte-level BPE as GPT-2's": "gpt2",
    "byte-level BPE as Llama 3's": "llama3",
    "WordPiece as BERT's": "bert",
}


def sentencepiece_alone(tokenizer: Any) -> Callable[[list[str]], object]:
    """The library's encoding of a batch."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    return lambda texts: processor.encode_as_numpy(texts, num_threads=1)


def backend_alone(tokenizer: Any) -> Callable[[list[str]], object]:
    """The library's encoding of a batch."""
    encode = tokenizer._backend.encode_batch_fast
    return lambda texts: [np.array(one.ids, np.int32) for one in encode(texts, add_special_tokens=False)]


def seconds(work: Callable[[], object]) -> float:
    """Of CPU."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def compare(
    name: str, tokenizer: Tokenizer, alone: Callable[[list[str]], object], texts: list[str], rounds: int
) -> list[Row]:
    """Characters per second, in millions."""
    found: list[list[float]] = [[], [], []]
    for _ in range(rounds):
        fresh = pickle.loads(pickle.dumps(tokenizer))
        for times, work in zip(found, (alone, fresh.encode_batch, fresh.encode_batch), strict=True):
            times.append(seconds(lambda work=work: work(texts)))  # type: ignore[misc]
    peer, first, known = (sum(map(len, texts)) / 1e6 / statistics.median(times) for times in found)
    return [Row(f"{name}, first", first, peer, None), Row(f"{name}, known", known, peer, None)]


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "")
    prose = [review.text for review in read_reviews()][: 1500 if options.quick else 12_000]
    corpora = {"reviews": prose, "source": python_files(60 if options.quick else 200)}
    # A tokenizer must know the words of prose and of source: it is trained on some of both.
    sample = [*prose[:1500], *corpora["source"][:60]]
    tokenizer_kinds.VOCABULARY = VOCABULARY
    tokenizer_kinds.texts = lambda: sample  # type: ignore[assignment]
    say_load()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cases: dict[str, tuple[Tokenizer, Callable[[list[str]], object]]] = {}
        for kind in ("bpe", "unigram"):
            tokenizer = trained(kind, sample, Path(folder), VOCABULARY)
            cases[f"SentencePiece {kind}"] = tokenizer, sentencepiece_alone(tokenizer)
        for name, manner in MANNERS.items():
            tokenizer = tokenizer_kinds.of_backend(getattr(tokenizer_kinds, f"like_{manner}")())
            cases[name] = tokenizer, backend_alone(tokenizer)
        for name, (tokenizer, alone) in cases.items():
            for text, texts in corpora.items():
                rows += compare(f"{name}, {text}", tokenizer, alone, texts, 1 if options.quick else 3)
    say_load()
    report("tokenizers ÷ their libraries", "million characters/s", rows, options.json)


if __name__ == "__main__":
    main()
