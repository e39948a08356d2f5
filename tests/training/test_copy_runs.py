"""Real runs from a tokenized copy: step by step what the run from text is, from a folder and from a bucket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runs import fingerprints, metrics, run, write_recipe
from s3_server import S3Server

from raypretrain.config import load_recipe
from raypretrain.errors import RaypretrainError
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.tokenizing import tokenize
from raypretrain.training.tracing import trace_step

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STEPS = 80  # of two windows


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"), corpus, STEPS)


def make(recipe: Path, to: str, endpoint_url: str | None = None) -> dict[str, Any]:
    loaded = load_recipe(recipe, PretrainRecipe, [f"run.folder={recipe.parent / 'none'}"])
    return tokenize(loaded, to, lambda event: None, endpoint_url=endpoint_url, file_bytes=20_000)


@pytest.fixture(scope="module")
def copy(recipe: Path, cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copies") / "copy"
    result = make(recipe, str(folder))
    assert result["complete"]
    assert result["files"] > 1
    return folder


@pytest.fixture(scope="module")
def from_text(recipe: Path, cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "text"
    assert run(recipe, folder, "compute.workers=2").status == "finished"
    return folder


def science(folder: Path) -> list[tuple[Any, ...]]:
    keys = ("step", "loss", "batch_fingerprint", "cursor", "quarantined")
    return [tuple(str(row[key]) for key in keys) for row in metrics(folder)]


def test_a_run_from_the_copy_has_the_batches_and_losses_of_the_run_from_text(
    recipe: Path, copy: Path, from_text: Path, tmp_path: Path
) -> None:
    kept, bare = tmp_path / "kept", tmp_path / "bare"
    tokenized = f"corpus.tokenized={copy}"
    assert run(recipe, kept, "compute.workers=2", tokenized).status == "finished"
    assert run(recipe, bare, "compute.workers=1", tokenized, "corpus.sources=[]").status == "finished"
    assert science(kept) == science(from_text)
    assert [row["sources"] for row in metrics(kept)] == [row["sources"] for row in metrics(from_text)]
    assert fingerprints(bare) == fingerprints(from_text)
    assert list(metrics(bare)[0]["sources"]) == ["source-0"]
    assert trace_step(kept, 70)["batch_fingerprint"] == fingerprints(from_text)[70]


@pytest.mark.long
def test_a_run_from_a_copy_in_a_bucket_has_the_batches_of_the_run_from_text(
    recipe: Path, s3: S3Server, from_text: Path, tmp_path: Path
) -> None:
    url = f"s3://{s3.bucket}/copies/reviews"
    made = make(recipe, url, s3.endpoint_url)
    assert make(recipe, url, s3.endpoint_url)["kept"] == made["files"]
    where = [
        f"corpus.tokenized={url}",
        f"corpus.tokenized_endpoint_url={s3.endpoint_url}",
        "corpus.sources=[]",
    ]
    assert run(recipe, tmp_path / "run", *where).status == "finished"
    assert fingerprints(tmp_path / "run") == fingerprints(from_text)
    assert sum(row.get("storage", {}).get("requests", 0) for row in metrics(tmp_path / "run")) >= 2


@pytest.mark.faults
@pytest.mark.long
def test_a_flipped_bit_ends_the_run_with_the_name_of_the_file(
    recipe: Path, copy: Path, tmp_path: Path
) -> None:
    path = copy / "windows-00001.parquet"
    data = path.read_bytes()
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 4
    path.write_bytes(damaged)
    try:
        with pytest.raises(RaypretrainError) as caught:
            run(recipe, tmp_path / "run", f"corpus.tokenized={copy}")
    finally:
        path.write_bytes(data)
    assert str(caught.value).startswith(f"{path}: is damaged (")
    assert len(str(caught.value).splitlines()) == 1
