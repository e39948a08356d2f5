"""The speedrun: wall time from raw text to the bits per byte that a nanoGPT-style run has after 20 minutes.

Ours starts from .jsonl shards of film reviews: start-up of Ray, tokenizer and tokenizing are in its time. The mark is a
bare PyTorch loop as nanoGPT's documentation has it for a CPU: GPT-2's architecture with about as many parameters, fp32,
AdamW, cosine, random crops of a corpus that is tokenized before its clock starts. Both use all cores and are measured
on the same held-out documents. ``--variants`` takes our settings back one by one.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from report import parser, say_load, show
from text import read_texts, write_corpus

from raypretrain.config import validate
from raypretrain.corpus.documents import is_held_out
from raypretrain.models.config import ModelConfig
from raypretrain.models.families import build
from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.training.evaluation import HeldOut
from raypretrain.training.metrics import read_log
from raypretrain.training.pretrain import pretrain
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder

LENGTH, VOCABULARY, CORPUS, HELD_OUT = 256, 8192, 30_000_000, 0.01
VARIANTS: dict[str, dict[str, Any]] = {
    "AdamW": {"training.optimizer": "adamw"},
    "AdamW, a third of the learning rate": {"training.optimizer": "adamw", "training.learning_rate": 2e-3},
    "fp32": {"compute.precision": "fp32"},
    "GPT-2's architecture": {
        "model.preset": "gpt2-1m",
        "model.width": 192,
        "model.layers": 7,
        "model.heads": 6,
    },
    "batches that grow": {"training.batch_warmup": {"first": 8, "steps": 60}},
    "cosine": {"training.schedule": {"kind": "cosine"}},
    "attention over the edges of documents": {"sequences.boundaries": False},
    "a third of the learning rate": {"training.learning_rate": 2e-3},
    "half the vocabulary": {"tokenizer.vocabulary": VOCABULARY // 2},
}
"""What each takes back, or changes, of our recipe."""


@dataclass(frozen=True)
class Run:
    """What a run came to: its curve as ``(seconds, bits per byte)``, tokens, parameters."""

    name: str
    curve: list[tuple[float, float]]
    tokens: int
    parameters: int

    def seconds_to(self, mark: float) -> float | None:
        """When it was as good as ``mark``; None if it never was."""
        return next((seconds for seconds, bits in self.curve if bits <= mark), None)


def recipe_of(folder: Path, tokens: int, changes: dict[str, Any]) -> PretrainRecipe:
    """Our recipe, with changes."""
    values: dict[str, Any] = {
        "run": {"folder": str(folder)},
        "corpus": {"sources": [{"path": str(folder.parent / "corpus")}], "held_out": HELD_OUT},
        "tokenizer": {"vocabulary": VOCABULARY, "sample": 5_000_000},
        "sequences": {"length": LENGTH, "window": 8_000_000},
        "model": {"preset": "llama-3m"},
        "training": {
            "tokens": tokens,
            "global_batch": 32,
            "learning_rate": 6e-3,
            "schedule": {"kind": "linear", "final": 0.0},
            "evaluation": {"sequences": 256},
            "checkpoint": {"every": 10**6, "keep": 1},
        },
        "compute": {"workers": 2, "zero": 1, "precision": "bf16", "device": "cpu", "standby": False},
    }
    for key, value in changes.items():
        *rooms, last = key.split(".")
        room = values
        for name in rooms:
            room = room.setdefault(name, {})
        room[last] = value
    return validate(values, PretrainRecipe, folder=folder.parent, where="benchmark")


def ours(name: str, folder: Path, tokens: int, changes: dict[str, Any]) -> Run:
    """A run of our recipe, from raw text; the clock starts before anything is there."""
    begun = time.time()
    outcome = pretrain(recipe_of(folder, tokens, changes), lambda event: None)
    rows = {row["step"]: row for row in read_log(folder / "metrics.jsonl")}
    curve = [
        (rows[e["step"]]["time"] - begun + e["seconds"], e["held_out_bits_per_byte"])
        for e in read_log(folder / "evaluations.jsonl")
        if e["step"]
    ]
    return Run(name, curve, outcome.result["tokens"], outcome.result["parameters"])


def mark(run: Path, minutes: float) -> Run:
    """The bare loop: ``minutes`` on the text that ``run`` reads, with its tokenizer and its held-out sequences."""
    folder = RunFolder(run)
    tokenizer, held_out = Tokenizer.load(folder.tokenizer), HeldOut.load(folder.held_out)
    texts = (text for path in sorted((run.parent / "corpus").iterdir()) for text in read_texts(path))
    learned = (text for text in texts if not is_held_out(text, HELD_OUT))
    data = torch.tensor([t for text in learned for t in (tokenizer.bos, *tokenizer.encode(text))])
    shape = ModelConfig(preset="gpt2-1m", width=192, layers=7, heads=6, feed_forward=768)
    model = build(shape.shape(tokenizer.vocabulary, LENGTH))
    model.init_weights(0)
    torch.set_num_threads(os.cpu_count() or 1)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)
    generator = torch.Generator().manual_seed(0)
    begun, used, curve, tokens, next_look = time.perf_counter(), 0.0, [], 0, 0.25
    while used < minutes * 60:
        done = used / (minutes * 60)
        rate = 1e-3 * min(1.0, done / 0.02 + 0.01) * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        offsets = torch.randint(0, len(data) - LENGTH - 1, (32,), generator=generator)
        rows = torch.stack([data[i : i + LENGTH + 1] for i in offsets.tolist()])
        logits = model(rows[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += rows[:, :-1].numel()
        used = time.perf_counter() - begun
        if used / (minutes * 60) >= next_look:
            curve.append((used, bits_per_byte(model, held_out)))
            next_look += 0.25
            begun = time.perf_counter() - used  # looking is not in its time
    return Run("the mark: a nanoGPT-style loop", curve, tokens, sum(p.numel() for p in model.parameters()))


@torch.inference_mode()
def bits_per_byte(model: Any, held_out: HeldOut) -> float:
    """Of whole held-out sequences, without boundaries."""
    nats = 0.0
    for row in torch.from_numpy(held_out.tokens).long():
        nats += torch.nn.functional.cross_entropy(model(row[None, :-1])[0], row[1:], reduction="sum").item()
    return nats / held_out.bytes / math.log(2)


def main() -> None:
    """Run it."""
    made = parser(__doc__ or "")
    made.add_argument("--minutes", type=float, default=20.0, help="of the mark")
    made.add_argument("--tokens", type=int, default=3_600_000, help="of ours")
    made.add_argument("--variants", nargs="*", default=None, help=f"of: {'; '.join(VARIANTS)}")
    options = made.parse_args()
    minutes, tokens = (0.3, 100_000) if options.quick else (options.minutes, options.tokens)
    names = [] if options.variants is None else options.variants or list(VARIANTS)
    say_load()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_corpus(folder / "corpus", CORPUS)
        runs = [ours("ours", folder / "ours", tokens, {})]
        runs.append(mark(folder / "ours", minutes))
        for number, name in enumerate(names):
            runs.append(ours(f"ours with {name}", folder / f"variant-{number}", tokens, VARIANTS[name]))
    say_load()
    goal = runs[1].curve[-1]
    rows: list[list[object]] = []
    for run in runs:
        reached = run.seconds_to(goal[1])
        ratio = f"{goal[0] / reached:.2f}" if reached else "not reached"
        rows.append([run.name, run.parameters, run.tokens, run.curve[-1][0], run.curve[-1][1], ratio])
    columns = [
        "",
        "parameters",
        "tokens",
        "seconds",
        "bits a byte",
        f"the mark's {goal[0]:.0f} s ÷ time to its bits",
    ]
    show("speedrun: film reviews, all cores", columns, rows)
    if options.json:
        options.json.write_text(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=1))


if __name__ == "__main__":
    main()
