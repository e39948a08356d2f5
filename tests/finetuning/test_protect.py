"""What a trial forgets, what holds it, and the ways to move less of a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from real_text import reviews
from safetensors.torch import load_file

from raypretrain.errors import InputError, RecipeError, RunError
from raypretrain.finetuning.finetune import finetune


@pytest.fixture
def text(tmp_path: Path) -> dict[str, Any]:
    """Text that stands for what the base learned from."""
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in reviews(150)), encoding="utf-8")
    return {"path": str(path), "held_out": 0.2, "sequences": 24, "length": 48}


@pytest.fixture
def tuned(recipe, base, text, tmp_path):
    def run(**adapt: Any) -> dict[str, Any]:
        with_text = {"path": str(base), "text": text}
        return finetune(recipe(base=with_text, adapt={"learning_rate": 3e-3} | adapt))["tasks"]["mood"]

    return run


def test_a_head_alone_forgets_nothing_and_all_weights_something(tuned):
    head, full, lora = tuned(way="head"), tuned(), tuned(way="lora")
    assert head["forgetting"] == 0.0
    assert head["tuned_nats"] == head["base_nats"]
    assert full["base_nats"] == head["base_nats"]
    assert abs(full["forgetting"]) > 1e-3
    assert abs(lora["forgetting"]) > 1e-5
    assert full["tuned_bits_per_byte"] > 0
    assert "forgetting" not in tuned(init="scratch")


def test_an_anchor_holds_the_weights_and_replay_teaches_the_text(tuned, base):
    name = "model.layers.1.mlp.up_proj.weight"
    before = load_file(base / "model.safetensors")[name]
    rows, moved = [], []
    for adapt in ({}, {"anchor": 300.0}, {"replay": 0.5}):
        rows.append(tuned(**adapt))
        moved.append((load_file(Path(rows[-1]["model"]) / "model.safetensors")[name] - before).norm())
    assert moved[1] < 0.5 * moved[0]
    assert rows[2]["tuned_nats"] < rows[0]["tuned_nats"] - 0.05


def test_between_base_and_tuned_the_best_is_taken_that_forgot_little_enough(tuned, base):
    row = tuned(blend=[0.0, 0.5, 1.0])
    points = json.loads(
        (Path(row["model"]).parent.parent / "trials" / row["trial"] / "blend.json").read_text()
    )
    assert [point["share"] for point in points] == [0.0, 0.5, 1.0]
    assert points[0]["forgetting"] == pytest.approx(0.0, abs=1e-6)
    assert row["validation_accuracy"] == max(point["validation_accuracy"] for point in points)
    lost = {point["share"]: point["forgetting"] for point in points}
    assert abs(lost[1.0] - lost[0.0]) > 1e-3
    least = min((0.0, 1.0), key=lost.__getitem__)  # the only one that the bound leaves
    assert tuned(blend=[0.0, 1.0], most_forgetting=lost[least] + 1e-6)["blend"] == least
    with pytest.raises(RunError, match=r"each share of adapt\.blend forgot more than -5 nats"):
        tuned(blend=[0.0, 1.0], most_forgetting=-5.0)


def test_only_the_top_layers_move_and_lower_ones_less(tuned, base):
    before = load_file(base / "model.safetensors")

    def moved(row: dict[str, Any], name: str) -> float:
        return float((load_file(Path(row["model"]) / "model.safetensors")[name] - before[name]).norm())

    low, high = (f"model.layers.{i}.mlp.up_proj.weight" for i in (0, 1))
    top = tuned(top_layers=1)
    assert moved(top, low) == 0.0
    assert moved(top, high) > 0
    assert top["parameters_trained"] < tuned()["parameters_trained"]
    decayed = tuned(layer_decay=0.1)
    assert moved(decayed, low) < 0.3 * moved(decayed, high)


def test_patience_keeps_the_best_epoch(tuned, tmp_path):
    row = tuned(epochs=12, patience=2, learning_rate=2e-2)
    lines = (tmp_path / "run" / "trials" / row["trial"] / "metrics.jsonl").read_text().splitlines()
    scores = [json.loads(line)["validation_accuracy"] for line in lines]
    assert row["validation_accuracy"] == max(scores)
    best = scores.index(max(scores))
    assert len(scores) in (best + 3, 12)
    assert row["epochs"] == len(scores)


def test_balanced_classes_weigh_alike(recipe, data, tmp_path):
    from small_task import sentences, write_csv

    rows = [row for i, row in enumerate(sentences(300, seed=0)) if row[1] == "pos" or i % 10 == 0]
    path = write_csv(tmp_path / "uneven.csv", rows)
    task = {"train": {"path": str(path)}}
    found = [
        finetune(recipe(task=task, adapt={"way": "head", "class_weights": weights}))["tasks"]["mood"]
        for weights in ("none", "balanced")
    ]
    assert found[1]["test_macro_f1"] > found[0]["test_macro_f1"]


def test_the_same_trial_without_text_is_another_one(tuned, recipe):
    assert tuned()["trial"] != finetune(recipe(adapt={"learning_rate": 3e-3}))["tasks"]["mood"]["trial"]


@pytest.mark.parametrize(
    ("adapt", "message"),
    [
        ({"replay": 0.1}, "adapt.replay needs the text of the base; give base.text"),
        ({"blend": [0.5], "most_forgetting": 0.1}, "adapt.most_forgetting needs the text of the base"),
        ({"way": "lora", "anchor": 1.0}, "blend and anchor hold weights that are trained themselves"),
        ({"way": "lora", "init": "scratch"}, "adapters of low rank cannot be trained from scratch"),
        ({"most_forgetting": 0.1}, "most_forgetting chooses between shares: give blend as well"),
    ],
)
def test_what_cannot_be_held_is_one_line(adapt, message, recipe):
    with pytest.raises(RecipeError, match=message.replace(".", r"\.")):
        finetune(recipe(adapt=adapt))


def test_an_encoder_released_without_its_output_has_nothing_to_forget(recipe, encoder_base, text):
    with pytest.raises(InputError, match="was released without its output, so what it forgets cannot be"):
        finetune(recipe(base={"path": str(encoder_base), "text": text}, adapt={"way": "head"}))


def test_a_trial_is_the_same_one_however_much_others_replay(tuned, recipe, base, text, tmp_path):
    alone = tuned(replay=0.25)
    space = {"space": {"replay": {"grid": [0.25, 1.0]}}}
    from raypretrain.finetuning.work import prepare

    wanted = recipe(base={"path": str(base), "text": text}, adapt={"learning_rate": 3e-3}, search=space)
    work = prepare(wanted, wanted.trials())
    assert alone["trial"] in {trial.id for trial in work.trials}
    assert work.text is not None
    assert work.text.replay is not None
    assert len(work.text.replay) > 56
