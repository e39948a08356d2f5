"""Models in a store: what is fetched of them, what a run takes from one, and what is refused."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from bases import recipe, write_base
from command import Command
from s3_server import S3Server, use_keys

from raypretrain import storage
from raypretrain.config import to_yaml
from raypretrain.errors import InputError, RaypretrainError, StorageError
from raypretrain.models import huggingface
from raypretrain.models.loading import load_base
from raypretrain.tokens.cursor import Cursor
from raypretrain.training import fetching
from raypretrain.training.basemodel import base_weights, bring_base
from raypretrain.training.changes import refuse_changes
from raypretrain.training.checkpoint import Standing, checkpoint_folder, commit, hash_files
from raypretrain.training.fetching import LISTED, fetch_model
from raypretrain.training.fork import fork
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder, fingerprint_of
from raypretrain.training.vocabulary import given_tokenizer


@pytest.fixture
def store() -> Iterator[str]:
    """A place in fsspec's store in memory, which stands for any store."""
    yield "memory://models"
    fsspec.filesystem("memory").rm("memory://models", recursive=True)


@pytest.fixture
def url(store: str, tmp_path: Path) -> str:
    """A base model there, with what other people's folders have beside one."""
    storage.upload_folder(write_base(tmp_path / "base"), f"{store}/small")
    for name in (
        "README.md",
        "pytorch_model.bin",
        "onnx/model.onnx",
        "original/model.safetensors",
        "code.py",
    ):
        storage.write(f"{store}/small/{name}", b"x")
    return f"{store}/small"


@pytest.fixture
def no_store(monkeypatch: pytest.MonkeyPatch) -> Any:
    """From its call on, asking a store is a failure."""

    def cut() -> None:
        def refuse(*args: Any) -> None:
            raise AssertionError("a store was asked")

        for name in ("open_read", "list_files", "download"):
            monkeypatch.setattr(fetching, name, refuse)

    return cut


def begin(made: PretrainRecipe, said: list[str] | None = None) -> RunFolder:
    """Its run, as it is before its first step."""
    folder = RunFolder(made.run.folder)
    folder.open(made)
    bring_base(made, folder, (said if said is not None else []).append)
    return folder


def test_the_files_of_a_model_are_fetched_and_no_others(url: str, tmp_path: Path) -> None:
    fetch_model(f"{url}/", tmp_path / "to", None)
    names = {path.name for path in (tmp_path / "to").iterdir()}
    assert names == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
        "special_tokens_map.json", LISTED,
    }  # fmt: skip
    for name in names - {LISTED}:
        assert (tmp_path / "to" / name).read_bytes() == (tmp_path / "base" / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("to")] == ["to"]


def test_shards_are_those_that_the_index_names(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface, "SHARD_BYTES", 100_000)
    write_base(tmp_path / "base")
    (tmp_path / "base" / "consolidated.safetensors").write_bytes(b"x")
    storage.upload_folder(tmp_path / "base", f"{store}/sharded")
    fetch_model(f"{store}/sharded", tmp_path / "to", None)
    shards = sorted(path.name for path in (tmp_path / "to").glob("*.safetensors"))
    assert len(shards) > 1
    assert "consolidated.safetensors" not in shards
    fetched, expected = load_base(tmp_path / "to")[1], load_base(tmp_path / "base")[1]
    assert all(torch.equal(fetched[name], weight) for name, weight in expected.items())


def test_what_was_fetched_is_fetched_again_only_if_it_has_changed(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    download = fetching.download
    monkeypatch.setattr(
        fetching, "download", lambda file, *rest: copied.append(file.url) or download(file, *rest)
    )
    fetch_model(url, tmp_path / "to", None)
    assert len(copied) == 6
    fetch_model(url, tmp_path / "to", None)
    assert len(copied) == 6
    storage.write(f"{url}/config.json", (tmp_path / "base" / "config.json").read_bytes() + b"\n")
    fetch_model(url, tmp_path / "to", None)
    assert len(copied) == 12


def test_a_fetch_that_fails_leaves_no_model(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download = fetching.download

    def breaks(file: storage.FileInfo, *rest: Any) -> None:
        if file.url.endswith("model.safetensors"):
            raise StorageError("the object store failed", where=file.url)
        download(file, *rest)

    monkeypatch.setattr(fetching, "download", breaks)
    with pytest.raises(StorageError, match=r"model\.safetensors: the object store failed"):
        fetch_model(url, tmp_path / "to", None)
    assert not (tmp_path / "to").exists()
    monkeypatch.setattr(fetching, "download", download)
    fetch_model(url, tmp_path / "to", None)
    assert load_base(tmp_path / "to")
    assert not (tmp_path / "to.partial").exists()


def remove(url: str, *names: str) -> None:
    for name in names:
        storage.remove(f"{url}/{name}")


def index_names(url: str, name: str) -> None:
    storage.remove(f"{url}/model.safetensors")
    storage.write(f"{url}/model.safetensors.index.json", json.dumps({"weight_map": {"a": name}}).encode())


WRONG = [
    (lambda url: remove(url, "config.json"), "small: holds no config.json; give the folder of a model"),
    (lambda url: remove(url, "model.safetensors"), "small: holds pickled weights only (pytorch_model.bin)"),
    (lambda url: index_names(url, "pytorch_model.bin"), "names 'pytorch_model.bin', which is no safetensors"),
    (lambda url: index_names(url, "original/model.safetensors"), "names 'original/model.safetensors', which"),
    (
        lambda url: index_names(url, "gone.safetensors"),
        "names 'gone.safetensors', which is no safetensors file",
    ),
]


@pytest.mark.parametrize(("spoil", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_is_no_model_is_refused_before_anything_is_fetched(
    spoil: Any, message: str, url: str, tmp_path: Path
) -> None:
    spoil(url)
    with pytest.raises(InputError, match=re.escape(message)):
        fetch_model(url, tmp_path / "to", None)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_pickle_in_a_store_is_neither_fetched_nor_read(url: str, tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"

    class Armed:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (mark,)

    bomb = pickle.dumps(Armed())
    storage.write(f"{url}/pytorch_model.bin", bomb)
    storage.write(f"{url}/model.safetensors", bomb)
    made = recipe(tmp_path, model={"from": url}, run={"folder": "run"})
    folder = begin(made)
    with pytest.raises(InputError, match="is no whole safetensors file"):
        base_weights(folder, 1500)
    assert not mark.exists()


def test_import_takes_a_url(url: str, tmp_path: Path, command: Command) -> None:
    status, out, _ = command.run("import", url, "--to", tmp_path / "imported")
    assert status == 0
    assert out.startswith("llama, ")
    fetched, expected = load_base(tmp_path / "imported")[1], load_base(tmp_path / "base")[1]
    assert all(torch.equal(fetched[name], weight) for name, weight in expected.items())
    assert not (tmp_path / "imported" / LISTED).exists()
    line = command.fails("import", url, "--to", tmp_path / "imported")
    assert line == f"{tmp_path}/imported: is not empty; give --to a new folder"
    values = json.loads((tmp_path / "base" / "config.json").read_text())
    storage.write(f"{url}/config.json", json.dumps(values | {"model_type": "t5"}).encode())
    line = command.fails("import", url, "--to", tmp_path / "other")
    assert line.startswith(f"{url}/config.json: is a model of type 't5'")
    assert not (tmp_path / "other").exists()


def test_a_recipe_takes_sizes_and_tokenizer_from_a_store(url: str, tmp_path: Path) -> None:
    made = recipe(tmp_path, model={"from": url}, sequences={"length": 64, "infill": {"rate": 0.5}})
    local = recipe(tmp_path, model={"from": "base"}, sequences={"length": 64, "infill": {"rate": 0.5}})
    given, expected = given_tokenizer(made), given_tokenizer(local)
    assert given is not None
    assert expected is not None
    assert given.fingerprint == expected.fingerprint
    assert made.model.shape(1503, 64) == local.model.shape(1503, 64)
    assert made.tokenizer.path == made.model.base == url
    assert f"from: {url}" in to_yaml(made)


def test_the_run_fetches_it_once_and_goes_on_without_the_store(
    url: str, tmp_path: Path, no_store: Any
) -> None:
    said: list[str] = []
    made = recipe(tmp_path, model={"from": url}, run={"folder": "run"})
    folder = begin(made, said)
    assert said == [f"fetching {url}"]
    kept = json.loads(folder.base.read_text())
    assert kept["folder"] == url
    assert kept["sha256"]["model.safetensors"] == storage.sha256_file(tmp_path / "base" / "model.safetensors")
    expected = load_base(tmp_path / "base")[1]
    no_store()
    again = recipe(tmp_path, model={"from": url}, run={"folder": "run"})
    assert again == made
    assert folder.read_recipe().model.shape(1500, 64) == made.model.shape(1500, 64)
    folder.metrics.touch()  # it has begun
    assert begin(again, said).begun()
    assert len(said) == 1
    found = base_weights(folder, 1500)
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    path = folder.fetched / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"run/base/model\.safetensors: is not the file that the run was begun"
    ):
        base_weights(folder, 1500)


def test_a_fork_needs_neither_the_store_nor_the_base(url: str, tmp_path: Path, no_store: Any) -> None:
    made = recipe(tmp_path, model={"from": url}, run={"folder": "run"}, training={"steps": 9})
    folder = begin(made)
    step = checkpoint_folder(folder.checkpoints, 3)
    (step / "engine").mkdir(parents=True)
    commit(step, Standing(3, Cursor(), 0, 1, 0, "", "", ""), hash_files(step, 0, 1))
    no_store()
    training = {"steps": 9, "learning_rate": 1e-4}
    slower = recipe(tmp_path, model={"from": url}, run={"folder": "run"}, training=training)
    child = RunFolder(fork(slower, tmp_path / "slower", print).run.folder)
    said: list[str] = []
    bring_base(child.read_recipe(), child, said.append)
    assert said == []
    assert child.read_recipe().model.shape(1500, 64) == made.model.shape(1500, 64)


def test_a_start_that_failed_binds_nobody_to_what_it_fetched(url: str, store: str, tmp_path: Path) -> None:
    begin(recipe(tmp_path, model={"from": url}, run={"folder": "run"}))
    storage.upload_folder(write_base(tmp_path / "wide", width=64), f"{store}/wide")
    folder = begin(recipe(tmp_path, model={"from": f"{store}/wide"}, run={"folder": "run"}))
    assert base_weights(folder, 1500)["embedding.weight"].shape == (1500, 64)


def test_a_model_that_is_replaced_while_it_is_read_is_refused(url: str, store: str, tmp_path: Path) -> None:
    made = recipe(tmp_path, model={"from": url}, run={"folder": "run"})
    storage.upload_folder(write_base(tmp_path / "wide", width=64), url)
    with pytest.raises(InputError, match=f"{url}: changed while it was read; start again"):
        begin(made)
    folder = begin(recipe(tmp_path, model={"from": url}, run={"folder": "run"}))
    assert base_weights(folder, 1500)["embedding.weight"].shape == (1500, 64)


def test_a_folder_of_the_users_in_the_place_of_the_fetched_one_is_refused(url: str, tmp_path: Path) -> None:
    (tmp_path / "run" / "base").mkdir(parents=True)
    (tmp_path / "run" / "base" / "mine").touch()
    with pytest.raises(RaypretrainError, match="the run's folder holds something else"):
        begin(recipe(tmp_path, model={"from": url}, run={"folder": "run"}))
    assert (tmp_path / "run" / "base" / "mine").exists()


def test_another_address_of_the_store_is_the_same_recipe(url: str, tmp_path: Path) -> None:
    made, moved = (
        recipe(
            tmp_path,
            {"base_config": json.loads((tmp_path / "base" / "config.json").read_text())},
            model=model,
        )
        for model in ({"from": url}, {"from": url, "endpoint_url": "http://127.0.0.1:1"})
    )
    assert moved.model.storage_options == {"endpoint_url": "http://127.0.0.1:1"}
    assert fingerprint_of(made) == fingerprint_of(moved)
    refuse_changes(moved, made, tmp_path)


def test_a_base_that_is_not_there_is_one_line(url: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"memory://models/none/config\.json: there is no such") as caught:
        recipe(tmp_path, model={"from": "memory://models/none"})
    assert "\n" not in str(caught.value)
    # What else is wrong is said all the same.
    with pytest.raises(RaypretrainError, match=r"run\.folder: a run's folder is a local or shared path"):
        recipe(tmp_path, model={"from": url}, run={"folder": "s3://bucket/run"})


def test_a_base_on_a_real_store_is_found_by_its_endpoint(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    use_keys(monkeypatch, s3)
    url = f"s3://{s3.bucket}/models/small"
    storage.upload_folder(write_base(tmp_path / "base"), url)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    model = {"from": url, "endpoint_url": s3.endpoint_url}
    made = recipe(tmp_path, model=model, run={"folder": "run"}, sequences={"infill": {"rate": 0.9}})
    folder = begin(made)
    given = given_tokenizer(made)
    assert given is not None
    assert (given.added, given.vocabulary) == (3, 1503)
    rows = base_weights(folder, 1536)["embedding.weight"]
    assert torch.equal(rows[:1500], load_base(tmp_path / "base")[1]["embedding.weight"])
    assert (rows[1500:] == rows[1500]).all()
    to = tmp_path / "imported"
    status, _, _ = command.run("import", url, "--to", to, "--endpoint-url", s3.endpoint_url)
    assert status == 0
    assert load_base(to)[0] == load_base(tmp_path / "base")[0]
