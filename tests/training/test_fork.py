"""Safe changes of a run, and forks of it: real runs of one worker, and what is refused before anything starts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from runs import fingerprints, metrics, run, write_recipe

from raypretrain.config import load_recipe
from raypretrain.errors import RaypretrainError, RecipeError, RunError
from raypretrain.training.fork import fork
from raypretrain.training.metrics import read_log
from raypretrain.training.recipe import PretrainRecipe

pytestmark = [pytest.mark.ray, pytest.mark.slow]

COMMON = ("compute.workers=1", "training.schedule.kind=constant", "training.schedule.warmup=0")
COMMON += ("training.evaluation.every=1K", "training.checkpoint.every=1K")
STEPS, MORE = 6, 9


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"), corpus, steps=STEPS)


@pytest.fixture(scope="module")
def old(cluster: str, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a constant learning rate."""
    folder = tmp_path_factory.mktemp("runs") / "old"
    assert run(recipe, folder, *COMMON).status == "finished"
    return folder


@pytest.fixture(scope="module")
def slower(old: Path, recipe: Path) -> Path:
    """Its fork with another learning rate, longer by three steps."""
    before = content(old)
    changes = (f"training.steps={MORE}", "training.learning_rate=1e-4")
    made = make(recipe, old, old.parent / "slower", *changes)
    assert run(recipe, made, *COMMON, *changes).status == "finished"
    assert content(old) == before
    return made


@pytest.fixture(scope="module")
def longer(slower: Path, old: Path, recipe: Path) -> Path:
    """The old run itself, longer by three steps."""
    assert run(recipe, old, *COMMON, f"training.steps={MORE}").status == "finished"
    return old


def make(recipe: Path, old: Path, new: Path, *overrides: str) -> Path:
    loaded = load_recipe(recipe, PretrainRecipe, [f"run.folder={old}", *COMMON, *overrides])
    assert fork(loaded, new, print).run.folder == str(new)
    return new


def content(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_fork_goes_on_at_its_parents_step_with_its_parents_state(slower: Path, longer: Path) -> None:
    assert fingerprints(slower) == fingerprints(longer)
    losses = [[row["loss"] for row in metrics(folder)] for folder in (slower, longer)]
    # The loss of the first step is that of the weights before it; only what follows learned at another rate.
    assert losses[0][: STEPS + 1] == losses[1][: STEPS + 1]
    assert all(a != b for a, b in zip(losses[0][STEPS + 1 :], losses[1][STEPS + 1 :], strict=True))
    assert [row["learning_rate"] for row in metrics(slower)] == [3e-3] * STEPS + [1e-4] * (MORE - STEPS)


def test_a_fork_says_where_it_comes_from(slower: Path, longer: Path) -> None:
    parent = json.loads((slower / "parent.json").read_text())
    assert (parent["run"], parent["step"]) == (str(longer), STEPS)
    assert parent["checkpoint"] == f"step-{STEPS:08d}"
    assert parent["changed"] == {
        "training.learning_rate": [0.003, 1e-4],
        "training.steps": [STEPS, MORE],
    }


@pytest.mark.long
def test_a_run_made_longer_is_what_a_long_one_would_have_been(
    longer: Path, recipe: Path, tmp_path: Path
) -> None:
    run(recipe, tmp_path / "long", *COMMON, f"training.steps={MORE}")
    assert fingerprints(longer) == fingerprints(tmp_path / "long")
    assert [r["loss"] for r in metrics(longer)] == [r["loss"] for r in metrics(tmp_path / "long")]
    saved = load_recipe(longer / "recipe.yaml", PretrainRecipe, [])
    assert saved.training.steps == MORE  # the saved recipe follows
    assert json.loads((longer / "result.json").read_text())["steps"] == MORE


def test_a_fork_with_other_batches_begins_at_step_0_with_its_parents_weights(
    longer: Path, recipe: Path
) -> None:
    changes = ("training.global_batch=6", "training.steps=2", "compute.zero=0")
    made = make(recipe, longer, longer.parent / "anew", *changes)
    assert run(recipe, made, *COMMON, *changes).status == "finished"
    assert [row["step"] for row in metrics(made)] == [1, 2]
    evaluations = [read_log(folder / "evaluations.jsonl") for folder in (longer, made)]
    assert evaluations[1][0]["step"] == 0
    assert evaluations[1][0]["held_out_loss"] == pytest.approx(evaluations[0][-1]["held_out_loss"], rel=1e-5)
    tokenizers = [(folder / "corpus" / "tokenizer.model").read_bytes() for folder in (longer, made)]
    assert tokenizers[0] == tokenizers[1]
    assert json.loads((made / "parent.json").read_text())["takes"] == "weights"


def test_the_same_command_again_goes_on_with_the_fork(slower: Path, longer: Path, recipe: Path) -> None:
    before = content(slower)
    changes = (f"training.steps={MORE}", "training.learning_rate=1e-4")
    make(recipe, longer, slower, *changes)
    assert content(slower) == before
    with pytest.raises(RunError, match=f"is a fork of {longer}"):
        make(recipe, longer.parent / "another", slower, *changes)


@pytest.mark.parametrize("change", ["model.layers=3", "tokenizer.vocabulary=600"])
def test_another_model_or_tokenizer_is_refused(
    longer: Path, recipe: Path, tmp_path: Path, change: str
) -> None:
    with pytest.raises(RecipeError, match="keeps its parent's model and tokenizer") as caught:
        make(recipe, longer, tmp_path / "new", change)
    assert change.split("=")[0] in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_somebodys_folder_is_refused(longer: Path, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="is not empty"):
        make(recipe, longer, tmp_path, "training.clip=0")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_never_ran_has_nothing_to_fork(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(RaypretrainError, match="is no run"):
        make(recipe, tmp_path / "none", tmp_path / "new")
