"""cluster/slurm.sh under a real Slurm: a run over two machines to its end, one that is stopped, and one preempted."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import fingerprints, metrics, write_recipe
from slurm_cluster import NEEDED, Slurm, slurm_cluster
from waiting import wait_for_steps

ROOT = Path(__file__).parents[2]
STEPS = 150
WAITING = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED")

pytestmark = [
    pytest.mark.cluster_test,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(shutil.which(program) for program in NEEDED),
        reason="needs root, and Debian's slurm-wlm and munge",
    ),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        cluster.environment["PYTHONPATH"] = str(ROOT)
        yield cluster


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"), corpus, STEPS)


def submit(slurm: Slurm, recipe: Path, run: Path) -> str:
    """The job that carries ``recipe`` out in ``run``."""
    log = f"--output={run}.log"
    settings = [f"--set=run.folder={run}", "--set=compute.device=cpu"]
    return slurm.run(
        "sbatch", "--parsable", "--nodes=2", log, "cluster/slurm.sh", str(recipe), *settings, cwd=ROOT
    )


def wait_until_done(slurm: Slurm, job: str, run: Path) -> str:
    """The state in which it ended; a job that went back into the queue has not."""
    until = time.monotonic() + 150
    while (state := slurm.state(job)) in WAITING:
        assert time.monotonic() < until, Path(f"{run}.log").read_text()
        time.sleep(0.5)
    return state


@pytest.fixture(scope="module")
def undisturbed(slurm: Slurm, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    job = submit(slurm, tiny, run)
    assert wait_until_done(slurm, job, run) == "COMPLETED", Path(f"{run}.log").read_text()
    return run


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in metrics(run)]


def test_a_run_goes_over_both_machines_to_its_end(slurm: Slurm, undisturbed: Path) -> None:
    assert (undisturbed / "model" / "config.json").exists()
    assert len(fingerprints(undisturbed)) == STEPS
    assert "waiting for 2 machines" in Path(f"{undisturbed}.log").read_text()


def test_its_token_is_for_its_user_alone(slurm: Slurm, undisturbed: Path) -> None:
    token = Path(slurm.environment["HOME"]) / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o077 == 0
    assert token.read_text().strip() not in Path(f"{undisturbed}.log").read_text()


def test_stopped_it_saves_and_the_same_command_goes_on(
    slurm: Slurm, tiny: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "stopped"
    job = submit(slurm, tiny, run)
    wait_for_steps(run, 12, lambda: slurm.state(job) in WAITING)
    slurm.run("scancel", "--batch", "--signal=TERM", job)
    assert wait_until_done(slurm, job, run) == "FAILED"  # with the signal's status, as everywhere
    stopped_at = len(metrics(run))
    assert 12 <= stopped_at < STEPS
    assert (run / "checkpoints" / f"step-{stopped_at:08}" / "MANIFEST.json").exists()
    job = submit(slurm, tiny, run)
    assert wait_until_done(slurm, job, run) == "COMPLETED", Path(f"{run}.log").read_text()
    assert fingerprints(run) == fingerprints(undisturbed)
    assert losses(run) == losses(undisturbed)


def test_when_its_time_is_nearly_over_it_goes_back_into_the_queue(
    slurm: Slurm, tiny: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "preempted"
    job = submit(slurm, tiny, run)
    wait_for_steps(run, 12, lambda: slurm.state(job) in WAITING)
    slurm.run("scancel", "--batch", "--signal=USR1", job)  # as --signal=B:USR1@300 has Slurm send it
    assert wait_until_done(slurm, job, run) == "COMPLETED", Path(f"{run}.log").read_text()
    assert fingerprints(run) == fingerprints(undisturbed)
    assert losses(run) == losses(undisturbed)
    starts = [line for line in (run / "events.jsonl").read_text().splitlines() if '"start"' in line]
    assert len(starts) == 2
