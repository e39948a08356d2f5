"""``model.from``: what a recipe takes from a base model, and what does not go with it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bases import recipe, write_base
from tokenizer_kinds import tokenizer_of

from raypretrain.config import to_yaml
from raypretrain.errors import InputError, RaypretrainError
from raypretrain.models.families import build
from raypretrain.training.basemodel import base_weights, bring_base
from raypretrain.training.prepare import check_tokenizer
from raypretrain.training.runfolder import RunFolder
from raypretrain.training.vocabulary import given_tokenizer


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


def test_sizes_and_tokenizer_are_the_base_models(base: Path, tmp_path: Path) -> None:
    made = recipe(tmp_path, model={"from": "base"}, sequences={"length": 64})
    shape = made.model.shape(tokenizer_of("bpe").vocabulary, 64)
    assert (shape.width, shape.layers, shape.max_length, shape.vocabulary) == (32, 1, 128, 1500)
    assert made.model.base == made.tokenizer.path == str(base)
    check_tokenizer(made, tokenizer_of("bpe"))
    assert made.objective == "causal"


def test_rotary_positions_go_on_beyond_those_of_the_base_and_may_be_scaled(
    base: Path, tmp_path: Path
) -> None:
    scaling = {"kind": "linear", "factor": 4}
    model = {"from": "base", "rope_scaling": scaling, "rope_theta": 1e6}
    shape = recipe(tmp_path, model=model, sequences={"length": 512}).model.shape(1500, 512)
    assert (shape.max_length, shape.rope_theta, shape.rope_scaling.factor) == (512, 1e6, 4)


def test_a_base_goes_on_with_adamw_unless_the_recipe_says_otherwise(base: Path, tmp_path: Path) -> None:
    assert recipe(tmp_path).training.optimizer == "muon"
    assert recipe(tmp_path, model={"from": "base"}).training.optimizer == "adamw"
    made = recipe(tmp_path, model={"from": "base"}, training={"optimizer": "muon", "steps": 3})
    assert (made.training.optimizer, made.training.steps) == ("muon", 3)


def test_an_encoder_learns_what_is_hidden(tmp_path: Path) -> None:
    write_base(tmp_path / "bert", "bert-1m", "like-bert")
    made = recipe(
        tmp_path, model={"from": "bert"}, sequences={"length": 64}, training={"mask": {"rate": 0.3}}
    )
    assert made.objective == "masked"
    check_tokenizer(made, tokenizer_of("like-bert"))


def test_the_recipe_as_saved_is_the_same_recipe(base: Path, tmp_path: Path) -> None:
    made = recipe(tmp_path, model={"from": "base"}, tokenizer={"eos": "</s>", "path": None})
    assert made.tokenizer.path == str(base)
    text = to_yaml(made)
    assert f"from: {base}" in text
    import yaml

    assert recipe(tmp_path, **yaml.safe_load(text)) == made


def test_a_run_knows_its_base_when_that_is_gone(base: Path, tmp_path: Path) -> None:
    made = recipe(tmp_path, model={"from": "base"}, run={"folder": "run"})
    folder = RunFolder(made.run.folder)
    folder.open(made)
    bring_base(made, folder, print)
    shutil.rmtree(base)
    assert folder.read_recipe().model.shape(1500, 64) == made.model.shape(1500, 64)


WRONG = [
    ({"model": {"from": "base", "preset": "llama-1m"}}, "model.preset: the base model of model.from says"),
    (
        {"model": {"from": "base", "width": 64}},
        "model.width: the base model of model.from says what the network is",
    ),
    (
        {"model": {"from": "nowhere"}},
        "nowhere/config.json: there is no such file; give model.from the folder",
    ),
    ({"model": {"from": "file:///models/base"}}, "model.from: write the folder of a base model as a path"),
    ({"model": {"form": "base"}}, "unknown key 'model.form'; did you mean 'from'?"),
    (
        {"model": {"from": "base"}, "tokenizer": {"path": "gpt2"}},
        "tokenizer.path: the ids of another tokenizer are",
    ),
    ({"model": {"from": "base"}, "training": {"objective": "masked"}}, "masked is nothing for model.from: "),
    (
        {"model": {"from": "gpt2"}, "sequences": {"length": 256}},
        "256 tokens are more than the 128 positions of model",
    ),
    (
        {"model": {"from": "gpt2", "rope_theta": 1e6}},
        "a base model of the family 'gpt2' has no rope_theta to set",
    ),
]


@pytest.mark.parametrize(("rooms", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_does_not_go_with_a_base_is_one_line(rooms: dict[str, Any], message: str, base: Path) -> None:
    write_base(base.parent / "gpt2", "gpt2-1m")
    with pytest.raises(RaypretrainError, match=re.escape(message)) as caught:
        recipe(base.parent, **rooms)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_more_tokens_than_rows_is_refused(tmp_path: Path) -> None:
    write_base(tmp_path / "narrow", rows=1000)
    made = recipe(tmp_path, model={"from": "narrow"})
    with pytest.raises(InputError, match=r"has 1,500 tokens, and model\.from: .*narrow rows for 1,000"):
        given_tokenizer(made)


def test_rows_beyond_the_tokenizer_stay(tmp_path: Path) -> None:
    write_base(tmp_path / "padded", rows=1536)
    made = recipe(tmp_path, model={"from": "padded"})
    given = given_tokenizer(made)
    assert given is not None
    assert (given.vocabulary, given.added) == (1500, 0)
    assert made.model.shape(1500, 64).vocabulary == 1536


def test_the_weights_are_those_that_the_run_was_begun_with(base: Path, tmp_path: Path) -> None:
    made = recipe(tmp_path, model={"from": "base"}, run={"folder": "run"})
    folder = RunFolder(made.run.folder)
    folder.open(made)
    bring_base(made, folder, print)
    model = build(made.model.shape(1500, 64))
    model.load_state_dict(base_weights(folder, 1500))
    expected = build(made.model.shape(1500, 64))
    expected.init_weights(5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    path = base / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors: is not the file that the run was begun with"):
        base_weights(folder, 1500)
    assert json.loads(folder.base.read_text())["folder"] == str(base)
