"""The model card, from a run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizer_kinds import tokenizer_of

from raypretrain.config import validate
from raypretrain.training.card import published, thinned, write_card
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder

SOURCES = [
    {"path": "/secret/place/code", "name": "code"},
    {"path": "s3://bucket/inner/*.jsonl", "name": "prose", "endpoint_url": "http://store.inner:9000"},
]


def recipe(folder: Path, **rooms: Any) -> PretrainRecipe:
    values = {"corpus": {"sources": SOURCES}, "run": {"folder": str(folder / "my-run")}, **rooms}
    return validate(values, PretrainRecipe, folder=folder, where="recipe.yaml")


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Three steps, one of them skipped, two evaluations, an hour of two workers and one restart."""
    folder = RunFolder(tmp_path / "my-run")
    sources = {"code": 60, "prose": 40}
    rows = [
        {
            "step": s,
            "tokens": s * 100,
            "sources": sources,
            "quarantined": 2 * (s == 1),
            "time": 100.0 + s * 1000,
        }
        | {"step_seconds": 1000.0, "data_wait_seconds": 0.0}
        for s in (1, 2, 3)
    ]
    lines(folder.metrics, [row | ({"skipped": "x"} if row["step"] == 2 else {}) for row in rows])
    of_sources = {
        name: {"loss": loss, "bits_per_byte": loss / 2} for name, loss in (("code", 3.0), ("prose", 4.0))
    }
    evaluation = {"held_out_bits_per_byte": 2.5, "seconds": 1.0, "sources": of_sources}
    losses = [{"step": s, "tokens": s * 100, "held_out_loss": 6.0 - s} for s in (0, 3)]
    lines(folder.evaluations, [row | evaluation for row in losses])
    lines(
        folder.events,
        [
            {"event": "start", "time": 0.0},
            {
                "event": "group",
                "time": 100.0,
                "world": 2,
                "step": 0,
                "incarnation": 1,
                "spans": {},
                "repeated": {},
            },
            {"event": "finished", "time": 3600.0},
        ],
    )
    sizes = {"workers": 2, "device": "cuda", "precision": "bf16"}
    folder.environment.write_text(
        json.dumps({"packages": {"torch": "2.13.0", "ray": "2.60.0"}, "sizes": sizes})
    )
    return folder


def card_of(run: RunFolder, made: PretrainRecipe) -> str:
    tokenizer = tokenizer_of("bpe")
    to = run.path / "model"
    to.mkdir()
    write_card(run, made, tokenizer, made.model.shape(tokenizer.vocabulary, made.sequences.length), [3], to)
    return (to / "README.md").read_text(encoding="utf-8")


def test_it_says_what_the_run_says(run: RunFolder, tmp_path: Path) -> None:
    card = {"license": "apache-2.0", "languages": ["en", "de"], "watts": 700, "description": "For contracts."}
    text = card_of(run, recipe(tmp_path, card=card))
    front, body = yaml.safe_load(text.split("---\n")[1]), text.split("---\n", 2)[2]
    assert front["license"] == "apache-2.0"
    assert front["language"] == ["en", "de"]
    assert front["pipeline_tag"] == "text-generation"
    assert "# my-run\n\nFor contracts.\n" in body
    assert "It was trained from random weights." in body
    assert "300 tokens in 3 steps" in body
    assert "| code | 180 | 60.0% |\n| prose | 120 | 40.0% |" in body
    assert "2 bad records were left out." in body
    assert "1 steps were skipped" in body
    assert "| 0 | 0 | 6.0000 | 2.5000 |\n| 3 | 300 | 3.0000 | 2.5000 |" in body
    assert "| code | 3.0000 | 1.5000 |\n| prose | 4.0000 | 2.0000 |" in body
    assert "2.00 GPU-hours (2 workers, bf16)" in body
    assert "Estimated energy: 1.4 kWh, at 700 W a worker" in body
    assert "torch 2.13.0, ray 2.60.0" in body
    assert "{" not in body.split("```yaml")[0]


def test_no_path_of_the_machine_is_in_it(run: RunFolder, tmp_path: Path) -> None:
    saved = {"copy_to": "s3://bucket/kept", "endpoint_url": "http://store.inner:9000"}
    fast = {"every": 5, "folder": "/secret/place/fast"}
    tokenizer = {"path": "/secret/place/tokenizer.json", "eos": "</s>"}
    made = recipe(tmp_path, training={"checkpoint": {**saved, "fast": fast}}, tokenizer=tokenizer)
    text = card_of(run, made)
    for secret in ("/secret/place", "bucket", "store.inner", str(tmp_path)):
        assert secret not in text
    assert yaml.safe_load(published(made))["tokenizer"]["eos"] == "</s>"
    whole = recipe(tmp_path, training={"checkpoint": {"copy_to": "s3://bucket"}})
    assert "bucket" not in published(whole)
    values = yaml.safe_load(published(made))
    assert [source["path"] for source in values["corpus"]["sources"]] == ["code", "*.jsonl"]
    assert "compute" not in values


def test_a_run_that_has_measured_nothing_has_a_card(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "my-run")
    folder.path.mkdir()
    text = card_of(folder, recipe(tmp_path, model={"preset": "bert-1m"}))
    assert "Nothing was held out, and nothing measured." in text
    assert "pipeline_tag: fill-mask" in text
    assert "Not given. The licences of the data bind whoever uses it." in text


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    rows = [{"step": step} for step in range(100)]
    few = thinned(rows, 12)
    assert (len(few), few[0], few[-1]) == (12, rows[0], rows[-1])
    assert thinned(rows[:5], 12) == rows[:5]
