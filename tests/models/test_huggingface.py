"""Reading and writing folders in Hugging Face's layout: what is refused, and how."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from raypretrain.errors import InputError
from raypretrain.models import huggingface
from raypretrain.models.config import ModelConfig
from raypretrain.models.huggingface import save_language_model
from raypretrain.models.llama import Llama
from raypretrain.models.loading import load_base

SHAPE = ModelConfig(preset="llama-1m", width=32, layers=2, heads=4, feed_forward=48).shape(100, 16)


@pytest.fixture
def model() -> Llama:
    model = Llama(SHAPE)
    model.init_weights(0)
    return model


@pytest.fixture
def folder(model, tmp_path):
    save_language_model(model.state_dict(), SHAPE, tmp_path, bos=1, eos=2, pad=3)
    return tmp_path


def _change_weights(folder, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def _refusal(folder) -> str:
    with pytest.raises(InputError) as caught:
        load_base(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_only_finished_files_are_left(folder):
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["config.json", "generation_config.json", "model.safetensors"]


def test_a_large_model_is_written_in_shards_that_transformers_and_we_read(model, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface, "SHARD_BYTES", 20_000)
    save_language_model(model.state_dict(), SHAPE, tmp_path, bos=1, eos=2, pad=3)
    files = sorted(path for path in tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    assert all(path.stat().st_size < 25_000 for path in files)
    state = load_base(tmp_path)[1]
    assert all(torch.equal(weight, state[name]) for name, weight in model.state_dict().items())
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(10)[None]
    torch.testing.assert_close(theirs(ids).logits, model(ids), rtol=1e-4, atol=1e-5)


def test_a_missing_shard_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface, "SHARD_BYTES", 20_000)
    save_language_model(model.state_dict(), SHAPE, tmp_path, bos=1, eos=2, pad=3)
    lost = sorted(tmp_path.glob("*.safetensors"))[1]
    lost.unlink()
    assert _refusal(tmp_path).startswith(f"{lost}: ")


def test_pickled_weights_are_refused_unread(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    message = _refusal(folder)
    assert "pytorch_model.bin" in message
    assert "save_pretrained" in message


def test_a_folder_that_is_not_there_or_empty_is_named(tmp_path):
    assert _refusal(tmp_path / "nothing").startswith(str(tmp_path / "nothing" / "config.json"))
    (tmp_path / "config.json").write_text(json.dumps(SHAPE.to_huggingface_config()))
    assert "holds no model.safetensors" in _refusal(tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", "\x00"])
def test_a_broken_config_is_named(folder, text):
    (folder / "config.json").write_text(text)
    assert _refusal(folder).startswith(str(folder / "config.json"))


def test_a_truncated_weights_file_is_named(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert _refusal(folder).startswith(str(path))


def test_missing_surplus_and_misshapen_weights_are_named(folder):
    original = load_file(folder / "model.safetensors")
    _change_weights(folder, lambda weights: weights.pop("model.norm.weight"))
    assert "lacks norm.weight" in _refusal(folder)
    save_file(original | {"model.extra.bias": torch.zeros(3)}, folder / "model.safetensors")
    assert "unknown model.extra.bias" in _refusal(folder)
    save_file(original | {"model.norm.weight": torch.zeros(3)}, folder / "model.safetensors")
    assert "norm.weight [3] (not [32])" in _refusal(folder)
    save_file(dict(list(original.items())[3:12]), folder / "model.safetensors")
    assert "more" in _refusal(folder)


def test_copies_that_old_versions_saved_are_left_out(folder, model):
    def add(weights):
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)

    _change_weights(folder, add)
    assert load_base(folder)[1].keys() == model.state_dict().keys()


def test_a_state_that_does_not_fit_is_not_written(model, tmp_path):
    state = model.state_dict()
    del state["norm.weight"]
    with pytest.raises(InputError, match=r"lacks norm\.weight"):
        save_language_model(state, SHAPE, tmp_path / "new", bos=1, eos=2, pad=3)
    assert not (tmp_path / "new").exists()
