"""One trial a task, in this process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_task import sentences, write_csv
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from raypretrain.config import save_recipe
from raypretrain.errors import InputError, RecipeError, RunError
from raypretrain.finetuning.finetune import finetune


@pytest.mark.slow
def test_full_fine_tuning_learns_the_task_and_writes_a_line_an_epoch(recipe, tmp_path):
    events = []
    result = finetune(recipe(adapt={"epochs": 8, "learning_rate": 5e-3}), events.append)
    row = result["tasks"]["mood"]
    assert row["test_accuracy"] > 0.75
    lines = (tmp_path / "run" / "trials" / row["trial"] / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, 9))
    assert json.loads(lines[-1])["validation_accuracy"] == row["validation_accuracy"]
    assert [event["event"] for event in events] == ["plan", *["epoch"] * 8, "trial"]


PROGRAM = """
import sys
from raypretrain.config import load_recipe
from raypretrain.finetuning.finetune import finetune
from raypretrain.finetuning.recipe import FinetuneRecipe

finetune(load_recipe(sys.argv[1], FinetuneRecipe))
print(sorted(sys.modules.keys() & {"torch._dynamo", "torch._inductor", "sympy"}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["full", "head", "lora"])
def test_a_trial_needs_no_compiler(recipe, tmp_path, way):
    path = tmp_path / "recipe.yaml"
    save_recipe(recipe(adapt={"way": way, "epochs": 1}), path)
    command = [sys.executable, "-c", PROGRAM, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr[-2000:]


@pytest.mark.slow
def test_the_garbage_collector_is_off_only_while_a_trials_process_imports():
    program = "import gc, raypretrain.finetuning.attempt; print(gc.isenabled())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"


@pytest.mark.parametrize("way", ["full", "head"])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_the_released_classifier_predicts_in_transformers_what_was_measured(recipe, data, way, pooling):
    result = finetune(recipe(adapt={"way": way, "pooling": pooling, "learning_rate": 3e-3}))["tasks"]["mood"]
    model = AutoModelForSequenceClassification.from_pretrained(result["model"])
    tokenizer = AutoTokenizer.from_pretrained(result["model"])
    texts, labels = zip(*sentences(80, seed=1), strict=True)
    inputs = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    assert inputs["input_ids"].shape[1] <= 32
    with torch.no_grad():
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    predicted = [model.config.id2label[i] for i in logits.argmax(dim=1).tolist()]
    right = sum(guess == label for guess, label in zip(predicted, labels, strict=True))
    assert right / 80 == result["test_accuracy"]
    wanted = torch.tensor([model.config.label2id[label] for label in labels])
    assert torch.nn.functional.cross_entropy(logits, wanted).item() == pytest.approx(
        result["test_loss"], abs=1e-4
    )


@pytest.mark.slow
def test_the_same_settings_give_the_same_numbers_in_another_folder(recipe, tmp_path):
    adapt = {"epochs": 2, "learning_rate": 3e-3, "seed": 4}
    first = finetune(recipe(adapt=adapt))
    second = finetune(recipe(adapt=adapt, run={"folder": str(tmp_path / "again")}))
    one, other = first["tasks"]["mood"], second["tasks"]["mood"]
    for key in ("trial", "test_loss", "validation_loss", "train_loss"):
        assert one[key] == other[key]
    third = finetune(recipe(adapt=adapt | {"seed": 5}, task={"examples": 100}))
    assert third["tasks"]["mood"]["test_loss"] != one["test_loss"]


def test_a_finished_trial_is_not_repeated_and_a_changed_setting_is_another_trial(recipe, tmp_path):
    adapt = {"way": "head"}
    first = finetune(recipe(adapt=adapt))["tasks"]["mood"]
    result = tmp_path / "run" / "trials" / first["trial"] / "result.json"
    stamp = result.stat().st_mtime_ns
    finetune(recipe(adapt=adapt | {"learning_rate": 0.1}))  # without effect where only the head is solved for
    assert result.stat().st_mtime_ns == stamp
    assert len(list(result.parent.parent.iterdir())) == 1
    finetune(recipe(adapt=adapt | {"ridge": 1.0}))
    assert len(list(result.parent.parent.iterdir())) == 2


def test_head_leaves_the_base_model_as_it_is_and_full_does_not(recipe, base):
    body = load_file(base / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    for way, same in (("head", True), ("full", False)):
        result = finetune(recipe(adapt={"way": way}))["tasks"]["mood"]
        released = load_file(Path(result["model"]) / "model.safetensors")
        assert torch.equal(released[name], body[name]) is same
        assert result["parameters_trained"] == (2 * 32 if way == "head" else 37856)


def test_scratch_does_not_see_the_base_models_weights(recipe, base, tmp_path):
    scratch = {"init": "scratch", "way": "head", "seed": 1}
    first = finetune(recipe(adapt=scratch))["tasks"]["mood"]
    other = tmp_path / "other"
    other.mkdir()
    for path in base.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    weights = {name: weight * 3 for name, weight in load_file(base / "model.safetensors").items()}
    save_file(weights, other / "model.safetensors")
    again = recipe(adapt=scratch, base={"path": str(other)}, run={"folder": str(tmp_path / "again")})
    assert finetune(again)["tasks"]["mood"]["test_loss"] == first["test_loss"]
    from_base = finetune(recipe(adapt=scratch | {"init": "base"}))["tasks"]["mood"]
    assert from_base["test_loss"] != first["test_loss"]


def test_two_tasks_and_one_without_a_test_set(recipe, data):
    tasks = [
        {"name": "one", "train": {"path": "train.csv"}, "test": {"path": "test.csv"}},
        {"name": "two", "train": {"path": "train.csv"}, "validation": {"path": "test.csv"}},
    ]
    result = finetune(recipe(tasks=tasks, adapt={"way": "head"}))["tasks"]
    assert "test_accuracy" not in result["two"]
    assert Path(result["one"]["model"]) != Path(result["two"]["model"])
    assert (result["one"]["examples"], result["two"]["examples"]) == (216, 240)


def test_a_loss_that_is_no_number_is_one_line(recipe):
    with pytest.raises(RunError, match=r"the loss is (nan|inf) at step \d+ of 28; lower adapt.learning_rate"):
        finetune(recipe(adapt={"learning_rate": 1e30, "clip": 1e30}))


def test_a_batch_larger_than_the_examples_is_refused(recipe):
    with pytest.raises(InputError, match="task 'mood' has 20 examples to train on, fewer than a batch of 64"):
        finetune(recipe(task={"examples": 20}, adapt={"batch": 64}))


def test_texts_longer_than_the_base_models_positions_are_refused(recipe):
    with pytest.raises(RecipeError, match=r"adapt\.length is 65, but the base model has 64 positions"):
        finetune(recipe(adapt={"length": 65}))


def test_a_run_folder_that_is_a_file_is_refused_before_anything_is_trained(recipe, tmp_path):
    write_csv(tmp_path / "file", [])
    with pytest.raises(Exception, match="is a file, not a folder"):
        finetune(recipe(run={"folder": str(tmp_path / "file")}))


def test_a_warm_head_begins_where_the_solved_head_ends(recipe, tmp_path):
    solved = finetune(recipe(adapt={"way": "head", "ridge": 0.2}))["tasks"]["mood"]
    still = {"warm_head": True, "ridge": 0.2, "learning_rate": 1e-12, "epochs": 1}
    warm = finetune(recipe(adapt=still))["tasks"]["mood"]
    cold = finetune(recipe(adapt=still | {"warm_head": False}))["tasks"]["mood"]
    assert warm["test_loss"] == pytest.approx(solved["test_loss"], abs=1e-5)
    assert cold["test_loss"] == pytest.approx(0.693147, abs=1e-5)


def test_without_a_length_texts_are_cut_at_the_base_models_positions(recipe):
    row = finetune(recipe(adapt={"way": "head", "length": None}))["tasks"]["mood"]
    assert row["adapt.length"] == 64
    assert AutoTokenizer.from_pretrained(row["model"]).model_max_length == 64


def test_weights_that_were_deleted_are_made_again_for_the_release(recipe, tmp_path):
    adapt = {"learning_rate": 3e-3}
    row = finetune(recipe(adapt=adapt))["tasks"]["mood"]
    before = load_file(Path(row["model"]) / "model.safetensors")
    (tmp_path / "run" / "trials" / row["trial"] / "trained.safetensors").unlink()
    (Path(row["model"]) / "model.safetensors").unlink()
    finetune(recipe(adapt=adapt))
    after = load_file(Path(row["model"]) / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
