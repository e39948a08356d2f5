"""What may change in the recipe of a run that has begun, and what that means for its checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from raypretrain.config import load_recipe
from raypretrain.errors import RecipeError
from raypretrain.training.changes import changes, refuse_changes
from raypretrain.training.fork import begins_anew
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import fingerprint_of

TEXT = "corpus:\n  sources:\n    - path: data/*.jsonl\ntraining: {steps: 100, checkpoint: {every: 10}}\n"
CONSTANT = ("training.schedule.kind=constant", "training.schedule.warmup=0")
WSD = ("training.schedule.kind=wsd", "training.schedule.warmup=0.1", "training.schedule.decay=0.2")


def load(folder: Path, *overrides: str) -> PretrainRecipe:
    (folder / "tiny.yaml").write_text(TEXT, encoding="utf-8")
    return load_recipe(folder / "tiny.yaml", PretrainRecipe, overrides)


def refusal(saved: PretrainRecipe, changed: PretrainRecipe, step: int = 50) -> str:
    with pytest.raises(RecipeError) as caught:
        refuse_changes(changed, saved, Path("run"), step)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        "compute.workers=2", "compute.workers=[1, 4]", "compute.micro_batch=2", "compute.max_failures=9",
        "training.checkpoint.every=3", "training.checkpoint.keep=9", "training.evaluation.every=7",
        "training.sequence_losses=true", "run.folder=/elsewhere", "corpus.on_change=keep",
    ],
)  # fmt: skip
def test_what_changes_no_batch_and_no_loss_is_safe(tmp_path: Path, change: str) -> None:
    saved, changed = load(tmp_path), load(tmp_path, change)
    assert saved != changed
    refuse_changes(changed, saved, tmp_path, 50)
    assert fingerprint_of(changed) == fingerprint_of(saved)  # so the checkpoints still belong to it


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("run.seed=1", "run.seed: 0 → 1"),
        ("training.global_batch=32", "training.global_batch: 64 → 32"),
        ("training.learning_rate=0.5", "training.learning_rate: 0.001 → 0.5"),
        ("training.clip=2", "training.clip: 1.0 → 2.0"),
        ("training.evaluation.sequences=5", "training.evaluation.sequences: 128 → 5"),
        ("model.layers=3", "model.layers: None → 3"),
        ("sequences.length=128", "sequences.length: 512 → 128"),
        ("corpus.held_out=0.2", "corpus.held_out: 0.01 → 0.2"),
        ("compute.zero=2", "compute.zero: 1 → 2"),
        ("compute.precision=bf16", "compute.precision: None → bf16"),
    ],
)
def test_what_changes_the_science_is_refused_with_both_values(tmp_path: Path, change: str, said: str) -> None:
    refused = refusal(load(tmp_path), load(tmp_path, change))
    assert said in refused
    assert "--fork" in refused


def test_safe_changes_are_not_blamed_for_those_that_are_not(tmp_path: Path) -> None:
    refused = refusal(
        load(tmp_path), load(tmp_path, "run.seed=1", "compute.workers=2", "training.checkpoint.keep=5")
    )
    assert "run.seed" in refused
    assert "workers" not in refused
    assert "keep" not in refused


def test_a_constant_rate_may_be_kept_up_for_longer(tmp_path: Path) -> None:
    saved = load(tmp_path, *CONSTANT)
    refuse_changes(load(tmp_path, *CONSTANT, "training.steps=200"), saved, tmp_path, 100)
    refuse_changes(load(tmp_path, *CONSTANT, "training.steps=60"), saved, tmp_path, 60)
    changed = load(tmp_path, *CONSTANT, "training.steps=200")
    assert fingerprint_of(changed) == fingerprint_of(saved)
    assert "60 steps are done, more than the 59" in refusal(
        saved, load(tmp_path, *CONSTANT, "training.steps=59"), 60
    )


def test_tokens_may_take_the_place_of_steps(tmp_path: Path) -> None:
    longer = load(tmp_path, *CONSTANT)
    training = longer.training.model_copy(update={"steps": None, "tokens": 150 * 64 * 512})
    refuse_changes(longer.model_copy(update={"training": training}), load(tmp_path, *CONSTANT), tmp_path, 100)


def test_a_longer_cosine_is_another_curve(tmp_path: Path) -> None:
    refused = refusal(load(tmp_path), load(tmp_path, "training.steps=200"), 10)
    assert "training.steps: 100 → 200" in refused
    assert "would have had the learning rate" in refused
    assert "--fork" in refused


def test_wsd_may_be_lengthened_before_its_decay_begins(tmp_path: Path) -> None:
    saved, longer = load(tmp_path, *WSD), ("training.steps=200", "training.schedule.warmup=0.05")
    refuse_changes(load(tmp_path, *WSD, *longer), saved, tmp_path, 80)
    assert "step 81 would have had" in refusal(saved, load(tmp_path, *WSD, *longer), 81)


def test_a_share_of_warm_up_that_keeps_its_steps_is_named(tmp_path: Path) -> None:
    saved = load(tmp_path, *WSD)
    refused = refusal(saved, load(tmp_path, *WSD, "training.steps=200"), 50)
    assert "training.schedule.warmup: 0.05 keeps its 10 warm-up steps" in refused


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        ("training.learning_rate=0.5", False), ("training.steps=200", False), ("training.clip=0", False),
        ("compute.workers=2", False), ("training.checkpoint.keep=5", False), ("corpus.on_change=keep", False),
        ("run.seed=1", True), ("training.global_batch=32", True), ("corpus.held_out=0.2", True),
        ("sequences.length=128", True), ("compute.zero=2", True), ("corpus.sources.0.path=other.txt", True),
    ],
)  # fmt: skip
def test_a_fork_begins_its_data_anew_where_the_data_changed(tmp_path: Path, change: str, anew: bool) -> None:
    assert begins_anew(changes(load(tmp_path), load(tmp_path, change))) is anew
