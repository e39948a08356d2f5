"""Recipes: counts, paths, overrides, and what is said about a wrong key or value."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, ValidationError

from raypretrain.config import (
    Config,
    Count,
    Location,
    flatten,
    load_recipe,
    nearest,
    save_recipe,
    to_yaml,
)
from raypretrain.errors import RecipeError


class Source(Config):
    path: Location
    text: str = "text"
    weight: float | None = Field(default=None, gt=0)


class Corpus(Config):
    sources: list[Source] = Field(min_length=1)
    held_out: float = 0.01


class Training(Config):
    steps: Count | None = None
    tokens: Count = 1000
    objective: Literal["causal", "masked"] = "causal"
    bf16: bool = False


class Recipe(Config):
    corpus: Corpus
    training: Training = Training()
    extra: Training | None = None


GOOD = "corpus:\n  sources:\n    - path: data/*.jsonl\n"


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    return tmp_path / "recipe.yaml"


def load(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    return load_recipe(write(tmp_path, text), Recipe, overrides)


def message(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, text, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("written", "count"),
    [
        ("4096", 4096),
        ("1_000", 1000),
        ("5M", 5_000_000),
        ("64k", 64_000),
        ("1.5B", 1_500_000_000),
        ("2e9", 2_000_000_000),
        ("1e+3", 1000),
        ("20MB", 20_000_000),
        ("300b", 300_000_000_000),
        ("7B", 7_000_000_000),
        ("0.5T", 500_000_000_000),
        ("3.0", 3),
        ("0.3k", 300),
        ("' 12 '", 12),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_counts_are_understood(tmp_path, written, count):
    assert load(tmp_path, GOOD + f"training: {{tokens: {written}}}").training.tokens == count


@pytest.mark.parametrize(
    "written", ["5X", "M", "-5k", "1.5.2", "five", "1.5", "0.0001k", "yes", "[1]", "'1e999'"]
)
def test_what_is_no_count_is_refused(tmp_path, written):
    assert message(tmp_path, GOOD + f"training:\n  tokens: {written}\n").startswith(
        "recipe.yaml:5: training.tokens: "
    )


def test_a_recipe_that_says_nothing_but_its_sources_gets_every_default(tmp_path):
    recipe = load(tmp_path, GOOD)
    assert recipe.training == Training()
    assert recipe.corpus.held_out == 0.01


def test_a_relative_path_is_relative_to_the_recipe_and_a_url_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    paths = ["data/a", "../b", "/c", "s3://bucket/d", "~/e"]
    text = "corpus:\n  sources:\n" + "".join(f"    - path: {path}\n" for path in paths)
    (tmp_path / "jobs").mkdir()
    found = [source.path for source in load(tmp_path / "jobs", text).corpus.sources]
    jobs = tmp_path / "jobs"
    assert found == [f"{jobs}/data/a", f"{jobs}/../b", "/c", "s3://bucket/d", "/home/somebody/e"]


def test_a_recipe_named_by_a_relative_path_gets_absolute_paths(tmp_path, monkeypatch):
    write(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    assert load_recipe("recipe.yaml", Recipe).corpus.sources[0].path == f"{tmp_path}/data/*.jsonl"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("corpsu: {}\n" + GOOD, "recipe.yaml:1: unknown key 'corpsu'; did you mean 'corpus'?"),
        (
            GOOD + "training:\n  step: 5\n",
            "recipe.yaml:5: unknown key 'training.step'; did you mean 'steps'?",
        ),
        (
            GOOD + "      wieght: 5\n",
            "recipe.yaml:4: unknown key 'corpus.sources.0.wieght'; did you mean 'weight'?",
        ),
        (GOOD + "extra:\n  stpes: 5\n", "recipe.yaml:5: unknown key 'extra.stpes'; did you mean 'steps'?"),
        (GOOD + "training:\n  q: 5\n", "'training.q'; known here: steps, tokens, objective, bf16"),
        (
            "corpus:\n  sources:\n  - pat: x\n",
            "recipe.yaml:3: unknown key 'corpus.sources.0.pat'; did you mean 'path'?",
        ),
        (GOOD + "5: x\n", "recipe.yaml:4: 5: Keys should be strings"),
    ],
)
def test_a_misspelt_key_is_named_with_its_line_and_the_nearest_one(tmp_path, text, said):
    assert said in message(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training: {}\n", "recipe.yaml: the key 'corpus' is missing"),
        ("corpus: {}\n", "recipe.yaml:1: the key 'corpus.sources' is missing"),
        ("corpus:\n  sources:\n  - text: x\n", "recipe.yaml:3: the key 'corpus.sources.0.path' is missing"),
        ("corpus:\n  sources: []\n", "recipe.yaml:2: corpus.sources: List should have at least 1 item"),
        ("corpus:\n  sources: x\n", "recipe.yaml:2: corpus.sources: Input should be a valid list (got 'x')"),
        ("corpus:\n  sources: [x]\n", "recipe.yaml:2: corpus.sources.0: "),
        ("corpus: 5\n", "recipe.yaml:1: corpus: "),
        (
            GOOD + "      weight: heavy\n",
            "recipe.yaml:4: corpus.sources.0.weight: Input should be a valid number",
        ),
        (GOOD + "      weight: -1\n", "corpus.sources.0.weight: Input should be greater than 0 (got -1)"),
        (
            GOOD + "training:\n  objective: cuasal\n",
            "training.objective: Input should be 'causal' or 'masked'",
        ),
        (
            GOOD + "training:\n  bf16: maybe\n",
            "recipe.yaml:5: training.bf16: Input should be a valid boolean",
        ),
        (GOOD + "extra:\n  bf16: maybe\n", "recipe.yaml:5: extra.bf16: Input should be a valid boolean"),
        (GOOD + "training:\n", "recipe.yaml:4: training: "),
        ("- a\n", "recipe.yaml: a recipe is a mapping of keys to values"),
        ("", "recipe.yaml: the key 'corpus' is missing"),
        ("a: [1\nb: 2\n", "recipe.yaml:2: is not valid YAML"),
        ("a:\n\tb: 2\n", "recipe.yaml:2: is not valid YAML"),
        ("? [a]\n: 1\n", "recipe.yaml:1: is not valid YAML"),
    ],
)
def test_a_wrong_value_is_named_with_its_line_and_key(tmp_path, text, said):
    assert said in message(tmp_path, text)


def test_a_key_given_twice_is_refused(tmp_path):
    said = message(tmp_path, GOOD + "training: {steps: 1}\ntraining: {steps: 2}\n")
    assert said == "recipe.yaml:5: the key 'training' is given twice"
    said = message(tmp_path, GOOD + "training:\n  steps: 1\n  steps: 1\n")
    assert said == "recipe.yaml:6: the key 'training.steps' is given twice"


def test_an_anchor_and_a_merge_are_plain_yaml(tmp_path):
    text = GOOD + "training: &t\n  steps: 5\n  bf16: true\nextra:\n  <<: *t\n  steps: 7\n"
    recipe = load(tmp_path, text)
    assert (recipe.extra.steps, recipe.extra.bf16) == (7, True)
    text = GOOD + "training: &t\n  steps: 5\nextra:\n  <<: *t\n  setps: 7\n"
    assert "recipe.yaml:8: unknown key 'extra.setps'" in message(tmp_path, text)


@pytest.mark.parametrize("content", [None, b"\xff\xfe", "folder"])
def test_a_recipe_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"recipe\.yaml: (there is no such recipe|cannot be read)"):
        load_recipe(path, Recipe)


def test_overrides_win_in_order_and_are_yaml(tmp_path):
    recipe = load(
        tmp_path,
        GOOD + "training: {steps: 5}\n",
        "training.steps=7",
        "training.steps=8",
        "training.bf16=true",
        "corpus.sources.0.weight=2.5",
        "corpus.sources.0.path=other/x=y",
        "extra.tokens=5M",
        "corpus.held_out=0.1",
    )
    assert (recipe.training.steps, recipe.training.bf16) == (8, True)
    assert recipe.corpus.sources[0] == Source(path=f"{Path.cwd()}/other/x=y", weight=2.5)
    assert recipe.extra == Training(tokens=5_000_000)
    assert load(tmp_path, GOOD, "training.steps=null").training.steps is None
    assert load(tmp_path, GOOD, "corpus={sources: [{path: /x}]}").corpus.sources[0].path == "/x"


def test_an_override_makes_a_recipe_out_of_an_empty_file(tmp_path):
    assert load(tmp_path, "", "corpus.sources=[{path: /x}]").corpus.sources == [Source(path="/x")]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.setps=5", "--set training.setps: unknown key 'training.setps'; did you mean 'steps'?"),
        ("trainning.steps=5", "--set trainning: unknown key 'trainning'; did you mean 'training'?"),
        ("training.steps=many", "--set training.steps: 'many' is not a count"),
        ("training.steps", "--set: 'training.steps' is not an override; write --set a.b=c"),
        ("=5", "--set: '=5' is not an override"),
        ("training..steps=5", "--set training.: unknown key"),
        ("training.steps=[1", "--set training.steps: '[1' is not a YAML value"),
        ("corpus.sources.1.path=x", "--set corpus.sources.1.path: the list has 1 entries, '1' is none"),
        ("corpus.sources.first.path=x", "the list has 1 entries, 'first' is none"),
        (
            "corpus.sources.0.path.x=1",
            "--set corpus.sources.0.path.x: 'corpus.sources.0.path' has no keys inside",
        ),
        (
            "corpus={sources: [{pth: 1}]}",
            "--set corpus.sources.0.pth: unknown key 'corpus.sources.0.pth'; did you mean 'path'?",
        ),
    ],
)
def test_a_wrong_override_is_named(tmp_path, override, said):
    assert said in message(tmp_path, GOOD, override)


def test_a_saved_recipe_is_the_same_when_loaded_from_elsewhere(tmp_path):
    recipe = load(tmp_path, GOOD + "training: {tokens: 5M, objective: masked}\n", "corpus.held_out=0.25")
    (tmp_path / "run").mkdir()
    save_recipe(recipe, tmp_path / "run" / "recipe.yaml")
    assert load_recipe(tmp_path / "run" / "recipe.yaml", Recipe) == recipe
    assert list(flatten(recipe.model_dump()))[:2] == ["corpus.sources.0.path", "corpus.sources.0.text"]
    assert "tokens: 5000000" in to_yaml(recipe)


def test_flattening_gives_every_leaf_its_path():
    values = {"a": {"b": 1, "c": [True, {"d": None}]}, "e": [], "f": {}}
    assert flatten(values) == {"a.b": 1, "a.c.0": True, "a.c.1.d": None, "e": [], "f": {}}


def test_the_nearest_word_is_one_that_resembles():
    assert nearest("learning_rat", ["steps", "learning_rate"]) == "learning_rate"
    assert nearest("zzz", ["steps", "learning_rate"]) is None


def test_settings_cannot_be_changed_after_the_fact():
    with pytest.raises(ValidationError):
        Training().steps = 5
