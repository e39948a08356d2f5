"""The recipes of jobs/ that pretrain: what they say of themselves, and that each leads to a released model."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from bases import write_base
from command import Command
from proteins import proteins, write_clusters, write_fasta

from raypretrain.config import load_recipe
from raypretrain.models.config import PRESETS
from raypretrain.training.cluster import local_resources
from raypretrain.training.pretrain import pretrain
from raypretrain.training.recipe import PretrainRecipe

JOBS = Path(__file__).parents[1] / "jobs"
RECIPES = sorted([*JOBS.glob("pretrain-*.yaml"), *JOBS.glob("adapt-*.yaml")])
QUICK = ("pretrain-small", "pretrain-proteins", "pretrain-bert-base", "adapt-code")
"""Of these a run in every test; of the others in the long ones."""
TABLE = (JOBS / "README.md").read_text(encoding="utf-8")

MEMORY = 80e9
"""Bytes of an H100."""

SAYS = re.compile(
    r"(?P<hours>[\d,.]+) (?:H100|core)-hours(?:, about (?P<cost>[\d,.]+) USD)?[^`]*"
    r"says `raypretrain (?P<command>plan [^`]+)`"
)
"""What a header says of the time, and by which command."""

ON = re.compile(r": (?P<hours>[\d.,]+) hours on (?P<workers>\d+) of them")

SMALLER = {
    "llama": "llama-1m",
    "gpt2": "gpt2-1m",
    "bert": "bert-1m",
    "modernbert": "modernbert-1m",
    "esm": "esm2-1m",
}
"""A preset of the same family that two cores can train."""

STEPS = 12
SMALL = (
    *("compute.device=cpu", "compute.workers=[1, 2]", "compute.cpus_per_worker=0.5", "compute.standby=false"),
    *("training.tokens=null", f"training.steps={STEPS}", "training.global_batch=8"),
    *("sequences.length=64", "sequences.window=100K", "training.evaluation.sequences=8"),
)


def named(path: Path) -> str:
    return path.stem


def number(text: str) -> float:
    return float(text.replace(",", ""))


def about(job: Path) -> str:
    """The lines that a recipe begins with, up to an empty one: what, on what, how long by which command."""
    lines = [line.removeprefix("#").strip() for line in job.read_text(encoding="utf-8").splitlines()]
    return " ".join(lines[: lines.index("")])


def row(job: Path) -> list[str]:
    """The cells of the recipe in the table to choose from."""
    (found,) = (line for line in TABLE.splitlines() if line.startswith(f"| [{job.name}]({job.name}) |"))
    return [cell.strip() for cell in found.strip("|").split("|")]


@pytest.fixture
def overrides(tmp_path: Path, corpus: Path):
    """The user's part: where the corpus is, where the run is to be, and the base model of a recipe that has one."""

    def of(job: Path) -> list[str]:
        values = yaml.safe_load(job.read_text(encoding="utf-8"))
        given, sources = [f"run.folder={tmp_path}/run"], values["corpus"]["sources"]
        if values.get("tokenizer", {}).get("kind") == "amino-acids":
            texts = {f"P{i:03d}": protein for i, protein in enumerate(proteins(400, 50, 200))}
            given += [
                f"corpus.sources.0.path={write_fasta(tmp_path / 'all.fasta', texts)}",
                "corpus.held_out=0.05",
            ]
            families = [[*texts][i : i + 4] for i in range(0, len(texts), 4)]
            if "clusters" in sources[0]:
                found = write_clusters(tmp_path / "clusters.tsv", families)
                given.append(f"corpus.sources.0.clusters={found}")
            return given
        given += [f"corpus.sources.{i}.path={corpus}/*.jsonl" for i in range(len(sources))]
        if "from" in values["model"]:
            given.append(f"model.from={write_base(tmp_path / 'base', kind='like-gpt2', length=1024)}")
        return given

    return of


def test_every_recipe_is_in_the_table_and_the_table_names_no_other() -> None:
    listed = re.findall(r"^\| \[([\w-]+\.yaml)\]\(\1\) \|", TABLE, re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in JOBS.glob("*.yaml"))


@pytest.mark.parametrize("job", sorted(JOBS.glob("*.yaml")), ids=named)
def test_every_recipe_begins_with_what_on_what_and_how_long(job: Path) -> None:
    said = about(job)
    assert re.search(r"[Tt]wo cores|GPU", said)
    assert re.search(r"in\s+minutes|hour", said)


@pytest.mark.parametrize("job", RECIPES, ids=named)
def test_a_dry_run_resolves_it_on_a_machine_without_its_gpus(job: Path, overrides, command: Command) -> None:
    given = [part for override in overrides(job) for part in ("--set", override)]
    status, out, error = command.run("pretrain", job, *given, "--dry-run", "--json")
    assert (status, error) == (0, "")
    resolved = json.loads(out)
    workers = load_recipe(job, PretrainRecipe, overrides(job)).compute.workers
    if isinstance(workers, tuple) and not local_resources()["GPU"]:
        assert resolved["assumed"]["GPU"] == resolved["compute"]["workers"] == workers[0]
        assert resolved["compute"]["precision"] == "bf16"
        assert resolved["memory_per_worker"]["total"] < 0.8 * MEMORY  # with room for what is not reckoned
    assert not Path(resolved["run"]).exists()
    assert command.run("pretrain", job, *given, "--dry-run")[0] == 0


@pytest.mark.parametrize("job", sorted(JOBS.glob("*.yaml")), ids=named)
def test_its_header_says_what_the_planner_says(job: Path, command: Command, tmp_path: Path) -> None:
    said = SAYS.search(about(job))
    assert said, about(job)
    words = shlex.split(said["command"])
    assert words[1] == f"jobs/{job.name}"
    (tmp_path / "jobs").mkdir()  # away from data and runs that may lie beside the recipes here
    words[1] = str(shutil.copy(job, tmp_path / "jobs"))
    found = json.loads(command.run(*words, "--json")[1])
    whole = (found.get("search") or {}).get("at_most") or found["run"]
    assert found["memory"]["fits"]
    assert number(said["hours"]) == pytest.approx(whole["gpu_hours"], rel=0.1)
    if said["cost"]:
        assert number(said["cost"]) == pytest.approx(found["money"]["gpus"], rel=0.1)
        *_, time, price, _ = row(job)
        assert said["hours"] in time
        assert said["cost"] in price
    if together := ON.search(about(job)):
        assert int(together["workers"]) == found["gpu"]["number"]
        assert number(together["hours"]) == pytest.approx(found["run"]["hours"], rel=0.1)
        least, most = load_recipe(job, PretrainRecipe).compute.workers  # type: ignore[misc]
        assert least <= found["gpu"]["number"] <= most
        assert f"{least} to {most} H100" in about(job)
        assert f"{least} to {most} H100" in row(job)[2]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    "job",
    [pytest.param(job, marks=() if named(job) in QUICK else pytest.mark.long) for job in RECIPES],
    ids=named,
)
def test_at_a_small_size_it_leads_to_a_released_model(
    job: Path, overrides, cluster: str, tmp_path: Path
) -> None:
    given = [*overrides(job), *SMALL]
    recipe = load_recipe(job, PretrainRecipe, overrides(job))
    if not recipe.model.base:
        family = PRESETS[recipe.model.preset or ""].family
        given += [f"model.preset={SMALLER[family]}", "tokenizer.vocabulary=512", "tokenizer.sample=200K"]
    if recipe.training.batch_warmup.first:
        given += ["training.batch_warmup.first=2", "training.batch_warmup.steps=6"]
    said: list[dict[str, Any]] = []
    outcome = pretrain(load_recipe(job, PretrainRecipe, given), said.append)
    assert (outcome.status, outcome.step) == ("finished", STEPS)
    config = json.loads((outcome.folder / "model" / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == [recipe.model.shape(512, 64).architecture]
    assert (outcome.folder / "model" / "model.safetensors").is_file()
    assert (outcome.folder / "model" / "README.md").is_file()
