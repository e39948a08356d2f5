"""The encoder and its exports against transformers' own ModernBERT."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForMaskedLM, ModernBertConfig, ModernBertForMaskedLM
from uneven import spread

from raypretrain.models.config import ModelConfig
from raypretrain.models.families import build
from raypretrain.models.huggingface import save_language_model
from raypretrain.models.loading import load_base
from raypretrain.models.modernbert import ModernBert
from raypretrain.models.shape import ModelShape

PAD = 3
IGNORED = -100
SHAPE = ModelConfig(preset="modernbert-1m", width=64, layers=5, heads=4, feed_forward=96).shape(300, 512)
SHAPES = {
    "as published": SHAPE,
    "other sizes": replace(
        SHAPE, global_every=2, local_attention=60, global_rope_theta=5e4, local_rope_theta=3e3, norm_eps=1e-4
    ),
    "all global": replace(SHAPE, global_every=1, layers=2),
}
SPECIAL = {"bos": 1, "eos": 2, "pad": PAD}


@pytest.fixture(params=SHAPES)
def shape(request) -> ModelShape:
    return SHAPES[request.param]


def _ids(length: int, batch: int = 3) -> torch.Tensor:
    """Without the id of the padding: transformers takes no gradient for its row of the embedding."""
    return torch.randint(PAD + 1, 300, (batch, length), generator=torch.Generator().manual_seed(2))


def _some_targets(ids: torch.Tensor) -> torch.Tensor:
    chosen = torch.rand(ids.shape, generator=torch.Generator().manual_seed(3)) < 0.2
    return torch.where(chosen, ids, IGNORED)


def _theirs(folder, attention: str = "sdpa", **options) -> ModernBertForMaskedLM:
    model = AutoModelForMaskedLM.from_pretrained(folder, attn_implementation=attention, **options)
    assert isinstance(model, ModernBertForMaskedLM)
    return model.eval()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_exported_model_gives_the_same_logits(shape, attention, tmp_path):
    model = spread(ModernBert(shape))
    save_language_model(model.state_dict(), shape, tmp_path, **SPECIAL)
    theirs = _theirs(tmp_path, attention)
    assert theirs.num_parameters() == shape.parameters
    for length in (20, 65, 66, 200, 300):  # within the local window, at its edge, and far beyond
        with torch.no_grad():
            assert (model(_ids(length)) - theirs(_ids(length)).logits).abs().max() < 1e-4
    config = theirs.config
    assert (config.bos_token_id, config.cls_token_id) == (1, 1)
    assert (config.eos_token_id, config.sep_token_id) == (2, 2)
    assert config.pad_token_id == PAD
    assert config.architectures == ["ModernBertForMaskedLM"]


def test_a_model_from_transformers_gives_the_same_logits_here(shape, tmp_path):
    config = ModernBertConfig(**shape.to_huggingface_config(), **shape.special_tokens(1, 2, PAD))
    theirs = spread(ModernBertForMaskedLM(config))
    theirs.save_pretrained(tmp_path)
    found, state = load_base(tmp_path)
    assert found == shape
    model = build(found)
    model.load_state_dict(state)
    with torch.no_grad():
        for length in (200, 300):
            assert (model(_ids(length)) - theirs(_ids(length)).logits).abs().max() < 1e-4


def test_the_window_matters_at_these_lengths():
    """Else the comparisons above would show nothing of it."""
    model, ids = spread(ModernBert(SHAPE)), _ids(200)
    narrower = ModernBert(replace(SHAPE, local_attention=126))
    narrower.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert (model(ids) - narrower(ids)).abs().max() > 1e-2


def test_loss_and_gradients_are_those_of_transformers(shape, tmp_path):
    model = spread(ModernBert(shape))
    save_language_model(model.state_dict(), shape, tmp_path, **SPECIAL)
    theirs = _theirs(tmp_path)
    ids = _ids(200)
    targets = _some_targets(ids)
    loss, reference = model(ids, targets), theirs(ids, labels=targets).loss
    torch.testing.assert_close(loss, reference, rtol=1e-5, atol=1e-5)
    loss.backward()
    reference.backward()
    last = shape.layers - 1
    pairs = {
        model.embedding.weight: theirs.model.embeddings.tok_embeddings.weight,
        model.embedding_norm.weight: theirs.model.embeddings.norm.weight,
        model.bias: theirs.decoder.bias,
        model.head.dense.weight: theirs.head.dense.weight,
        model.blocks[1].attention_norm.weight: theirs.model.layers[1].attn_norm.weight,
        model.blocks[1].attention.query_key_value.weight: theirs.model.layers[1].attn.Wqkv.weight,
        model.blocks[last].feed_forward.gate_up.weight: theirs.model.layers[last].mlp.Wi.weight,
    }
    for mine, his in pairs.items():
        torch.testing.assert_close(mine.grad, his.grad, rtol=1e-3, atol=1e-5)


def test_a_round_trip_changes_no_bit(shape, tmp_path):
    model = spread(ModernBert(shape))
    save_language_model(model.state_dict(), shape, tmp_path, **SPECIAL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    found, state = load_base(tmp_path)
    assert found == shape
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(weight, state[name]) for name, weight in model.state_dict().items())


def test_in_bf16_both_round_alike(tmp_path):
    model = spread(ModernBert(SHAPE)).bfloat16()
    save_language_model(model.state_dict(), SHAPE, tmp_path, **SPECIAL)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    theirs = _theirs(tmp_path, dtype=torch.bfloat16)
    exact = ModernBert(SHAPE)
    exact.load_state_dict(model.state_dict())
    ids = _ids(200)
    with torch.no_grad():
        truth = exact(ids)
        ours, reference = ((m.float() - truth).norm() for m in (model(ids), theirs(ids).logits))
    assert ours < 1.1 * reference
    assert ours < 0.05 * truth.norm()
