"""Small real runs for the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil

from raypretrain.config import load_recipe
from raypretrain.training.pretrain import Outcome, pretrain
from raypretrain.training.recipe import PretrainRecipe

RECIPE = """
run: {{seed: 3}}
corpus: {{sources: [{{path: '{corpus}/*.jsonl', name: reviews}}], held_out: 0.05}}
tokenizer: {{vocabulary: 512, sample: 300K}}
sequences: {{length: 64, window: 100K}}
model: {{preset: llama-1m, width: 32, layers: 2, heads: 2, feed_forward: 64}}
training:
  {{steps: {steps}, global_batch: 12, learning_rate: 3e-3, optimizer: adamw, checkpoint: {{every: 10}},
   evaluation: {{every: 20, sequences: 16}}}}
compute: {{workers: 2, device: cpu, cpus_per_worker: 0.5}}
"""


def write_recipe(folder: Path, corpus: Path, steps: int = 40) -> Path:
    """A recipe of a tiny model over ``corpus``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.format(corpus=corpus, steps=steps), encoding="utf-8")
    return path


def run(recipe: Path, folder: Path, *overrides: str, watch: Any = None) -> Outcome:
    """Carry out ``recipe`` in ``folder``, in this process."""
    loaded = load_recipe(recipe, PretrainRecipe, [f"run.folder={folder}", *overrides])
    return pretrain(loaded, watch or (lambda event: None))


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def fingerprints(folder: Path) -> dict[int, str]:
    """Step → fingerprint; fails if a step is there twice."""
    rows = metrics(folder)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return {row["step"]: row["batch_fingerprint"] for row in rows}


def dealers(under: psutil.Process | None = None) -> list[psutil.Process]:
    """The processes of dealers that descend from that one, or from this session; the youngest last."""
    found = [
        p for p in (under or psutil.Process()).children(recursive=True) if _title(p).startswith("ray::Dealer")
    ]
    return sorted(found, key=lambda process: process.create_time())


def train_workers() -> list[psutil.Process]:
    """The processes of Ray Train's workers that descend from a raylet of this test session."""
    me = psutil.Process()
    return [
        p
        for p in me.children(recursive=True)
        if p.name().startswith("ray::RayTrainW") or "RayTrainWorker" in _title(p)
    ]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
