"""How well windows shuffle, against a permutation of the whole corpus: where neighbours end up, and what it costs.

The corpus is as bad as it can be: film reviews sorted by source and label, so that the documents around one in its
file are like it. First, how far apart two neighbours of a file come in the order of training. Then the held-out loss
of a tiny model after some steps, in a plain loop without Ray, on the same model and held-out text for every order.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from report import Row, parser, report, say_load, show
from stream import trained, windows_of

from raypretrain.corpus.documents import is_held_out
from raypretrain.demo.reviews import read_reviews
from raypretrain.models.config import ModelConfig
from raypretrain.models.llama import Llama
from raypretrain.tokens.packing import Sequences, pack
from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.tokens.window import Windows
from raypretrain.training.evaluation import held_out_sequences
from raypretrain.training.schedule import ScheduleConfig, learning_rate

SHARDS = 8
LENGTH, BATCH, VOCABULARY = 128, 32, 4096
SIZES = {"windows of 256 KB": 1 << 18, "windows of 1 MB": 1_000_000, "windows of 4 MB": 4_000_000}
ALL = "the whole corpus permuted"
AS_IT_LIES = "as the files lie"


def write_sorted(folder: Path) -> list[str]:
    """The reviews sorted by source and label, in shards one after the other; returns the texts."""
    reviews = sorted(read_reviews(), key=lambda review: (review.source, review.label))
    folder.mkdir()
    each = -(-len(reviews) // SHARDS)
    for i in range(SHARDS):
        lines = [json.dumps({"text": r.text}) + "\n" for r in reviews[i * each : (i + 1) * each]]
        (folder / f"shard-{i}.jsonl").write_text("".join(lines), encoding="utf-8")
    return [review.text for review in reviews]


def places(windows: Windows) -> NDArray[np.int64]:
    """Where an epoch has each document of the files, in their order: its number and its sequence, int64 [n, 2]."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    sequences = documents = 0
    for w in range(windows.plan.windows_of_an_epoch):
        for packed in windows.packed(w):
            first = np.searchsorted(packed.layout.pieces[:, 2], np.arange(len(packed.documents)))
            rows = packed.layout.pieces[np.minimum(first, len(packed.layout.pieces) - 1), 0]
            for i, (document, row) in enumerate(zip(packed.documents, rows.tolist(), strict=True)):
                found.setdefault((document.file, document.position), (documents + i, sequences + row))
            documents += len(packed.documents)
            sequences += packed.layout.rows
    return np.array([found[name] for name in sorted(found)])


def neighbours(windows: Windows) -> tuple[float, float, float, float]:
    """Of documents that are neighbours in a file: the median distance in documents, in sequences, as a share of the
    epoch, and the share of them that come within the same batch's worth of sequences."""
    apart = np.abs(np.diff(places(windows), axis=0))
    documents, sequences = np.median(apart, axis=0)
    return documents, sequences, documents / len(apart), float((apart[:, 1] < BATCH).mean())


def in_windows(windows: Windows) -> Iterator[Sequences]:
    """As a run trains on them."""
    for w in windows.windows_from(0):
        for part in windows.parts(w):
            yield part.sequences


def as_they_lie(texts: list[str], tokenizer: Tokenizer, held_out: float) -> Iterator[Sequences]:
    """Without any shuffling."""
    training = [text for text in texts if not is_held_out(text, held_out)]
    ids = tokenizer.encode_batch(training)
    marks = {"bos": tokenizer.bos, "eos": tokenizer.eos, "pad": tokenizer.pad}
    yield pack(ids, LENGTH, "concatenate", **marks)[1]  # type: ignore[arg-type]


def batches(parts: Iterator[Sequences]) -> Iterator[NDArray[np.int32]]:
    """int32 [BATCH, LENGTH] each."""
    rest = np.empty((0, LENGTH), np.int32)
    for part in parts:
        rest = np.concatenate([rest, part.tokens])
        while len(rest) >= BATCH:
            yield rest[:BATCH]
            rest = rest[BATCH:]


def train(parts: Iterator[Sequences], held_out: NDArray[np.int32], seed: int, steps: int) -> float:
    """The held-out loss after ``steps`` steps of a plain loop."""
    model = Llama(ModelConfig(preset="llama-1m").shape(VOCABULARY, LENGTH))
    model.init_weights(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.95), weight_decay=0.1)
    for step, rows in enumerate(islice(batches(parts), steps), start=1):
        optimizer.param_groups[0]["lr"] = learning_rate(step, steps, 3e-3, ScheduleConfig())
        ids = torch.from_numpy(rows.astype(np.int64))
        model(ids[:, :-1], ids[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        ids = torch.from_numpy(held_out.astype(np.int64))
        losses = [float(model(part[:, :-1], part[:, 1:])) for part in ids.split(BATCH)]
    return statistics.fmean(losses)


def main() -> None:
    """Run it."""
    made = parser(__doc__ or "")
    made.add_argument("--steps", type=int, default=200)
    made.add_argument("--seeds", type=int, default=3)
    options = made.parse_args()
    steps, seeds = (15, 1) if options.quick else (options.steps, options.seeds)
    say_load()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        texts = write_sorted(folder / "corpus")
        tokenizer = trained("bpe", texts[::13], folder, VOCABULARY)
        sizes = {**SIZES, ALL: sum(p.stat().st_size for p in (folder / "corpus").iterdir()) + 1}
        orders = {n: windows_of(str(folder / "corpus"), tokenizer, s, LENGTH) for n, s in sizes.items()}
        found = {name: neighbours(windows) for name, windows in orders.items()}
        columns = [
            "",
            "documents apart",
            "sequences apart",
            "share of the epoch",
            f"within {BATCH} sequences",
        ]
        show("neighbours of a file, in an epoch", columns, [[n, *f] for n, f in found.items()])
        held_out = held_out_sequences(orders["windows of 1 MB"], 600).tokens
        losses: dict[str, list[float]] = {name: [] for name in (*orders, AS_IT_LIES)}
        for seed in range(seeds):
            for name, windows in orders.items():
                windows.seed, windows._plan = seed, None
                losses[name].append(train(in_windows(windows), held_out, seed, steps))
            lies = as_they_lie(texts, tokenizer, 0.01)
            losses[AS_IT_LIES].append(train(lies, held_out, seed, steps))
    lines: list[list[object]] = []
    for name, each in losses.items():
        apart = [a - b for a, b in zip(each, losses[ALL], strict=True)]
        shown = ", ".join(f"{loss:.4f}" for loss in each)
        lines.append([name, shown, f"{statistics.fmean(each):.4f}", f"{statistics.fmean(apart):+.4f}"])
    title = f"held-out loss after {steps} steps of {BATCH * LENGTH:,} tokens, {seeds} seeds"
    show(title, ["", "each seed", "mean", "above the permutation"], lines)
    say_load()
    rows = [
        Row(
            f"held-out loss, {name}",
            statistics.fmean(losses[name]),
            statistics.fmean(losses[ALL]),
            None,
            less=True,
        )
        for name in (*SIZES, AS_IT_LIES)
    ]
    report("shuffling by windows against a permutation of everything", "nats", rows, options.json)


if __name__ == "__main__":
    main()
