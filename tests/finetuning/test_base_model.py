"""The base model's folder, and what is wrong with one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from raypretrain import storage
from raypretrain.errors import InputError
from raypretrain.finetuning.base import BaseConfig, open_base, pack, unpack
from raypretrain.finetuning.finetune import finetune
from raypretrain.training import fetching


@pytest.fixture
def spoiled(base: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the base model without some files, and with a changed config."""

    def make(*without: str, **config: object) -> Path:
        folder = tmp_path / "spoiled"
        shutil.copytree(base, folder, ignore=shutil.ignore_patterns(*without))
        path = folder / "config.json"
        if config:
            path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return folder

    return make


def _fails(folder: Path, message: str) -> None:
    with pytest.raises(InputError) as caught:
        open_base(BaseConfig(path=str(folder)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_released_folder_is_opened(base):
    model = open_base(BaseConfig(path=str(base)))
    assert (model.shape.vocabulary, model.shape.max_length) == (600, 64)
    assert (model.bos, model.eos, model.pad) == (1, 2, 3)


def test_a_folder_that_is_no_model_is_one_line(base, tmp_path, spoiled):
    _fails(tmp_path / "nowhere", "there is no such folder; give base.path a released model")
    _fails(tmp_path, "config.json: there is no such file")
    _fails(spoiled("tokenizer.json"), "tokenizer.json: there is no such file")


def test_a_type_that_is_not_known_is_one_line(spoiled):
    folder = spoiled()
    (folder / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    _fails(
        folder, f"{folder}/config.json: is a model of type 'mamba'; give a model of type 'llama' or 'gpt2'"
    )


def test_a_broken_config_or_tokenizer_is_named(spoiled):
    folder = spoiled()
    (folder / "tokenizer.json").write_text("{}")
    _fails(folder, "tokenizer.json: is no tokenizer")
    (folder / "config.json").write_text("{")
    _fails(folder, "config.json: cannot be read as JSON")


@pytest.mark.row(22, "a base model that does not fit")
def test_a_tokenizer_that_does_not_fit_is_refused(spoiled):
    folder = spoiled(vocab_size=599)
    _fails(folder, "has 600 tokens, but the model of this folder has a vocabulary of 599")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 16384}))
    _fails(folder, "has 600 tokens, but the model of this folder has a vocabulary of 16384")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 640}))  # padded rows are usual
    assert open_base(BaseConfig(path=str(folder))).shape.vocabulary == 640


@pytest.mark.row(22, "a base model that does not fit")
def test_another_architecture_is_refused(spoiled):
    _fails(spoiled(model_type="t5"), "is a model of type 't5'")


def test_the_padding_is_found_where_the_config_does_not_name_it(spoiled):
    folder = spoiled(pad_token_id=None)
    assert open_base(BaseConfig(path=str(folder))).pad == 3  # from tokenizer_config.json
    (folder / "tokenizer_config.json").unlink()
    assert open_base(BaseConfig(path=str(folder))).pad == 2  # the end of a text
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": None}))
    _fails(folder, "names no token for padding; set its pad_token_id")


def test_pickled_weights_alone_are_refused(recipe, spoiled):
    folder = spoiled("*.safetensors")
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="holds pickled weights only"):
        finetune(recipe(base={"path": str(folder)}))


@pytest.mark.row(22, "a base model that does not fit")
def test_weights_that_do_not_fit_the_config_are_refused(recipe, spoiled):
    with pytest.raises(InputError, match=r"model\.layers\.0\.mlp|feed_forward"):
        finetune(recipe(base={"path": str(spoiled(intermediate_size=65))}))


def test_the_fingerprint_is_of_weights_and_tokenizer(spoiled, base):
    original = open_base(BaseConfig(path=str(base))).fingerprint()
    folder = spoiled()
    assert open_base(BaseConfig(path=str(folder))).fingerprint() == original
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, folder / "model.safetensors")
    assert open_base(BaseConfig(path=str(folder))).fingerprint() != original


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_packed_weights_come_back_bit_by_bit_even_from_read_only_memory(dtype):
    state = {"a": torch.randn(3, 5).to(dtype), "b": torch.randn(7).to(dtype)}
    packed = pack(state)
    assert all(isinstance(array, np.ndarray) for array, _ in packed.values())
    for array, _ in packed.values():
        array.flags.writeable = False
    back = unpack(packed)
    assert all(torch.equal(back[name], state[name]) and back[name].dtype == dtype for name in state)


def test_a_model_in_a_store_is_read_once_for_all_trials(recipe, base, tmp_path, monkeypatch):
    fetched: list[str] = []

    def counted(info, *rest):
        fetched.append(info.url.rpartition("/")[2])
        download(info, *rest)

    download = fetching.download
    monkeypatch.setattr(fetching, "download", counted)
    url = "memory://bases/small"
    storage.upload_folder(base, url)
    wanted = recipe(base={"path": url}, adapt={"way": "head"})
    found = finetune(wanted)["tasks"]["mood"]
    finetune(recipe(base={"path": url}, adapt={"way": "head", "pooling": "last"}))
    assert fetched.count("model.safetensors") == 1
    assert len(fetched) == len(set(fetched))
    assert (tmp_path / "run" / "base" / "model.safetensors").read_bytes() == (
        base / "model.safetensors"
    ).read_bytes()
    fsspec.filesystem("memory").rm("memory://bases", recursive=True)
    again = finetune(recipe(base={"path": str(base)}, adapt={"way": "head"}))["tasks"]["mood"]
    assert again["trial"] == found["trial"]  # the same model, wherever it comes from


def test_the_folder_of_a_run_stands_for_the_model_that_it_released(recipe, base, tmp_path):
    shutil.copytree(base, tmp_path / "pretraining" / "model")
    model = open_base(BaseConfig(path=str(tmp_path / "pretraining")))
    assert model.folder == tmp_path / "pretraining" / "model"
