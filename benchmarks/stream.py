"""The stream against the tokenizer alone: how much of the cores goes into anything but tokenizing.

Both work on the same reviews with the same SentencePiece model. The peer is one process that has all texts in
memory and does nothing but ``encode``. Ours reads .jsonl files, from local disk and from a real S3 server on this
machine (there as .jsonl.zst too), in tasks of Ray Data: one at a time, and two at a time on two cores. It splits off
held-out documents, shuffles, tokenizes, packs, and hands the sequences over in order. All run in turn. The server has
no core of its own: what it uses to serve the files, the tasks do not get.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import ray
import sentencepiece
import zstandard
from report import Row, parser, report, say_load
from text import write_corpus

from raypretrain.config import validate
from raypretrain.corpus.manifest import build_manifest
from raypretrain.corpus.sources import CorpusConfig
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.stream import stream_parts
from raypretrain.tokens.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from raypretrain.tokens.window import SequencesConfig, Windows
from raypretrain.training.cluster import connect

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from s3_server import weed_server

LENGTH = 512
WINDOW = 4_000_000
KINDS = ("bpe", "unigram")  # the second is the harder one: it is quick by itself
GOALS = {"disk": (0.92, 1.65), "s3": (0.85, 1.5), "s3, .zst": (0.85, 1.5)}


def alone(model: bytes, texts: list[str]) -> float:
    """Tokens per second of SentencePiece by itself, in this process."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    begun = time.perf_counter()
    tokens = sum(len(ids) for ids in processor.encode(texts, num_threads=1))
    return tokens / (time.perf_counter() - begun)


class Consumer:
    """An actor that takes the stream's parts, as the dealer of a run does."""

    def open(self, windows: list[Any], tasks: int) -> None:
        """Start the stream and let it run in: processes, imports and empty caches do not count."""
        self._parts = stream_parts(windows[0], Cursor(), cpus=tasks, window_bytes=WINDOW)
        for _ in islice(self._parts, 2 * tasks):
            pass

    def speed(self, parts: int) -> float:
        """Tokens per second over the next ``parts`` parts; the time starts when the one before them was ready."""
        begun = time.perf_counter()
        tokens = sum(part.sequences.tokens.size for part in islice(self._parts, parts))
        speed = tokens / (time.perf_counter() - begun)
        self._parts.close()  # gives back the CPUs that Ray Data has for it
        return speed


def streamed(windows: Any, tasks: int, parts: int) -> float:
    """Tokens per second of a stream that has just been started."""
    consumer = ray.remote(Consumer).options(num_cpus=0).remote()
    ray.get(consumer.open.remote([windows], tasks))
    speed: float = ray.get(consumer.speed.remote(parts))
    ray.kill(consumer)
    return speed


def trained(kind: str, texts: list[str], folder: Path, vocabulary: int = 16384) -> Tokenizer:
    """A tokenizer of that kind."""
    settings = TokenizerConfig.model_validate({"kind": kind, "vocabulary": vocabulary, "sample": 3_000_000})
    return train_tokenizer(iter(texts), settings, folder / f"{kind}.model", threads=2)


def windows_of(
    path: str, tokenizer: Tokenizer, window: int = WINDOW, length: int = LENGTH, **source: str
) -> Windows:
    """The windows of the corpus at ``path``, as a run makes them; ``source`` is what else a source says."""
    values = {"sources": [{"path": path, **source}], "held_out": 0.01}
    corpus = validate(values, CorpusConfig, folder=Path(), where="benchmark")
    sequences = SequencesConfig.model_validate({"length": length, "window": window})
    manifest = build_manifest(corpus, fragment_bytes=window // 8)
    return Windows(manifest, corpus, sequences, tokenizer, seed=0)


def compare(
    kind: str, places: dict[str, str], tokenizer: Tokenizer, texts: list[str], rounds: int, parts: int
) -> list[Row]:
    """One kind of tokenizer, from every place, with one and two tasks: medians over interleaved rounds."""
    refs = {place: ray.put(windows_of(path, tokenizer)) for place, path in places.items()}
    cases = [(place, tasks) for place in places for tasks in (1, 2)]
    peer: list[float] = []
    ours: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    for _ in range(rounds):
        peer.append(alone(tokenizer.model, texts))  # type: ignore[attr-defined]
        for place, tasks in cases:
            ours[place, tasks].append(streamed(refs[place], tasks, parts * tasks))
        peer.append(alone(tokenizer.model, texts))  # type: ignore[attr-defined]
    return [
        Row(
            f"{kind}, {tasks} task{'s' * (tasks > 1)}, from {place}",
            statistics.median(ours[place, tasks]),
            statistics.median(peer),
            GOALS[place][tasks - 1],
        )
        for place, tasks in cases
    ]


@contextlib.contextmanager
def served(folder: Path, corpus: Path) -> Iterator[str]:
    """The corpus on an S3 server of this machine, whose keys this process and its children then have."""
    with weed_server(folder) as server:
        os.environ.update(server.environment)
        for shard in sorted(corpus.iterdir()):
            server.put(f"plain/{shard.name}", shard.read_bytes())
            server.put(f"zst/{shard.name}.zst", zstandard.compress(shard.read_bytes()))
        yield f"s3://{server.bucket}"


def main() -> None:
    """Run it."""
    options = parser(__doc__ or "")
    options.add_argument("--rounds", type=int, default=3, help="medians of so many")
    options.add_argument("--kind", choices=KINDS, help="of the tokenizer; by default both")
    chosen = options.parse_args()
    # Whole rounds of what a task reads, or windows would be counted that two tasks have made and not handed over.
    rounds, parts = (1, 16) if chosen.quick else (chosen.rounds, 32)
    say_load()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        texts = write_corpus(folder / "corpus", 8_000_000 if chosen.quick else 24_000_000)
        with served(folder / "weed", folder / "corpus") as url:
            connect(None, cpus=2)
            places = {"disk": str(folder / "corpus"), "s3": f"{url}/plain", "s3, .zst": f"{url}/zst"}
            if chosen.quick:
                del places["s3"]
            rows = []
            kinds = KINDS[-1:] if chosen.quick else KINDS
            for kind in (chosen.kind,) if chosen.kind else kinds:
                tokenizer = trained(kind, texts[:2500], folder)
                rows += compare(kind, places, tokenizer, texts, rounds, parts)
            ray.shutdown()
    say_load()
    report("the stream ÷ SentencePiece alone", "tokens/s", rows, chosen.json)


if __name__ == "__main__":
    main()
