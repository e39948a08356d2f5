"""A kind of task that a user has written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_task import BAD, GOOD, sentences

from raypretrain.errors import InputError
from raypretrain.finetuning.finetune import finetune
from raypretrain.finetuning.predict import Predictor


@pytest.fixture
def stars(tmp_path: Path) -> dict[str, object]:
    rows = []
    for i, (text, _) in enumerate(sentences(200, seed=0)):
        words = text.split()
        good, bad = (sum(word in moods for word in words) for moods in (GOOD, BAD))
        rows.append({"text": text, "label": 3 + 2 * (good > 0) - 2 * (bad > 0), "number": i})
    path = tmp_path / "stars.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"kind": "own_kind:Stars", "train": {"path": str(path)}, "test": None, "test_share": 0.2}


@pytest.mark.parametrize("way", ["full", "head"])
def test_it_is_trained_released_and_asked_as_the_others(recipe, stars, way):
    row = finetune(recipe(task=stars, adapt={"way": way, "epochs": 6, "learning_rate": 5e-3}))["tasks"][
        "mood"
    ]
    assert row["metric"] == "within_one"
    assert row["test_loss"] < 4.5  # always three stars: 4
    assert set(Predictor(row["model"])(["A great film"])[0]) == {"value"}
    assert "| within_one (decides) |" in (Path(row["model"]) / "README.md").read_text()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("classfy", "there is no kind of task 'classfy'; did you mean 'classify'?"),
        ("own_kind:Sters", "'own_kind:Sters' cannot be imported"),
        ("no.such.module:Kind", "'no.such.module:Kind' cannot be imported"),
        ("pathlib:Path", "'pathlib:Path' is no Kind"),
    ],
)
def test_what_is_no_kind_is_one_line(recipe, stars, kind, message):
    with pytest.raises(InputError) as caught:
        finetune(recipe(task=stars | {"kind": kind}))
    assert message in str(caught.value)
