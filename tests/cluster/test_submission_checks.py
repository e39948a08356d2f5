"""What is looked at before a job is sent, and what is sent."""

from __future__ import annotations

import contextlib
import http.server
import json
import platform
import socket
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import RECIPE, Command

from raypretrain.cluster import following
from raypretrain.cluster.address import address_of, asks_for_token, is_loopback
from raypretrain.cluster.checks import (
    check_versions,
    on_network_disk,
    refuse_gpus,
    refuse_local_paths,
    refuse_open,
)
from raypretrain.cluster.following import exit_status, follow
from raypretrain.cluster.inventory import Inventory
from raypretrain.cluster.jobs import find, of_log
from raypretrain.cluster.jobserver import ClusterJob, JobServer
from raypretrain.cluster.payload import Payload, pack, paths_of
from raypretrain.cluster.submission import _next_name
from raypretrain.config import flatten, load_recipe
from raypretrain.console import PretrainView
from raypretrain.errors import ClusterError, RecipeError, RunError

JOBS = sorted((Path(__file__).parent.parent.parent / "jobs").glob("*.yaml"))
ELSEWHERE = "http://192.0.2.1:8265"  # an address for documents, which nobody has


@contextlib.contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """An HTTP server that says the same to everybody."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *of: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def inventory(**changed: Any) -> Inventory:
    there: dict[str, Any] = {
        "hosts": frozenset({"head-1", "worker-1"}),
        "nodes": ({"CPU": 4.0}, {"CPU": 8.0, "GPU": 2.0}),
        "groups": frozenset(),
    }
    return Inventory(**there | changed)


# -------------------------------------------------------------------------------------------------- the address


@pytest.mark.usefixtures("no_address")
@pytest.mark.parametrize(
    ("given", "url"),
    [
        (None, "http://127.0.0.1:8265"),
        ("head", "http://head:8265"),
        ("head:9000", "http://head:9000"),
        ("http://head:9000/", "http://head:9000"),
        ("https://ray.example/team", "https://ray.example:443/team"),
        ("http://[::1]:8265", "http://[::1]:8265"),
        ("auto", "http://127.0.0.1:8265"),
    ],
)
def test_an_address_may_be_a_url_or_a_host(given: str | None, url: str) -> None:
    assert address_of(given) == url


def test_an_address_is_taken_from_where_rays_own_tools_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://one:1")
    assert address_of(None) == "http://one:1"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://two:2")
    assert address_of(None) == "http://two:2"
    assert address_of("three:3") == "http://three:3"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "ray://head:10001")
    with pytest.raises(ClusterError, match=r"^RAY_API_SERVER_ADDRESS: 'ray://head:10001' is not the address"):
        address_of(None)


@pytest.mark.parametrize("given", ["ray://head:10001", "http://head:many", "http://user:pass@head:8265", ""])
def test_what_is_no_address_is_refused(given: str, no_address: None) -> None:
    if given:
        with pytest.raises(ClusterError, match="--address"):
            address_of(given)
    else:
        assert address_of(given) == "http://127.0.0.1:8265"


def test_loopback_is_told_from_other_addresses() -> None:
    for address in ("http://127.0.0.1:8265", "http://localhost:8265", "https://[::1]:1", "http://127.8.0.2"):
        assert is_loopback(address), address
    for address in (ELSEWHERE, "http://0.0.0.0:8265", "http://no-such-host.invalid:8265"):
        assert not is_loopback(address), address


def test_a_dashboard_is_asked_without_a_token() -> None:
    with answering(200, json.dumps({"ray_version": "2.60.0"}).encode()) as address:
        assert not asks_for_token(address)
    with answering(401, b"Unauthorized: Missing authentication token") as address:
        assert asks_for_token(address)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, b"", "no dashboard of Ray's (HTTP 404)"),
        (200, b"<html>a router</html>", "no dashboard of Ray's"),
        (200, b"{}", "no dashboard of Ray's"),
    ],
)
def test_what_is_no_dashboard_is_named(status: int, body: bytes, said: str) -> None:
    with answering(status, body) as address, pytest.raises(ClusterError) as error:
        asks_for_token(address)
    assert str(error.value).startswith(f"{address}: {said}; start it")


def test_what_speaks_no_http_is_named() -> None:
    def greet(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"\x00\x00\x12\x04 this is another protocol\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=greet, args=[server])
        thread.start()
        with pytest.raises(ClusterError, match="no dashboard of Ray's"):
            asks_for_token(f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join()


def test_no_cluster_at_the_address_is_one_line(command: Command, recipe: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for arguments in (("submit", recipe), ("jobs",), ("follow", "run"), ("stop", "run")):
        line = command.fails(*arguments, "--address", f"127.0.0.1:{port}")
        assert line.startswith(f"http://127.0.0.1:{port}: no Ray cluster answers (Connection refused); start")


def test_a_wrong_recipe_is_refused_before_anybody_is_asked(command: Command, recipe: Path) -> None:
    line = command.fails("submit", recipe, "--address", ELSEWHERE, "--set", "training.toknes=5")
    assert "training.toknes" in line
    assert "there is no such recipe" in command.fails("submit", "none.yaml", "--address", ELSEWHERE)


# ---------------------------------------------------------------------------------------------------- the checks


def test_an_address_without_a_token_is_refused_unless_it_is_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(200, json.dumps({"ray_version": "2.60.0"}).encode()) as address:
        refuse_open(address)
        monkeypatch.setattr("raypretrain.cluster.checks.is_loopback", lambda address: False)
        with pytest.raises(ClusterError, match=r"asks for no token: whoever reaches it .* say --insecure"):
            refuse_open(address)
    with answering(401, b"") as address:
        refuse_open(address)


def test_another_version_of_ray_is_refused_and_another_python_is_told() -> None:
    ray, python = version("ray"), platform.python_version()
    assert check_versions(ray, python) == []
    with pytest.raises(ClusterError) as error:
        check_versions("2.59.1", python)
    assert f"the cluster has Ray 2.59.1, this machine {ray}" in str(error.value)
    note = f"the cluster has Python 3.12.4, this machine {python}"
    assert check_versions(ray, "3.12.4") == [note]


@pytest.mark.parametrize(
    ("override", "enough"),
    [
        ("compute.workers=2", True),
        ("compute.workers=3", False),
        ("compute.workers=[2, 6]", True),
        ("compute.workers=[3, 6]", False),
        ("compute.micro_batch=1", True),
    ],
)
def test_gpus_that_are_not_there_and_do_not_come_are_refused(
    recipe: Path, override: str, enough: bool
) -> None:
    payload = pack(recipe, [override, "compute.device=cuda"])
    refuse_gpus(payload, inventory(groups=frozenset({"gpu-workers"})))  # there its head decides
    if enough:
        refuse_gpus(payload, inventory())
        return
    with pytest.raises(
        ClusterError, match=r"^compute\.workers: needs 3 GPUs, the cluster has 2, and no node"
    ):
        refuse_gpus(payload, inventory())
    refuse_gpus(pack(recipe, [override, "compute.device=auto"]), inventory())


def test_the_gpus_of_a_trial_have_to_be_on_one_node(tmp_path: Path) -> None:
    path = tmp_path / "tune.yaml"
    path.write_text("base: {path: x}\ntasks: [{name: a, train: {path: y.csv}}]\n")
    two = inventory(nodes=({"GPU": 1.0}, {"GPU": 1.0}))
    refuse_gpus(pack(path, ["compute.gpus_per_trial=1"]), two)
    with pytest.raises(ClusterError, match=r"gpus_per_trial: needs 2 GPUs, the cluster has 1 on its largest"):
        refuse_gpus(pack(path, ["compute.gpus_per_trial=2"]), two)


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of a run whose paths all are on the cluster, submitted from a machine with a disk of its own."""
    mount = type("Mount", (), {"mountpoint": "/", "fstype": "ext4"})
    monkeypatch.setattr("psutil.disk_partitions", lambda all: [mount])
    path = tmp_path / "recipes" / "tiny.yaml"
    path.parent.mkdir()
    text = RECIPE.format(data="/mnt/shared/data").replace("folder: run", "folder: /mnt/shared/runs/tiny")
    path.write_text(text)
    return path


def test_paths_of_the_cluster_are_let_through(away: Path) -> None:
    refuse_local_paths(pack(away), away, inventory())
    refuse_local_paths(pack(away, ["corpus.sources.0.path=s3://bucket/*.jsonl"]), away, inventory())
    fast = f"training.checkpoint.fast={{every: 5, folder: {away.parent}}}"
    refuse_local_paths(pack(away, [fast]), away, inventory())  # each node has one of its own


@pytest.mark.parametrize("key", ["run.folder", "corpus.sources.0.path", "tokenizer.path"])
def test_paths_of_this_machine_are_refused_by_their_key(
    away: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    there = tmp_path / "there.jsonl"
    there.write_text("{}")
    monkeypatch.chdir(away.parent)
    # Relative, in the home folder, or anywhere else where it is.
    for path in ("runs/x", str(Path.home() / "not-there" / "x"), str(tmp_path / "th*.jsonl")):
        payload = pack(away, [f"{key}={path}"])
        with pytest.raises(RecipeError, match=rf"^{key}: '.*' is a path of this machine, and .* head-1, wor"):
            refuse_local_paths(payload, away, inventory())
        refuse_local_paths(payload, away, inventory(hosts=frozenset({socket.gethostname()})))


def test_a_path_on_a_network_disk_is_no_path_of_this_machine_alone() -> None:
    mounts = [("/", "ext4"), ("/home", "nfs4"), ("/home/me/local", "xfs"), ("/mnt/lake", "fuse.s3fs")]
    assert on_network_disk("/home/me/runs/x", mounts)
    assert on_network_disk("/mnt/lake/data/*.jsonl", mounts)
    assert not on_network_disk("/home/me/local/x", mounts)
    assert not on_network_disk("/homes/x", mounts)
    assert not on_network_disk("/data", [])


# --------------------------------------------------------------------------------------------------- what is sent


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_what_is_sent_is_the_recipe_as_resolved(path: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    overrides = ["run.seed=7"]
    if (values.get("model") or {}).get("from"):
        pytest.skip("its base model is not here to be looked at")
    payload = pack(path, overrides)
    assert payload.command == ("search" if values.keys() & {"tasks", "search"} else "pretrain")
    sent = tmp_path / "recipe.yaml"
    sent.write_text(payload.text)
    assert load_recipe(sent, type(payload.recipe)) == payload.recipe
    assert payload.recipe.run.seed == 7
    assert len(payload.text) < 8_000


def test_every_path_of_a_recipe_is_found(away: Path, tmp_path: Path) -> None:
    overrides = [
        "corpus.sources.0.clusters=c.tsv",
        "corpus.tokenized=s3://bucket/copy",
        "tokenizer.path=t.json",
        "training.checkpoint.copy_to=copies",
        "training.checkpoint.fast={every: 5, folder: /fast}",
    ]
    recipe = pack(away, overrides).recipe
    found = dict(paths_of(recipe))
    assert found.keys() == {
        "run.folder",
        "corpus.sources.0.path",
        "corpus.sources.0.clusters",
        "corpus.tokenized",
        "tokenizer.path",
        "training.checkpoint.copy_to",
        "training.checkpoint.fast.folder",
    }
    flat = flatten(recipe.model_dump(mode="json"))
    assert all(flat[key] == value for key, value in found.items())
    assert {key for key, value in flat.items() if isinstance(value, str) and "/" in value} <= found.keys()


def test_every_path_of_a_recipe_of_fine_tuning_is_found(tmp_path: Path) -> None:
    path = tmp_path / "tune.yaml"
    path.write_text("base: {path: /b, text: {run: /r}}\ntasks: [{name: a, train: {path: /y.csv}}]\n")
    found = dict(paths_of(pack(path).recipe))
    assert {"run.folder", "base.path", "base.text.run", "tasks.0.train.path"} == found.keys()


def test_the_address_in_a_recipe_is_not_sent(away: Path) -> None:
    payload = pack(away, ["compute.address=10.0.0.1:6379"])
    assert yaml.safe_load(payload.text)["compute"]["address"] is None


def test_nothing_of_this_machines_environment_is_sent(away: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "pa55-w0rd")
    payload = pack(away)
    sent = {"working_dir": "here", "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "600"}}
    assert payload.runtime_env(Path("here")) == sent
    assert "pa55-w0rd" not in f"{payload.text} {payload.entrypoint} {payload.labels}"


@pytest.mark.parametrize(
    ("folder", "name"), [("/r/tiny", "tiny"), ("/r/ä tiny/", "tiny"), ("/r/a b", "a-b"), ("/", "run")]
)
def test_a_job_is_named_after_its_run(away: Path, folder: str, name: str) -> None:
    payload = pack(away, [f"run.folder={folder}"])
    assert payload.name == name
    assert _next_name(payload, []) == f"{name}-1"


# ------------------------------------------------------------------------------------------------------- the jobs


def job(name: str, state: str, payload: Payload) -> ClusterJob:
    return ClusterJob(name, state, payload.entrypoint, time.time(), labels=payload.labels)


def test_a_run_has_one_job_at_a_time_and_its_jobs_are_counted(away: Path) -> None:
    payload, other = pack(away), pack(away, ["run.folder=/elsewhere/tiny"])
    ended = [job("tiny-1", "failed", payload), job("tiny-3", "stopped", payload)]
    assert _next_name(payload, [*ended, job("tiny-x-9", "running", other)]) == "tiny-4"
    for state in ("pending", "running"):
        with pytest.raises(RunError) as error:
            _next_name(payload, [*ended, job("tiny-4", state, payload)])
        assert str(error.value) == (
            "/mnt/shared/runs/tiny: the run is already being carried out, by the job tiny-4; "
            "'raypretrain follow tiny-4' shows it, 'raypretrain stop tiny-4' ends it"
        )
    # Of the same name, but another run.
    assert _next_name(other, [*ended, job("tiny-4", "running", payload)]) == "tiny-5"


class Known(JobServer):
    """A job server whose jobs are known."""

    def __init__(self, jobs: list[ClusterJob]) -> None:
        self._jobs = jobs

    def jobs(self) -> list[ClusterJob]:
        return self._jobs


def test_a_name_means_a_job_or_the_newest_of_a_run_that_lives(away: Path) -> None:
    payload, other = pack(away), pack(away, ["run.folder=/elsewhere/tiny"])
    ended = [job("tiny-3", "failed", payload), job("tiny-1", "stopped", payload)]
    assert find(Known(ended), "tiny-1").name == "tiny-1"
    assert find(Known(ended), "tiny").name == "tiny-3"
    living = [*ended, job("tiny-2", "running", payload)]
    assert find(Known(living), "tiny").name == "tiny-2"
    assert find(Known(living), "/mnt/shared/runs/tiny").name == "tiny-2"
    both = Known([*living, job("tiny-4", "pending", other)])
    with pytest.raises(RunError, match=r"several jobs are meant: tiny-2 \(/mnt/.*\) and tiny-4 \(/else"):
        find(both, "tiny")
    assert find(both, "/elsewhere/tiny").name == "tiny-4"
    with pytest.raises(RunError, match="the cluster has no such job"):
        find(both, "big")


def test_the_progress_in_a_log_is_what_the_view_has_printed(capsys: pytest.CaptureFixture[str]) -> None:
    view = PretrainView()
    view._steps = 1200
    view.watch({"step": {"step": 1, "loss": 6.25, "tokens_per_second": 1234.5}})
    view.watch({"say": "saving a checkpoint"})
    printed = capsys.readouterr().err
    found = of_log("Running entrypoint for job tiny-1: python -m raypretrain pretrain\n" + printed)
    assert found == {"unit": "step", "done": 1, "of": 1200, "text": "loss 6.250 1,234 tokens/s"}
    later = "  21.0 s  step 1,100/1,200  loss 3.100  1,300 tokens/s  9 s left\n"
    assert (of_log(printed + later) or {})["done"] == 1100
    assert of_log("no line of progress") is None


@pytest.mark.parametrize(
    ("state", "status", "ends_with"),
    [
        ("succeeded", 0, 0),
        ("failed", 2, 2),
        ("failed", None, 1),
        ("stopped", None, 143),
    ],
)
def test_following_ends_as_the_job_did(state: str, status: int | None, ends_with: int) -> None:
    assert exit_status(ClusterJob("a", state, "", status=status)) == ends_with


class Flaky(JobServer):
    """A job server whose connections break: each shows so many chunks of the log; the last stays."""

    def __init__(self, *shown: int) -> None:
        self._shown, self._connections = shown, 0

    def job(self, name: str) -> ClusterJob:
        return ClusterJob(name, "running" if self._connections < len(self._shown) else "succeeded", "")

    def tail(self, name: str, write: Callable[[str], object]) -> None:
        number = self._connections
        self._connections += 1
        if number >= len(self._shown):
            write("one\ntwo\nthree\n")
            return
        for chunk in ("one\n", "tw", "o\nthr", "ee\n")[: self._shown[number]]:
            write(chunk)
        raise ClusterError("the cluster does not answer any more", where="http://head:8265")


def test_what_a_job_prints_is_shown_once_over_broken_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_LOOK_SECONDS", 0.0)
    shown: list[str] = []
    assert follow(Flaky(2, 0, 1, 3), "tiny-1", shown.append).state == "succeeded"
    assert "".join(shown) == "one\ntwo\nthree\n"
    monkeypatch.setattr(following, "GONE_SECONDS", -1.0)
    with pytest.raises(ClusterError, match="submit it again when there is a cluster"):
        follow(Flaky(2), "tiny-1", shown.append)
