"""The stream against the tokenizer alone: how much of a core goes into anything but tokenizing.

Both work on the same reviews with the same SentencePiece model. The peer is one process that has all texts in
memory and does nothing but ``encode``. Ours reads .jsonl files in tasks of Ray Data (one at a time), splits off
held-out documents, shuffles, tokenizes, packs, and hands the sequences over in order. Both run in turn.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import sentencepiece
from report import Row, arguments, report
from text import write_corpus

from raypretrain.config import validate
from raypretrain.corpus.manifest import build_manifest
from raypretrain.corpus.sources import CorpusConfig
from raypretrain.tokens.stream import window_blocks
from raypretrain.tokens.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from raypretrain.tokens.window import SequencesConfig, Windows
from raypretrain.training.cluster import connect

LENGTH = 512


def alone(model: bytes, texts: list[str]) -> float:
    """Tokens per second of SentencePiece by itself, in this process."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    begun = time.perf_counter()
    tokens = sum(len(ids) for ids in processor.encode(texts, num_threads=1))
    return tokens / (time.perf_counter() - begun)


class Consumer:
    """An actor that takes the stream's blocks, as the dealer of a run does."""

    def open(self, windows: list[Any]) -> None:
        """Start the stream and wait for its first window: processes and imports do not count."""
        self._blocks = window_blocks(windows[0], 0, cpus=1, task_cpus=1, ahead_bytes=64 * 2**20)
        next(self._blocks)

    def speed(self, windows: int) -> float:
        """Tokens per second over the next ``windows`` windows; the time starts when the first of them was ready."""
        begun = time.perf_counter()
        tokens = sum(next(self._blocks)[1].size for _ in range(windows))
        return tokens / (time.perf_counter() - begun)


def streamed(windows: Windows, number: int) -> float:
    """Tokens per second of a stream that has just been started, over ``number`` windows."""
    consumer = ray.remote(Consumer).options(num_cpus=0).remote()
    ray.get(consumer.open.remote([ray.put(windows)]))
    speed: float = ray.get(consumer.speed.remote(number))
    ray.kill(consumer)
    return speed


def compare(kind: str, folder: Path, texts: list[str], rounds: int) -> Row:
    """One kind of tokenizer: medians over interleaved rounds."""
    settings = TokenizerConfig.model_validate({"kind": kind, "vocabulary": 16384, "sample": 3_000_000})
    tokenizer: Tokenizer = train_tokenizer(iter(texts[:2500]), settings, folder / f"{kind}.model", threads=2)
    sources = {"sources": [{"path": str(folder / "corpus")}], "held_out": 0.01}
    corpus = validate(sources, CorpusConfig, folder=folder, where="benchmark")
    window = 4_000_000
    manifest = build_manifest(corpus, fragment_bytes=window // 8)
    sequences = SequencesConfig.model_validate({"length": LENGTH, "window": window})
    windows = Windows(manifest, corpus, sequences, tokenizer, seed=0)
    whole_corpus = windows.plan.windows_of_an_epoch
    ours, peer = [], []
    for _ in range(rounds):
        peer.append(alone(tokenizer.model, texts))
        ours.append(streamed(windows, whole_corpus))
    return Row(
        f"stream ÷ SentencePiece alone, {kind}", statistics.median(ours), statistics.median(peer), 0.85
    )


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        texts = write_corpus(folder / "corpus", 8_000_000 if options.quick else 24_000_000)
        connect(None, cpus=2)
        kinds = ("bpe",) if options.quick else ("bpe", "unigram")
        rows = [compare(kind, folder, texts, 1 if options.quick else 3) for kind in kinds]
    report("stream, one task", "tokens/s", rows, options.json)


if __name__ == "__main__":
    main()
