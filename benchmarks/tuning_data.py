"""What the benchmarks of fine-tuning share: a small base, one-sentence film reviews with labels, and recipes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from raypretrain.config import validate
from raypretrain.demo.reviews import read_reviews, write_demo_data
from raypretrain.finetuning.recipe import FinetuneRecipe
from raypretrain.models.config import ModelConfig
from raypretrain.models.families import build
from raypretrain.models.huggingface import save_language_model
from raypretrain.tokens.export import save_huggingface_tokenizer
from raypretrain.tokens.tokenizer import TokenizerConfig, train_tokenizer


def write_base(folder: Path, length: int = 128) -> Path:
    """A decoder of the demo's size with random weights: what a step takes does not depend on them."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = (review.text for review in read_reviews()[:4000])
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocabulary=4096), folder / "own.model", threads=2)
    save_huggingface_tokenizer(tokenizer, folder, max_length=length)
    network = build(ModelConfig(preset="llama-1m", layers=3).shape(tokenizer.vocabulary, length))
    network.init_weights(0)
    special = {"bos": tokenizer.bos, "eos": tokenizer.eos, "pad": tokenizer.pad}
    save_language_model(network.state_dict(), network.shape, folder, **special)
    return folder


def write_labelled(folder: Path, train: int, test: int) -> None:
    """``train.csv`` and ``test.csv`` of one-sentence reviews, the same for every call."""
    data = write_demo_data(folder / "demo")
    for name, source, count in (("train", data.train, train), ("test", data.test, test)):
        with source.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))[:count]
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"])
            writer.writeheader()
            writer.writerows({"text": row["text"], "label": row["label"]} for row in rows)


def recipe(folder: Path, base: Path, name: str, **rooms: Any) -> FinetuneRecipe:
    """A recipe on what :func:`write_labelled` wrote."""
    task = {
        "name": "sentiment",
        "train": {"path": str(folder / "train.csv")},
        "test": {"path": str(folder / "test.csv")},
    } | rooms.pop("task", {})
    values = {"run": {"folder": str(folder / name)}, "base": {"path": str(base)}, "tasks": [task]} | rooms
    return validate(values, FinetuneRecipe, folder=folder, where="benchmark")
