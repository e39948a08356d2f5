"""A run over two hosts with addresses of their own, and a cable that is cut while it lasts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bases import write_base
from fault_table import Account
from hosts import Host, Network, network, outcome, why_not
from nodes import wait_until
from runs import write_recipe
from small_task import sentences, write_csv
from striking import assert_exact, last_step, wait_for_step

pytestmark = pytest.mark.cluster_test

LENGTH = ("training.steps=120", "training.checkpoint.every=20", "training.evaluation.every=60")
# Two hosts of two CPUs: no host has room for two workers, and each has some left for the stream.
SIZES = ("compute.cpus_per_worker=1.25", "compute.stream_cpus=0.5")


SEARCH = """
run: {{folder: found}}
base: {{path: {base}}}
tasks: [{{name: mood, train: {{path: train.csv}}, test_share: 0.2}}]
adapt: {{way: full, length: 32, batch: 16, epochs: 1, seed: {{grid: [0, 1, 2, 3]}}}}
compute: {{cpus_per_trial: 2}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"), corpus)


@pytest.fixture(scope="module")
def reference(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two workers on one host, which nothing befell."""
    folder = tmp_path_factory.mktemp("runs") / "reference"
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    command = pretraining(recipe, folder, *LENGTH)
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=200)
    return folder


@pytest.fixture(scope="module")
def lan() -> Iterator[Network]:
    why = why_not()
    if why:
        pytest.skip(why)
    with network() as made:
        yield made


@pytest.fixture(scope="module")
def pair(lan: Network) -> tuple[Host, Host]:
    """Two hosts with Ray; the first is the head."""
    head, other = lan.add("a"), lan.add("b")
    head.start_ray()
    other.start_ray(head)
    return head, other


def pretraining(recipe: Path, folder: Path, *overrides: str) -> list[str]:
    words = [sys.executable, "-m", "raypretrain.cli", "pretrain", str(recipe), "--json"]
    return [
        *words,
        *(part for override in (f"run.folder={folder}", *overrides) for part in ("--set", override)),
    ]


def start(host: Host, recipe: Path, folder: Path, *overrides: str) -> subprocess.Popen[str]:
    at = f"compute.address={host.ray_address}"
    return host.start(*pretraining(recipe, folder, at, *SIZES, *LENGTH, *overrides))


def test_a_run_over_two_hosts_is_that_of_one(
    pair: tuple[Host, Host], recipe: Path, reference: Path, tmp_path: Path
) -> None:
    head, other = pair
    before = [host.received() for host in pair]
    process = start(head, recipe, tmp_path / "run")
    wait_until(lambda: head.trains() and other.trains(), 100, process)
    result = outcome(process, 200)
    assert result["status"] == "finished"
    assert_exact(tmp_path / "run", reference)
    # Of two workers' gradients each host gets half of the sum, or the other's half to add to it, and weights back.
    least = result["parameters"] * 4 / 2 * result["steps"]
    for host, sofar in zip(pair, before, strict=True):
        assert host.received() - sofar > least


def test_the_base_of_a_search_goes_to_the_other_host_once(pair: tuple[Host, Host], tmp_path: Path) -> None:
    head, other = pair
    base = write_base(tmp_path / "base", width=384, layers=4, heads=6, feed_forward=1024)
    size = (base / "model.safetensors").stat().st_size
    assert size > 20e6
    write_csv(tmp_path / "train.csv", sentences(240, seed=0))
    recipe = tmp_path / "search.yaml"
    recipe.write_text(SEARCH.format(base=base), encoding="utf-8")
    before = other.received()
    words = (sys.executable, "-m", "raypretrain.cli", "search", str(recipe), "--json")
    rows = outcome(head.start(*words, RAY_ADDRESS=head.ray_address), 150)["rows"]
    assert [row["status"] for row in rows] == ["finished"] * 4
    assert size < other.received() - before < 2 * size


def test_a_host_with_another_token_is_not_let_in(lan: Network, pair: tuple[Host, Host]) -> None:
    stranger = lan.add("stranger")
    with pytest.raises(AssertionError, match="AuthenticationError"):
        stranger.start_ray(pair[0], RAY_AUTH_TOKEN="0" * 64, RAY_NUM_REDIS_GET_RETRIES="2")
    assert not stranger.processes()


@pytest.mark.row(3, "a node is lost")
def test_a_host_whose_cable_is_cut_comes_back_and_the_run_is_exact(
    pair: tuple[Host, Host], recipe: Path, reference: Path, tmp_path: Path, account: Account
) -> None:
    head, other = pair
    folder = tmp_path / "run"
    account(how="the cable of 1 of 2 hosts is cut", exact=False)
    process = start(head, recipe, folder)
    wait_for_step(process, folder, 45)
    assert other.trains()
    cut, done = time.monotonic(), last_step(folder)
    other.cut()
    wait_until(lambda: not head.trains(), 60, process)  # a group that is whole again is waited for
    noticed, stood = time.monotonic() - cut, last_step(folder)
    assert noticed < 30
    other.mend()
    # Its raylet hears that it was given up, and ends itself, and with it the worker that it still had.
    wait_until(lambda: not other.trains(), 60, process)
    other.end()
    other.start_ray(head)
    wait_until(lambda: last_step(folder) > done, 120, process)
    account(seconds=time.monotonic() - cut, lost=f"{stood - stood // 20 * 20} steps done again")
    assert outcome(process, 200)["status"] == "finished"
    assert_exact(folder, reference)
    account(exact=True)
