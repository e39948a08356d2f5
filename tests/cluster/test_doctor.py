"""raypretrain doctor on real clusters, with what is wrong there broken from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from command import Command
from growing import Growing, growing
from head import Head, head, without_ray
from odd_node import interpreter, joined
from s3_server import LISTER, S3Server
from small_disk import mounted

import raypretrain

pytestmark = [pytest.mark.slow]

Lines = dict[str, list[dict[str, str]]]


def lines_of(said: str) -> Lines:
    """What was looked at → the lines about it; of ``--json``."""
    found: Lines = {}
    for line in json.loads(said)["lines"]:
        assert (line["do"] == "") == (line["state"] == "ok"), line
        found.setdefault(line["what"], []).append(line)
    return found


def examined(command: Command, *arguments: object) -> tuple[int, Lines]:
    status, out, error = command.run("doctor", *arguments, "--json")
    assert out, error
    return status, lines_of(out)


def failing(found: Lines) -> list[str]:
    return [what for what, lines in found.items() for line in lines if line["state"] == "fail"]


@pytest.mark.ray
def test_a_machine_that_is_fit_for_a_recipe(
    cluster: str, elsewhere: None, recipe: Path, command: Command, tmp_path: Path
) -> None:
    status, found = examined(command, recipe)
    assert failing(found) == []
    assert status == 0
    assert found["versions"][0]["found"].endswith(f"raypretrain {raypretrain.__version__}")
    assert found["CPUs"][0]["found"] == "2 on 1 node: 1 worker of 1.5, 0.5 for the stream"
    assert found["run's folder"][0]["found"] == f"{tmp_path}: can be written"
    assert found["authentication"][0]["state"] == "ok"
    assert "gloo, 1 worker on 1 node: the sum is right" in found["all-reduce"][0]["found"]
    assert {"GPUs", "compiler", "object store", "shared memory", "disk", "clocks"} <= found.keys()
    assert {"bucket", "between nodes", "workers"}.isdisjoint(found.keys())
    assert not [path for path in tmp_path.iterdir() if "doctor" in path.name]


@pytest.mark.ray
def test_it_is_shown_to_people_and_without_a_recipe_what_hangs_on_one_is_left_out(
    cluster: str, elsewhere: None, command: Command
) -> None:
    status, out, error = command.run("doctor")
    assert status == 0, out + error
    assert "1 node: " in out.splitlines()[-1]
    assert "run's folder" not in out
    assert "bucket" not in out


@pytest.mark.ray
def test_a_recipe_of_fine_tuning_is_looked_at_by_its_trials(
    cluster: str, elsewhere: None, command: Command, tmp_path: Path
) -> None:
    recipe = tmp_path / "tune.yaml"
    recipe.write_text(
        "{base: {path: b}, tasks: [{name: t, train: {path: t.csv}}], compute: {cpus_per_trial: 3}}"
    )
    status, found = examined(command, recipe)
    assert (status, failing(found)) == (1, ["CPUs"])
    status, found = examined(command, recipe, "--set", "compute.cpus_per_trial=1")
    assert (status, found["CPUs"][0]["found"]) == (0, "a trial takes 1 CPUs and 0 GPUs: room for 2 at once")


@pytest.mark.ray
def test_a_recipe_that_asks_for_gpus(cluster: str, elsewhere: None, recipe: Path, command: Command) -> None:
    status, found = examined(command, recipe, "--set", "compute.device=cuda", "--set", "compute.workers=4")
    assert (status, failing(found)) == (1, ["workers"])
    [line] = found["workers"]
    assert line["found"] == "4 workers need as many GPUs, the cluster has 0"
    assert line["do"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB that is full."""
    with mounted(tmp_path / "disk", "1m") as place:
        with (place / "filler").open("wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, 1 << 20)
        yield place


@pytest.mark.ray
def test_a_full_disk_as_the_runs_folder(
    cluster: str, elsewhere: None, recipe: Path, command: Command, disk: Path
) -> None:
    status, found = examined(command, recipe, "--set", f"run.folder={disk / 'run'}")
    assert status == 1
    assert set(failing(found)) == {"run's folder", "disk"}
    assert {line["found"] for line in found["run's folder"]} == {
        f"{who} cannot write to {disk}: No space left on device" for who in ("this process", node(found))
    }
    full = next(line for line in found["disk"] if line["state"] == "fail")
    assert full["found"].startswith("run's folder: 0 bytes of 1.05 MB free, ")
    assert [path.name for path in disk.iterdir()] == ["filler"]


def node(found: Lines) -> str:
    """The name of the one node."""
    return found["run's folder"][-1]["found"].partition(" ")[0]


@pytest.fixture
def listing_only(s3: S3Server) -> Iterator[None]:
    """The keys in every process's files are those of somebody who may read nothing."""
    path = Path(os.environ["AWS_SHARED_CREDENTIALS_FILE"])
    before = path.read_text()
    path.write_text(f"[default]\naws_access_key_id = {LISTER[0]}\naws_secret_access_key = {LISTER[1]}\n")
    yield
    path.write_text(before)


@pytest.fixture
def shards(s3: S3Server, recipe: Path) -> list[str]:
    """Overrides that have the corpus in the bucket, 1.5 MB."""
    for i in range(3):
        s3.put(f"doctor/shard-{i}.txt", b"A fine film. " * 40_000)
    source = f"{{path: 's3://{s3.bucket}/doctor/*.txt', endpoint_url: '{s3.endpoint_url}'}}"
    return ["--set", f"corpus.sources=[{source}]"]


@pytest.mark.ray
def test_the_bucket_of_the_corpus_is_read(
    cluster: str, elsewhere: None, recipe: Path, command: Command, shards: list[str]
) -> None:
    status, found = examined(command, recipe, *shards)
    assert (status, failing(found)) == (0, [])
    [line] = found["bucket"]
    assert line["found"].startswith("s3://corpus/doctor/*.txt: ")
    assert "B/s" in line["found"]


@pytest.mark.ray
def test_a_bucket_that_may_be_listed_but_not_read(
    cluster: str, elsewhere: None, recipe: Path, command: Command, shards: list[str], listing_only: None
) -> None:
    status, found = examined(command, recipe, *shards)
    assert (status, failing(found)) == (1, ["bucket"])
    [line] = found["bucket"]
    assert line["found"].startswith("s3://corpus/doctor/shard-0.txt from ")
    assert line["found"].endswith(": access denied")
    assert line["do"].endswith("they need s3:GetObject")
    assert LISTER[1] not in json.dumps(found)


@pytest.mark.ray
def test_a_bucket_that_is_not_there(
    cluster: str, elsewhere: None, recipe: Path, command: Command, s3: S3Server
) -> None:
    source = f"{{path: 's3://nobodys/*.txt', endpoint_url: '{s3.endpoint_url}'}}"
    status, found = examined(command, recipe, "--set", f"corpus.sources=[{source}]")
    assert (status, failing(found)) == (1, ["bucket"])
    assert found["bucket"][0]["found"] == "s3://nobodys/*.txt from this process: there is no such bucket"


def test_bad_input_is_one_line(elsewhere: None, command: Command, no_ray: None) -> None:
    line = command.fails("doctor", "--address", "127.0.0.1:9")
    assert line.startswith("compute.address: no Ray cluster answers at 127.0.0.1:9 (")
    line = command.fails("doctor", "--address", "http://127.0.0.1:8265")
    assert "ray job submit --address http://127.0.0.1:8265 -- raypretrain doctor" in line
    assert command.fails("doctor", "nowhere.yaml").startswith("nowhere.yaml: there is no such recipe")


# With a head of its own.

PATIENCE = (
    "import raypretrain.cluster.measure as m; m._START_SECONDS = {}; from raypretrain.cli import main; main()"
)


def examined_at(
    at: Head | Growing, folder: Path, *arguments: object, patience: float = 60
) -> tuple[int, Lines]:
    """By a process of its own, in ``folder``."""
    root = Path(raypretrain.__file__).parent.parent
    address = at.gcs if isinstance(at, Head) else at.address
    words = ["doctor", *map(str, arguments), "--address", address, "--json"]
    done = subprocess.run(
        [sys.executable, "-c", PATIENCE.format(patience), *words],
        env=without_ray() | at.environment | {"PYTHONPATH": str(root)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.stdout, done.stderr
    return done.returncode, lines_of(done.stdout)


@pytest.mark.cluster_test
def test_a_node_that_is_unlike_the_head(recipe: Path, tmp_path: Path) -> None:
    odd = interpreter(tmp_path / "odd", torch="2.12.0", ahead=90)
    with head(cpus=2) as at, joined(at, odd):
        status, found = examined_at(at, tmp_path, recipe, "--set", "compute.workers=2")
    assert status == 1
    assert failing(found) == ["versions", "versions", "clocks"]
    assert found["CPUs"][0]["found"].startswith("3 on 2 nodes: 2 workers of ")
    torch, ours = (line["found"] for line in found["versions"])
    assert torch.startswith("torch 2.13.0")
    assert " here, 2.12.0 on " in torch
    assert f"raypretrain {raypretrain.__version__} here, none on " in ours
    assert " is 90 s ahead of this machine" in found["clocks"][0]["found"]
    assert "all at the same time" in found["between nodes"][0]["found"]
    assert "2 workers on " in found["all-reduce"][0]["found"]
    assert (
        "this process and every node write there and see each other's files"
        in found["run's folder"][0]["found"]
    )
    [doors] = found["authentication"]
    assert (doors["state"], doors["found"]) == ("ok", "a token is asked for: GCS, dashboard, job agent")


@pytest.mark.cluster_test
def test_a_head_without_a_token_and_a_node_that_hangs(tmp_path: Path) -> None:
    with head(cpus=1, token=False) as at, joined(at) as raylet:
        raylet.suspend()
        status, found = examined_at(at, tmp_path, patience=8)
    assert status == 1
    assert "node" in failing(found)
    assert found["node"][0]["found"].endswith(" does not answer within 8 s")
    said = {line["found"].split(" takes orders")[0]: line for line in found["authentication"]}
    assert said.keys() == {"the GCS", "the dashboard", "the job agent"}
    # Of a head that is told to be at loopback the GCS listens everywhere; the dashboard does as it is told.
    assert at.gcs in said["the GCS"]["found"]
    assert said["the GCS"]["state"] == ("fail" if reached_from_outside() else "warn")
    assert said["the dashboard"]["state"] == "warn"
    assert said["the dashboard"]["found"].endswith(f", from any user of this machine: {at.address[7:]}")


def reached_from_outside() -> bool:
    """Whether this machine has an address beside loopback."""
    addresses = [each for entries in psutil.net_if_addrs().values() for each in entries]
    return any(each.family.name == "AF_INET" and not each.address.startswith("127.") for each in addresses)


@pytest.mark.cluster_test
def test_a_cluster_that_can_bring_the_gpus_is_not_found_too_small(recipe: Path, tmp_path: Path) -> None:
    kind = {"resources": {"CPU": 1, "GPU": 1}, "max_workers": 2}
    asks = ("--set", "compute.device=cuda", "--set", "compute.cpus_per_worker=1", "--set")
    with growing({"gpu": kind}) as at:
        status, found = examined_at(at, tmp_path, recipe, *asks, "compute.workers=2")
        assert (status, failing(found)) == (0, [])
        assert found["CPUs"][0]["found"].endswith("; a run waits for the nodes that the autoscaler brings")
        status, found = examined_at(at, tmp_path, recipe, *asks, "compute.workers=4")
        assert (status, failing(found)) == (1, ["workers"])
        assert found["workers"][0]["found"].startswith(
            "4 workers need as many GPUs, the cluster has 2 at its largest"
        )
        assert not at.raylets(), "nodes were asked for"


@pytest.mark.cluster_test
def test_a_machine_without_a_cluster(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    root = Path(raypretrain.__file__).parent.parent
    done: Any = subprocess.run(
        [sys.executable, "-m", "raypretrain.cli", "doctor"],
        env=environment | {"PYTHONPATH": str(root)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a token is asked for: GCS" in done.stdout
