"""``raypretrain evaluate`` without lm-eval: what is refused before it is asked, and what is shown of its results."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from command import Command

from raypretrain.evaluationview import print_scores
from raypretrain.models.config import ModelConfig
from raypretrain.training import lm_evaluation
from raypretrain.training.lm_evaluation import rows
from raypretrain.training.lm_notes import noticed


def config_of(preset: str) -> dict[str, Any]:
    """The config of a model that does not name its architecture."""
    config = ModelConfig(preset=preset).shape(1000, 64).to_huggingface_config()
    return {key: value for key, value in config.items() if key != "architectures"}


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if lm-eval were installed."""
    monkeypatch.setattr(lm_evaluation, "_NEEDED", ())


def test_without_lm_eval_it_says_how_to_install_it(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(lm_evaluation, "find_spec", lambda name: None)
    assert command.fails("evaluate", tmp_path, "--tasks", "arc_easy") == (
        "evaluate: the package lm_eval is not installed; pip install 'raypretrain[evaluate]'"
    )


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "config.json: there is no such file; give a released model's folder, or a run's"),
        (
            {"architectures": ["BertForMaskedLM"]},
            "config.json: is a 'BertForMaskedLM', which continues no text",
        ),
        ({}, "config.json: is a model of type 'None'; give a model of type 'llama' or "),
        (config_of("bert-1m"), "config.json: is a 'bert', which continues no text"),
        (config_of("llama-1m"), ": holds no model.safetensors"),
        ({"architectures": ["GPT2LMHeadModel"]}, ": holds no model.safetensors"),
    ],
)
def test_a_model_that_continues_no_text_is_refused(
    command: Command, pretended: None, tmp_path: Path, config: dict[str, Any] | None, said: str
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    assert said in command.fails("evaluate", tmp_path, "--tasks", "arc_easy")


def test_pickled_weights_are_refused(command: Command, pretended: None, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"]}))
    (tmp_path / "pytorch_model.bin").touch()
    assert "holds pickled weights only" in command.fails("evaluate", tmp_path, "--tasks", "arc_easy")


def test_a_file_for_a_task_a_wrong_device_and_place_for_the_result_are_told_first(
    command: Command, pretended: None, tmp_path: Path
) -> None:
    assert command.fails("evaluate", tmp_path, "--tasks", "x, my/mood.yaml") == (
        "--tasks: 'my/mood.yaml' is a file; give its folder by --task-folder, and here what its key 'task' says"
    )
    wrong = ["evaluate", tmp_path / "none", "--tasks", "arc_easy"]
    assert command.fails(*wrong, "--device", "gpu") == "--device: 'gpu' is no device; give auto, cpu or cuda"
    assert command.fails(*wrong, "--output", tmp_path) == f"{tmp_path}: is a folder; give --output a file"


def test_hugging_faces_libraries_are_told_to_stay_offline_where_all_is_local(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with noticed(print, offline=False):
        assert "HF_HUB_OFFLINE" not in os.environ
    with noticed(print, offline=True):
        assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_row_for_each_metric_of_tasks_and_groups(capsys: pytest.CaptureFixture[str]) -> None:
    task = {"name": "a", "alias": "a", "sample_len": 5, "acc,none": 0.4, "acc_stderr,none": 0.1}
    group = {
        "name": "g",
        "alias": "g",
        "sample_len": 1005,
        "exact,strict": 12.5,
        "exact_stderr,strict": "N/A",
    }
    results = {
        "results": {"a": task, "g": group, "empty": {"name": "empty", "alias": "empty"}},
        "n-samples": {"a": {"original": 2000, "effective": 5}},
        "n-shot": {"a": 2, "g": 2},
        "higher_is_better": {"a": {"acc": True}, "g": {"exact": False}},
    }
    found = list(rows(results))
    assert [(row["task"], row["metric"], row["value"], row["stderr"]) for row in found] == [
        ("a", "acc", 0.4, 0.1),
        ("g", "exact", 12.5, None),
    ]
    print_scores({"model": "run", "step": 1500, "lm_eval": "0.4", "truncated": 3, "scores": found})
    lines = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
    assert "a acc ↑ 0.4000 0.1000 5 of 2,000 2" in lines
    assert "g exact (strict) ↓ 12.5000 1,005 2" in lines
    assert lines[-2:] == [
        "model: run after step 1,500; lm-eval 0.4",
        "note: 3 requests were longer than the model's positions and lost their beginning",
    ]
