"""A run is a job of a real cluster: submitted, followed, stopped, submitted again; also with Ray's own commands."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import Client, last_step, wait_until
from head import Head, head
from runs import fingerprints, metrics, write_recipe

pytestmark = pytest.mark.cluster_test

STEPS = 200


@pytest.fixture(scope="module")
def found() -> Iterator[Head]:
    """A head that asks for a token."""
    with head() as started:
        yield started


@pytest.fixture
def client(found: Head, tmp_path: Path) -> Client:
    return Client(found, tmp_path)


@pytest.fixture(scope="module")
def tiny(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"), corpus, STEPS)


@pytest.fixture(scope="module")
def plain(found: Head, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing befell, submitted with Ray's own command."""
    folder = tmp_path_factory.mktemp("plain")
    client = Client(found, folder)
    run = folder / "run"
    said = client.ray(
        "job", "submit", "--working-dir", tiny.parent, "--submission-id", "plain",
        "--runtime-env-json", '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "600"}}', "--",
        "raypretrain", "pretrain", tiny.name, "--set", f"run.folder={run}",
    )  # fmt: skip
    assert "Job 'plain' succeeded" in said
    return run


def test_a_client_has_to_show_the_right_token(found: Head, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("f" * 64)
    strangers = {
        "here is none": Client(found, tmp_path, RAY_AUTH_MODE="token"),
        "refuses the token": Client(found, tmp_path, RAY_AUTH_TOKEN_PATH=str(tmp_path / "wrong")),
        "cannot be opened": Client(found, tmp_path, RAY_AUTH_TOKEN_PATH=str(tmp_path / "none")),
    }
    for said, stranger in strangers.items():
        for arguments in (("submit", tiny), ("jobs",), ("stop", "plain")):
            line = stranger.fails(*arguments)
            assert line.startswith(f"{found.address}: "), line
            assert said in line
            assert "RAY_AUTH_TOKEN_PATH" in line
            assert found.token not in line
    # What Ray's own commands need beside the token's file is not needed here.
    friend = Client(found, tmp_path, RAY_AUTH_TOKEN_PATH=found.environment["RAY_AUTH_TOKEN_PATH"])
    assert isinstance(friend.says("jobs"), list)


def test_a_dry_run_checks_all_and_sends_nothing(client: Client, tiny: Path) -> None:
    status, out, error = client.run("submit", tiny, "--dry-run", "--set", "run.folder=dry")
    assert status == 0, error
    assert out.startswith(f"dry-1: would be submitted to {client.head.address}\n")
    assert "it would run: python -m raypretrain pretrain recipe.yaml\n" in out
    assert f"folder: {client.folder}/dry\n" in out
    line = client.fails("submit", tiny, "--dry-run", "--set", "compute={device: cuda, workers: 2}")
    assert line.startswith("compute.workers: needs 2 GPUs, the cluster has 0, and no node comes by itself")
    assert "dry-1" not in [row["job"] for row in client.says("jobs")]


def test_what_rays_own_command_submits_is_listed_and_followed(client: Client, plain: Path) -> None:
    row = next(row for row in client.says("jobs") if row["job"] == "plain")
    assert (row["command"], row["state"], row["progress"]) == ("pretrain", "succeeded", None)
    status, out, error = client.run("follow", "plain")
    assert (status, error) == (0, "plain: succeeded\n")
    assert f"step {STEPS}/{STEPS}  loss " in out


def test_a_run_is_submitted_followed_stopped_and_submitted_again(
    client: Client, tiny: Path, plain: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    again = ("submit", tiny, "--set", f"run.folder={folder}")
    sent = client.says(*again)
    assert (sent["job"], sent["run"], sent["address"]) == ("tiny-1", str(folder), client.head.address)
    assert sent["bytes"] < 5_000
    follower = client.start("follow", "tiny")
    wait_until(lambda: last_step(folder) >= 3)

    line = client.fails(*again)
    assert line.startswith(f"{folder}: the run is already being carried out, by the job tiny-1; ")
    row = next(row for row in client.says("jobs") if row["job"] == "tiny-1")
    assert (row["state"], row["progress"]["unit"], row["progress"]["of"]) == ("running", "step", STEPS)
    assert 3 <= row["progress"]["done"] <= STEPS

    follower.send_signal(signal.SIGINT)
    out, error = follower.communicate(timeout=20)
    assert follower.returncode == 130
    assert "Running entrypoint for job tiny-1" in out
    assert "tiny-1 goes on without being followed" in error
    assert "raypretrain follow tiny-1\n" in error
    assert "raypretrain stop tiny-1\n" in error

    stopped = client.says("stop", "tiny")
    reached = last_step(folder)
    assert stopped["state"] == "stopped"
    assert stopped["said"].startswith(f"stopped after step {reached} of {STEPS}, which is saved")
    assert reached < STEPS
    assert client.fails("stop", "tiny") == "tiny-1: has ended already (stopped)"
    assert client.run("follow", "tiny-1")[0] == 143

    status, out, error = client.run(*again, "--follow")
    assert status == 0, out + error
    assert out.startswith(f"tiny-2: submitted to {client.head.address}, ")
    assert "going on with" in out
    assert error.splitlines()[-1] == "tiny-2: succeeded"
    assert fingerprints(folder) == fingerprints(plain)
    assert [row["loss"] for row in metrics(folder)] == [row["loss"] for row in metrics(plain)]


def test_following_a_job_that_fails_ends_as_it_did(client: Client, tiny: Path, tmp_path: Path) -> None:
    missing = f"corpus.sources.0.path={tmp_path}/none/*.jsonl"
    status, out, error = client.run(
        "submit", tiny, "--set", f"run.folder={tmp_path / 'bad'}", "--set", missing, "--follow"
    )
    assert status == 2, error
    last = error.splitlines()[-1]
    assert last.startswith("bad-1: failed (raypretrain: ")
    assert "none/*.jsonl" in last
    assert "Traceback" not in out


def write_search(folder: Path, base: Path, data: Path, **adapt: object) -> Path:
    """A recipe of a search for the trials that ``adapt`` asks for, in ``FOLDER.yaml``."""
    recipe = folder.with_suffix(".yaml")
    values = {
        "run": {"folder": str(folder)},
        "base": {"path": str(base)},
        "tasks": [
            {"name": "mood", "train": {"path": f"{data}/train.csv"}, "test": {"path": f"{data}/test.csv"}}
        ],
        "adapt": {"length": 32, "batch": 16, "epochs": 1, **adapt},
    }
    recipe.write_text(json.dumps(values))  # which is YAML too
    return recipe


def test_a_recipe_with_tasks_is_carried_out_as_a_search(
    client: Client, base: Path, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "moods"
    recipe = write_search(folder, base, data, learning_rate={"grid": [1e-3, 2e-3]})
    status, out, error = client.run("submit", recipe, "--follow")
    assert (status, error.splitlines()[-1]) == (0, "moods-1: succeeded"), out + error
    assert "trial 2/2" in out
    assert len(list(folder.glob("trials/*/result.json"))) == 2
    row = next(row for row in client.says("jobs") if row["job"] == "moods-1")
    assert (row["command"], row["run"], row["state"]) == ("search", str(folder), "succeeded")


def test_a_search_that_is_stopped_keeps_its_trials_and_goes_on(
    client: Client, base: Path, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    recipe = write_search(folder, base, data, epochs=20, seed={"grid": list(range(8))})

    def finished() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/result.json")}

    client.says("submit", recipe)
    wait_until(finished)
    assert client.says("stop", "many")["state"] == "stopped"
    kept = finished()
    assert 1 <= len(kept) < 8
    assert (folder / "results.json").is_file()
    status, out, error = client.run("submit", recipe, "--follow")
    assert (status, error.splitlines()[-1]) == (0, "many-2: succeeded"), out + error
    assert len(finished()) == 8
    assert {path: finished()[path] for path in kept} == kept
