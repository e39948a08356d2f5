"""Population based training: the worst go on from the state of the best, with other settings."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from interrupted import ON_A_CLUSTER
from safetensors.torch import load_file

from raypretrain.config import save_recipe
from raypretrain.errors import RecipeError, RunError
from raypretrain.finetuning.dryrun import dry_run
from raypretrain.finetuning.history import history, record, settings_at_end
from raypretrain.finetuning.search import SearchResult, search
from raypretrain.finetuning.space import CHANGEABLE, KEYS, changed
from raypretrain.finetuning.trial import run_trial
from raypretrain.finetuning.work import Work, prepare

RATES = {"log_uniform": [1e-7, 3e-3]}


def population(recipe: Any, adapt: dict[str, Any] | None = None, **rooms: Any) -> Any:
    settings = {"epochs": 3, "learning_rate": RATES, "warm_head": False} | (adapt or {})
    room = {"scheduler": "pbt", "trials": 4, "metric": "validation_loss", "rival": False}
    return recipe(adapt=settings, search=room | rooms.pop("search", {}), **rooms)


@pytest.mark.parametrize(
    ("adapt", "room", "message"),
    [
        ({}, {"searcher": "tpe"}, "pbt changes what searcher: tpe would learn from; take searcher: random"),
        ({"learning_rate": 1e-3}, {}, "pbt needs a key with choice, uniform or log_uniform to change"),
        ({"lora": {"rank": {"choice": [4, 8]}}}, {}, "pbt cannot change 'lora.rank' in the middle of a trial; give"),
        ({"pooling": {"choice": ["mean", "last"]}}, {}, "pbt cannot change 'pooling' in the middle of a trial"),
        ({}, {"concurrency": 2}, "pbt lets all trials of a population take turns; leave concurrency out"),
        ({}, {"trials": 1}, "search.scheduler: pbt has nothing to exchange: it needs search.trials of 2 or more"),
        ({"epochs": 1}, {}, "pbt has nothing to exchange"),
        ({"way": "head"}, {}, "pbt has nothing to exchange"),
        ({"weight_decay": {"uniform": [-9, 0.1]}}, {}, "space.weight_decay: Input should be greater than"),
    ],
)  # fmt: skip
def test_what_a_population_cannot_be_is_refused_in_a_line(recipe, adapt, room, message) -> None:
    with pytest.raises(RecipeError) as caught:
        population(recipe, adapt, search=room)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_trials_of_several_workers_are_no_population(recipe) -> None:
    said = r"^compute\.workers_per_trial: search\.scheduler: pbt wants trials of one process, .*; set it to 1, or take"
    with pytest.raises(RecipeError, match=said):
        population(recipe, compute={"workers_per_trial": 2})


def test_what_can_change_is_a_key_of_adapt() -> None:
    assert set(CHANGEABLE) <= set(KEYS)


def test_a_trial_of_a_population_is_not_the_one_that_trains_alone(recipe) -> None:
    def names(wanted: Any) -> list[str]:
        return [trial.id for trial in prepare(wanted, wanted.trials()).trials]

    whole = names(population(recipe))
    assert names(population(recipe)) == whole
    assert not set(whole) & set(names(population(recipe, search={"scheduler": "none"})))
    assert not set(whole) & set(names(population(recipe, search={"trials": 5})))


@pytest.mark.parametrize(("way", "precision"), [("lora", "fp32"), ("lora", "bf16"), ("full", "bf16")])
def test_a_trial_goes_on_from_its_state_as_if_it_had_not_stopped(recipe, tmp_path, way, precision) -> None:
    adapt = {"way": way, "lora": {"dropout": 0.2}, "epochs": 3, "patience": 3, "learning_rate": 3e-3}
    if way != "lora":
        del adapt["lora"]
    work, start, tokens = _prepared(recipe(adapt=adapt, compute={"precision": precision}))
    [trial] = work.trials
    through, halfway = tmp_path / "through", tmp_path / "halfway"

    def keep(line: dict[str, Any], save: Any) -> None:
        (tmp_path / f"state-{line['epoch']}").mkdir()
        save(tmp_path / f"state-{line['epoch']}")

    whole = run_trial(start, tokens, trial.adapt, through, report=keep)
    halfway.mkdir()
    (halfway / "metrics.jsonl").write_text("".join((through / "metrics.jsonl").open().readlines()[:2]))
    rest = run_trial(start, tokens, trial.adapt, halfway, going_on=tmp_path / "state-2")
    timed = {"seconds", "cpu_hours", "gpu_hours"}
    assert {k: v for k, v in rest.items() if k not in timed} == {
        k: v for k, v in whole.items() if k not in timed
    }
    assert [line["epoch"] for line in _lines(halfway)] == [1, 2, 3]
    assert rest["seconds"] > _lines(through)[1]["seconds"]
    one, other = (load_file(folder / "trained.safetensors") for folder in (through, halfway))
    assert all((one[name] == other[name]).all() for name in one)


def test_patience_begins_anew_with_anothers_state(recipe, tmp_path) -> None:
    adapt = {
        "epochs": 6,
        "patience": 1,
        "learning_rate": 1e-9,
        "head_learning_rate": 1e-12,
        "warm_head": False,
    }
    work, start, tokens = _prepared(recipe(adapt=adapt))
    [trial] = work.trials
    states = []

    def keep(line: dict[str, Any], save: Any) -> None:
        states.append(tmp_path / f"state-{line['epoch']}")
        states[-1].mkdir()
        save(states[-1])

    ended = run_trial(start, tokens, trial.adapt, tmp_path / "donor", report=keep)
    assert ended["epochs"] == len(states) < 6
    again = run_trial(start, tokens, trial.adapt, tmp_path / "donor", going_on=states[-1])
    assert again["epochs"] == ended["epochs"]
    assert again["validation_loss"] == ended["validation_loss"]
    other = run_trial(
        start, tokens, changed(trial.adapt, {"learning_rate": 3e-3}), tmp_path / "other", going_on=states[-1]
    )
    assert other["epochs"] > ended["epochs"]


def _prepared(wanted: Any) -> tuple[Work, Any, Any]:
    work = prepare(wanted, [wanted.adapt])
    [tokens] = work.tokens([(trial.task, trial.adapt) for trial in work.trials]).values()
    return work, work.start(), tokens


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_the_worst_go_on_from_the_best_and_rows_say_with_what_they_ended(recipe, tmp_path) -> None:
    wanted = population(recipe)
    events: list[dict[str, Any]] = []
    found = search(wanted, events.append)
    assert [row["status"] for row in found.rows] == ["finished"] * 4
    folder = tmp_path / "run" / "trials"
    changes = {row["trial"]: history(folder / row["trial"]) for row in found.rows}
    assert sum(map(len, changes.values())) == 2  # after each epoch but the last, one of four
    for row in found.rows:
        assert [line["epoch"] for line in _lines(folder / row["trial"])] == [1, 2, 3]
        began = json.loads((folder / row["trial"] / "recipe.json").read_text())["adapt"]["learning_rate"]
        own = [began] + [change["after"]["learning_rate"] for change in changes[row["trial"]]]
        assert row["adapt.learning_rate"] == own[-1]
        assert [change["before"]["learning_rate"] for change in changes[row["trial"]]] == own[:-1]
        assert 1e-7 <= own[-1] <= 3e-3
    _the_state_was_the_others(wanted, changes, folder, tmp_path)
    assert not list((tmp_path / "run").glob(".tune-*"))

    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}
    again = search(wanted, events.append)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert again.rows == found.rows
    elsewhere = search(population(recipe, run={"folder": str(tmp_path / "other")}))
    assert _scores(elsewhere) == _scores(found)
    assert {name: history(tmp_path / "other" / "trials" / name) for name in changes} == changes

    best = found.best["mood"]["trial"]
    record(folder / best, {"epoch": 1, "from": "x", "before": {}, "theirs": {}, "after": {}})
    (folder / best / "trained.safetensors").unlink()
    with pytest.raises(RunError, match="the weights are gone, and alone it would not come to them again"):
        search(wanted)


def _scores(found: SearchResult) -> list[Any]:
    return [(row["trial"], row["adapt.learning_rate"], row["test_loss"]) for row in found.rows]


def _the_state_was_the_others(wanted: Any, changes: Any, folder: Path, tmp_path: Path) -> None:
    """The first exploit again, in this process: the other's first epoch, then this one's second with its settings."""
    work = prepare(wanted, wanted.trials())
    [tokens] = work.tokens([(trial.task, trial.adapt) for trial in work.trials]).values()
    first = {name: made[0] for name, made in changes.items() if made and made[0]["epoch"] == 1}
    [(name, change)] = first.items()
    [other] = [trial for trial in work.trials if trial.id == change["from"]]
    state = tmp_path / "state"
    state.mkdir()

    def keep(line: dict[str, Any], save: Any) -> None:
        if line["epoch"] == 1:
            save(state)

    run_trial(work.start(), tokens, other.adapt, tmp_path / "donor", report=keep)
    assert json.loads((state / "state.json").read_text())["epoch"] == 1
    run_trial(work.start(), tokens, changed(other.adapt, change["after"]), tmp_path / "heir", going_on=state)
    again, real = _lines(tmp_path / "heir")[0], _lines(folder / name)[1]
    for key in ("epoch", "train_loss", "validation_loss"):
        assert again[key] == pytest.approx(real[key], rel=1e-4)
    own = _lines(folder / name)[0]
    assert real["train_loss"] < own["train_loss"]


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.long)])
def test_after_an_interruption_what_is_finished_stays_and_the_rest_begins_again(
    recipe, tmp_path, sent
) -> None:
    wanted = population(recipe, {"epochs": {"grid": [2, 5]}}, search={"trials": 2})
    save_recipe(wanted, tmp_path / "recipe.yaml")
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", ON_A_CLUSTER, str(tmp_path / "recipe.yaml"), address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    folder, seen = tmp_path / "run" / "trials", list[str]()
    # Both of the first population, and in the second an exchange.
    while seen.count("trial finished\n") < 2 or len(list(folder.glob("*/population.jsonl"))) < 2:
        seen.append(process.stdout.readline())
        assert seen[-1]
    process.send_signal(sent)
    process.communicate(timeout=60)
    done = {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}
    assert len(done) == 2
    events: list[dict[str, Any]] = []
    found = search(wanted, events.append)
    assert events[0] == {"event": "plan", "trials": 4, "done": 2}
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert {row["status"] for row in found.rows} == {"finished"}
    for row in found.rows:
        assert [line["epoch"] for line in _lines(folder / row["trial"])] == [
            *range(1, row["adapt.epochs"] + 1)
        ]
    assert sum(len(history(folder / row["trial"])) for row in found.rows) == 1 + 4
    assert not list((tmp_path / "run").glob(".tune-*"))


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_trial_that_dies_does_not_hold_the_others_up(recipe) -> None:
    rates = {"choice": [1e30, 3e-3, 2e-3]}
    found = search(population(recipe, {"learning_rate": rates, "clip": 1e30}, search={"trials": 9}))
    ended = [row["status"] for row in found.rows]
    assert sorted(set(ended)) == ["failed", "finished"]


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_each_combination_of_the_grids_is_its_own_population_and_heads_pass_through(recipe, tmp_path) -> None:
    adapt = {
        "way": {"grid": ["lora", "head"]},
        "lora": {"rank": {"grid": [2, 4]}, "dropout": {"uniform": [0, 0.3]}},
    }
    found = search(population(recipe, adapt | {"epochs": 2, "patience": 1}, search={"trials": 2}))
    assert len(found.rows) == 5
    assert {row["status"] for row in found.rows} == {"finished"}
    ranks = {row["trial"]: row.get("adapt.lora.rank") for row in found.rows}
    folder = tmp_path / "run" / "trials"
    exchanged = [(name, change["from"]) for name in ranks for change in history(folder / name)]
    assert len(exchanged) == 2
    assert all(ranks[one] == ranks[other] for one, other in exchanged)


def test_what_a_trial_ended_with_is_read_from_its_history(recipe, tmp_path) -> None:
    adapt = recipe().adapt
    assert settings_at_end(tmp_path, adapt) == adapt
    for dropout in (0.1, 0.2):
        record(
            tmp_path,
            {"epoch": 1, "from": "x", "before": {}, "theirs": {}, "after": {"lora.dropout": dropout}},
        )
    assert settings_at_end(tmp_path, adapt).lora.dropout == 0.2


def test_a_dry_run_says_which_populations_there_are(recipe) -> None:
    adapt = {"way": {"grid": ["lora", "head"]}, "lora": {"rank": {"grid": [2, 4]}}}
    planned = dry_run(population(recipe, adapt))
    assert planned["populations"] == [4, 4]
    assert planned["trials"] == 9  # a head has no learning rate
    assert all(settings.keys() == {"way", "lora.rank", "learning_rate"} for settings in planned["settings"])
    assert dry_run(population(recipe, adapt, search={"scheduler": "none"}))["populations"] == []
