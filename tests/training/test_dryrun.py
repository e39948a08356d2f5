"""A dry run says what a recipe comes to, and touches nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from runs import write_recipe

from raypretrain.config import load_recipe
from raypretrain.errors import ClusterError, InputError, RecipeError
from raypretrain.models.llama import Llama
from raypretrain.training import dryrun
from raypretrain.training.cluster import size_up
from raypretrain.training.dryrun import dry_run, memory
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder


@pytest.fixture
def recipe(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return write_recipe(tmp_path / "jobs", corpus, steps=40)


def resolve(recipe: Path, *overrides: str) -> dict[str, Any]:
    return dry_run(load_recipe(recipe, PretrainRecipe, overrides))


def tree(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_nothing_is_touched(recipe: Path, corpus: Path, tmp_path: Path) -> None:
    before = tree(tmp_path), tree(corpus)
    resolved = resolve(recipe)
    assert resolved["run"] == str(tmp_path / "jobs" / "runs" / "tiny")
    assert not Path(resolved["run"]).exists()
    assert (tree(tmp_path), tree(corpus)) == before


def test_ray_is_not_started(recipe: Path) -> None:
    import ray

    was_running = ray.is_initialized()  # by another test
    resolve(recipe)
    assert ray.is_initialized() == was_running


def test_it_says_what_a_run_comes_to(recipe: Path, corpus: Path) -> None:
    resolved = resolve(recipe)
    shards = list(corpus.iterdir())
    assert resolved["corpus"] == {"files": 4, "bytes": sum(p.stat().st_size for p in shards)}
    training = resolved["training"]
    assert (training["steps"], training["tokens_per_step"], training["tokens"]) == (40, 12 * 64, 40 * 12 * 64)
    assert (training["evaluate_every"], training["checkpoint_every"]) == (20, 10)
    assert resolved["model"]["vocabulary"] == 512
    compute = resolved["compute"]
    assert (compute["workers"], compute["device"], compute["cpus_per_worker"]) == (2, "cpu", 0.5)
    json.dumps(resolved)


def test_the_parameters_are_those_of_the_model(recipe: Path) -> None:
    loaded = load_recipe(recipe, PretrainRecipe)
    model = Llama(loaded.model.shape(512, 64))
    assert resolve(recipe)["model"]["parameters"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("zero", "precision", "weights", "gradients", "optimizer"),
    [
        (0, "fp32", 4, 4, 8),
        (1, "fp32", 4, 4, 6),
        (2, "fp32", 4, 2, 6),
        (3, "fp32", 2, 2, 4),
        (0, "bf16", 2, 2, 12),
    ],
)
def test_the_memory_of_weights_gradients_and_optimizer_follows_zero(
    recipe: Path, zero: int, precision: str, weights: int, gradients: int, optimizer: int
) -> None:
    """Bytes a parameter on each of two workers: by the ZeRO paper, and stages 1 and 2 copy the weights in fp32, too."""
    overrides = (f"compute.zero={zero}", f"compute.precision={precision}")
    loaded = load_recipe(recipe, PretrainRecipe, overrides)
    shape = loaded.model.shape(512, 64)
    found = memory(loaded, size_up(loaded, {"CPU": 2}), shape)
    parts = [found["weights"], found["gradients"], found["optimizer"]]
    assert parts == [shape.parameters * n for n in (weights, gradients, optimizer)]
    assert found["total"] == pytest.approx(sum(v for k, v in found.items() if k != "total"), abs=5)


@pytest.mark.parametrize(
    ("workers", "gpus"), [("null", 1), ("4", 4), ("[3, 12]", 3), ("[5, 12]", 6)], ids=["any", "4", "3+", "5+"]
)
def test_a_recipe_for_gpus_that_are_not_here_is_reckoned_for_the_fewest_that_it_asks_for(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, workers: str, gpus: int
) -> None:
    here = {"CPU": 2.0, "GPU": 0.0}
    monkeypatch.setattr(dryrun, "local_resources", lambda: here)
    given = ("compute.device=cuda", f"compute.workers={workers}", "compute.cpus_per_worker=null")
    resolved = resolve(recipe, *given)
    assert resolved["assumed"] == {"CPU": 8 * gpus, "GPU": gpus}
    assert (resolved["compute"]["workers"], resolved["compute"]["precision"]) == (gpus, "bf16")
    assert resolve(recipe)["assumed"] is None  # it asks for none
    here.update(CPU=64.0, GPU=float(gpus))
    assert resolve(recipe, *given)["assumed"] is None


@pytest.mark.parametrize(
    ("override", "error", "said"),
    [
        ("compute.workers=12", ClusterError, "the cluster has 2"),
        ("corpus.sources.0.path=/nothing/*.jsonl", InputError, "/nothing/*.jsonl: no file matches"),
        ("corpus.sources.0.text=body", InputError, "body"),
        ("tokenizer.path=/nothing", InputError, "/nothing: there is no such tokenizer"),
    ],
)
def test_it_refuses_what_a_start_would_refuse(
    recipe: Path, override: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as caught:
        resolve(recipe, override)
    assert said in str(caught.value)


def test_it_refuses_a_recipe_that_has_changed_since_the_start(recipe: Path) -> None:
    loaded = load_recipe(recipe, PretrainRecipe)
    folder = RunFolder(loaded.run.folder)
    folder.open(loaded)
    folder.metrics.write_text('{"step": 1}\n')
    resolve(recipe)
    with pytest.raises(RecipeError, match=r"run\.seed: 3 → 4"):
        resolve(recipe, "run.seed=4")
