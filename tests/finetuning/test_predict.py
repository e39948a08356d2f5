"""Asking a released model: of every kind, with Ray Data over files, and one text from stdin."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_kinds import rows_of, write_kind

from raypretrain.config import validate
from raypretrain.errors import InputError
from raypretrain.finetuning.finetune import finetune
from raypretrain.finetuning.predict import Predictor, texts_of
from raypretrain.finetuning.recipe import FinetuneRecipe
from raypretrain.finetuning.rows import LabelledFile


@pytest.fixture(scope="module")
def models(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A released model of each kind, and its row."""
    folder = tmp_path_factory.mktemp("models")
    kinds = ("classify", "label", "regress", "tag", "generate", "embed")
    values = {
        "run": {"folder": str(folder / "run")},
        "base": {"path": str(base)},
        "tasks": [write_kind(folder, kind) for kind in kinds],
        "adapt": {"length": 64, "epochs": 6, "learning_rate": 5e-3},
    }
    return finetune(validate(values, FinetuneRecipe, folder=folder, where="recipe.yaml"))["tasks"]


def test_what_it_says_is_what_was_measured(models):
    rows = rows_of("classify", 40, 1)
    said = Predictor(models["classify"]["model"])([row["text"] for row in rows])
    right = sum(a["label"] == b["label"] for a, b in zip(said, rows, strict=True))
    assert right / 40 == pytest.approx(models["classify"]["test_accuracy"])
    assert all(0.5 <= row["score"] <= 1 for row in said)

    rows = rows_of("label", 40, 1)
    said = Predictor(models["label"]["model"])([row["text"] for row in rows])
    exact = sum(sorted(a["labels"]) == sorted(b["label"]) for a, b in zip(said, rows, strict=True))
    assert exact / 40 == pytest.approx(models["label"]["test_exact"])

    rows = rows_of("regress", 40, 1)
    said = Predictor(models["regress"]["model"])([row["text"] for row in rows])
    error = sum((a["value"] - b["label"]) ** 2 for a, b in zip(said, rows, strict=True)) / 40
    assert error**0.5 == pytest.approx(models["regress"]["test_rmse"], rel=1e-3)


def test_tags_belong_to_words(models):
    rows = rows_of("tag", 40, 1)
    predictor = Predictor(models["tag"]["model"])
    said = predictor([" ".join(row["words"]) for row in rows])
    assert said == predictor([row["words"] for row in rows])
    assert [row["words"] for row in said] == [row["words"] for row in rows]
    pairs = [p for a, b in zip(said, rows, strict=True) for p in zip(a["tags"], b["tags"], strict=True)]
    assert sum(a == b for a, b in pairs) / len(pairs) == pytest.approx(
        models["tag"]["test_accuracy"], abs=0.01
    )


def test_words_that_nothing_parts_are_tagged_as_they_were_learned(base, tmp_path):
    task = write_kind(tmp_path, "tag") | {"between": ""}
    values = {
        "run": {"folder": str(tmp_path / "run")},
        "base": {"path": str(base)},
        "tasks": [task],
        "adapt": {"length": 64, "epochs": 6, "learning_rate": 5e-3},
    }
    model = finetune(validate(values, FinetuneRecipe, folder=tmp_path, where="recipe.yaml"))["tasks"]["tag"]
    rows, predictor = rows_of("tag", 40, 1), Predictor(model["model"])
    said = predictor([row["words"] for row in rows])
    assert [row["words"] for row in said] == [row["words"] for row in rows]
    pairs = [p for a, b in zip(said, rows, strict=True) for p in zip(a["tags"], b["tags"], strict=True)]
    right = sum(a == b for a, b in pairs) / len(pairs)
    assert right == pytest.approx(model["test_accuracy"], abs=0.01)
    text = "".join(rows[0]["words"])
    whole = predictor([text])[0]  # of a text alone each token is a word
    assert "".join(whole["words"]) == text
    assert len(whole["words"]) == len(whole["tags"]) > 1
    assert None not in whole["tags"]
    cut = predictor([text * 30])[0]
    assert "".join(cut["words"]) == text * 30
    assert cut["tags"][-1] is None
    assert None not in cut["tags"][:-1]


def test_answers_and_embeddings(models):
    said = Predictor(models["generate"]["model"], length=8)(["A great film", "What a terrible bore it was"])
    assert all(isinstance(row["answer"], str) for row in said)
    vectors = Predictor(models["embed"]["model"])(["one", "one", "another text"])
    assert vectors[0]["embedding"] == pytest.approx(vectors[1]["embedding"], abs=1e-5)
    assert len(vectors[2]["embedding"]) == 32


def test_a_folder_that_is_no_model_is_one_line(tmp_path, models):
    with pytest.raises(InputError, match="there is no such file; give the folder of a released model"):
        Predictor(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForDreams"]}))
    with pytest.raises(InputError, match="is a LlamaForDreams; give a model that ends in"):
        Predictor(str(tmp_path))


def test_a_model_with_pickled_weights_alone_is_refused_unread(tmp_path, models):
    folder = tmp_path / "pickled"
    shutil.copytree(models["classify"]["model"], folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"no pickle at all: whoever reads it fails otherwise")
    with pytest.raises(InputError, match="holds pickled weights only"):
        Predictor(str(folder))


def test_rows_without_a_text_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one"}\n{"text": ""}\n')
    with pytest.raises(InputError, match=r"rows\.jsonl:2: column 'text': the text is empty"):
        list(texts_of(LabelledFile(path=str(path))))


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_files_are_answered_row_by_row_in_their_order(models, tmp_path):
    from raypretrain.finetuning.predicting import predict_files

    rows = rows_of("classify", 40, 1)
    for i in range(3):
        lines = [json.dumps(row | {"number": 40 * i + j}) + "\n" for j, row in enumerate(rows)]
        (tmp_path / f"part-{i}.jsonl").write_text("".join(lines), encoding="utf-8")
    to = tmp_path / "out" / "said.jsonl"
    file = LabelledFile(path=str(tmp_path / "part-*.jsonl"))
    assert (
        predict_files(models["classify"]["model"], file, str(to), processes=1, say=lambda line: None) == 120
    )
    said = [json.loads(line) for line in to.read_text(encoding="utf-8").splitlines()]
    assert [row["number"] for row in said] == list(range(120))
    expected = Predictor(models["classify"]["model"])([row["text"] for row in rows])
    assert [row["predicted"]["label"] for row in said[:40]] == [row["label"] for row in expected]
    assert [row["label"] for row in said[:40]] == [row["label"] for row in rows]
    assert said[0]["text"] == rows[0]["text"]
    with pytest.raises(InputError, match="no file matches"):
        predict_files(models["classify"]["model"], LabelledFile(path=str(tmp_path / "x*.csv")), str(to))


@pytest.mark.slow
def test_one_text_from_stdin_is_answered_without_ray(models):
    command = [sys.executable, "-m", "raypretrain.cli", "predict", models["classify"]["model"], "-"]
    done = subprocess.run(command, input="A great film.\n", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"label", "score"}
    empty = subprocess.run(command, input="\n", capture_output=True, text=True, timeout=120)
    assert (empty.returncode, empty.stderr) == (2, "raypretrain: stdin: the text is empty\n")
