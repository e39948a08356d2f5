"""Runs that were prepared but not trained, and their base models with random weights: no Ray is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from real_text import python_files, reviews

from raypretrain.config import validate
from raypretrain.finetuning.base_text import BaseText, BaseTextConfig, read_base_text
from raypretrain.models.families import LanguageModel, build
from raypretrain.models.huggingface import save_language_model
from raypretrain.models.loading import load_base
from raypretrain.tokens.export import save_huggingface_tokenizer
from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.training.prepare import prepare
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder

LENGTH = 32
SMALL = {"width": 32, "layers": 1, "heads": 2, "feed_forward": 64, "initializer_range": 0.2}
RECIPE: dict[str, Any] = {
    "corpus": {"sources": [{"path": "prose.jsonl", "name": "prose"}, {"path": "code.jsonl", "name": "code"}]},
    "tokenizer": {"vocabulary": 500, "sample": "100K"},
    "sequences": {"length": LENGTH, "window": "20K"},
    "training": {"steps": 1, "global_batch": 4, "evaluation": {"sequences": 13}},
}


def write_texts(folder: Path) -> Path:
    """Prose and code, as two files."""
    for name, texts in (("prose", reviews(60)), ("code", [text[:4000] for text in python_files(30)])):
        lines = [json.dumps({"text": text}) + "\n" for text in texts]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def make_run(folder: Path, preset: str = "llama-1m", held_out: float = 0.2, **rooms: Any) -> Path:
    """A run's folder beside its corpus; in it ``model``, what it would have released before its first step."""
    values = RECIPE | {"run": {"folder": "run", "seed": 3}, "model": {"preset": preset, **SMALL}} | rooms
    values["corpus"] = {**values["corpus"], "held_out": held_out}
    recipe = validate(values, PretrainRecipe, folder=write_texts(folder), where="recipe.yaml")
    run = RunFolder(recipe.run.folder)
    run.path.mkdir()
    run.open(recipe)
    prepare(recipe, run, lambda line: None)
    tokenizer = Tokenizer.load(run.tokenizer)
    network = build(recipe.model.shape(tokenizer.vocabulary, recipe.sequences.length))
    network.init_weights(5)
    bos, eos, pad = tokenizer.bos, tokenizer.eos, tokenizer.pad
    save_language_model(network.state_dict(), network.shape, run.model, bos=bos, eos=eos, pad=pad)
    save_huggingface_tokenizer(tokenizer, run.model)
    return run.path


def text_of(
    run: Path, /, *, replay: int = 0, seed: int = 0, base: Path | None = None, **keys: Any
) -> BaseText:
    """The text of a run's base (or of another's), as its run or ``keys`` name it."""
    config = validate(keys or {"run": str(run)}, BaseTextConfig, folder=run.parent, where="recipe.yaml")
    folder = base or run / "model"
    return read_base_text(config, folder, load_base(folder)[0], replay=replay, seed=seed)


def network_of(run: Path) -> LanguageModel:
    """The run's base model."""
    shape, state = load_base(run / "model")
    network = build(shape)
    network.load_state_dict(state)
    return network
