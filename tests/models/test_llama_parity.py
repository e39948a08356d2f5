"""The decoder and its exports against transformers' own Llama."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)
from uneven import spread

from raypretrain.models.config import ModelConfig, ModelShape
from raypretrain.models.heads import SequenceClassifier
from raypretrain.models.huggingface import save_language_model
from raypretrain.models.llama import Llama
from raypretrain.models.loading import load_base
from raypretrain.models.releasing import Special, save_classifier
from raypretrain.models.rope import RopeScaling

PAD = 3
SHAPES = {
    f"{'grouped' if kv == 2 else 'full'}-{'tied' if tied else 'untied'}": ModelConfig(
        preset="llama-1m", width=64, layers=3, heads=8, key_value_heads=kv, feed_forward=96, tied=tied
    ).shape(300, 64)
    for kv in (8, 2)
    for tied in (True, False)
}
# So short that the sequences below are beyond it.
SHAPES["linear"] = replace(SHAPES["full-tied"], rope_scaling=RopeScaling(kind="linear", factor=4))
SHAPES["llama3"] = replace(
    SHAPES["full-tied"], rope_scaling=RopeScaling(kind="llama3", factor=8, original_length=32)
)


@pytest.fixture(params=SHAPES)
def shape(request) -> ModelShape:
    return SHAPES[request.param]


def _ids(shape: ModelShape, batch: int = 3, length: int = 40) -> torch.Tensor:
    return torch.randint(
        PAD + 1, shape.vocabulary, (batch, length), generator=torch.Generator().manual_seed(2)
    )


def test_the_exported_model_gives_the_same_logits(shape, tmp_path):
    model = spread(Llama(shape))
    save_language_model(model.state_dict(), shape, tmp_path, bos=1, eos=2, pad=PAD)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(theirs, LlamaForCausalLM)
    assert theirs.num_parameters() == shape.parameters
    ids = _ids(shape)
    with torch.no_grad():
        assert (model(ids) - theirs(ids).logits).abs().max() < 1e-4
    assert (theirs.config.bos_token_id, theirs.config.eos_token_id, theirs.config.pad_token_id) == (1, 2, PAD)
    assert theirs.generation_config.eos_token_id == 2


def test_a_model_from_transformers_gives_the_same_logits_here(shape, tmp_path):
    theirs = spread(LlamaForCausalLM(LlamaConfig(**shape.to_huggingface_config())))
    theirs.save_pretrained(tmp_path)
    found, state = load_base(tmp_path)
    assert found == shape
    model = Llama(found)
    model.load_state_dict(state)
    with torch.no_grad():
        assert (model(_ids(shape)) - theirs(_ids(shape)).logits).abs().max() < 1e-4


def test_the_scaling_of_positions_matters_at_this_length():
    """Else the comparisons above would show nothing of it."""
    plain, ids = spread(Llama(SHAPES["full-tied"])), _ids(SHAPES["full-tied"])
    for kind in ("linear", "llama3"):
        scaled = Llama(SHAPES[kind])
        scaled.load_state_dict(plain.state_dict())
        with torch.no_grad():
            assert (plain(ids) - scaled(ids)).abs().max() > 1e-2


def test_loss_and_gradients_are_those_of_transformers(shape, tmp_path):
    model = spread(Llama(shape))
    save_language_model(model.state_dict(), shape, tmp_path, bos=1, eos=2, pad=PAD)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = _ids(shape)
    loss = model(ids[:, :-1], ids[:, 1:])
    reference = theirs(ids, labels=ids).loss
    torch.testing.assert_close(loss, reference, rtol=1e-5, atol=1e-5)
    loss.backward()
    reference.backward()
    pairs = {
        model.embedding.weight: theirs.model.embed_tokens.weight,
        model.norm.weight: theirs.model.norm.weight,
        model.blocks[1].attention.key.weight: theirs.model.layers[1].self_attn.k_proj.weight,
        model.blocks[2].feed_forward.gate.weight: theirs.model.layers[2].mlp.gate_proj.weight,
    }
    for mine, his in pairs.items():
        torch.testing.assert_close(mine.grad, his.grad, rtol=1e-3, atol=1e-5)


def test_a_round_trip_changes_no_bit(shape, tmp_path):
    model = spread(Llama(shape))
    save_language_model(model.state_dict(), shape, tmp_path, bos=1, eos=2, pad=PAD)
    found, state = load_base(tmp_path)
    assert found == shape
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(weight, state[name]) for name, weight in model.state_dict().items())


def test_in_bf16_both_round_alike(tmp_path):
    shape = SHAPES["grouped-tied"]
    model = spread(Llama(shape)).bfloat16()
    save_language_model(model.state_dict(), shape, tmp_path, bos=1, eos=2, pad=PAD)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.dtype == torch.bfloat16
    exact = Llama(shape)
    exact.load_state_dict(model.state_dict())
    with torch.no_grad():
        truth = exact(_ids(shape))
        ours, reference = (
            (m.float() - truth).norm() for m in (model(_ids(shape)), theirs(_ids(shape)).logits)
        )
    assert ours < 1.1 * reference
    assert ours < 0.05 * truth.norm()


def test_dtype_converts_the_exported_weights(tmp_path):
    shape = SHAPES["full-tied"]
    save_language_model(
        spread(Llama(shape)).state_dict(), shape, tmp_path, bos=1, eos=2, pad=PAD, dtype=torch.bfloat16
    )
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert all(weight.dtype == torch.bfloat16 for weight in load_base(tmp_path)[1].values())


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_the_exported_classifier_scores_a_padded_batch_alike(shape, pooling, tmp_path):
    classifier = spread(SequenceClassifier(Llama(shape), 3, pooling))
    save_classifier(classifier, tmp_path, ["bad", "fair", "good"], Special(PAD, 1, 2))
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert theirs.config.id2label == {0: "bad", 1: "fair", 2: "good"}
    lengths = torch.tensor([40, 1, 17])
    ids = _ids(shape).where(torch.arange(40) < lengths[:, None], PAD)
    with torch.no_grad():
        ours = classifier(ids, lengths)
        scores = theirs(ids, attention_mask=(ids != PAD).long()).logits
        assert (ours - scores).abs().max() < 1e-4


def test_the_mean_is_a_mean_over_the_real_tokens():
    """Whatever the last token contributes by itself stays below one part in a hundred."""
    shape = replace(SHAPES["full-tied"], layers=1)
    classifier = spread(SequenceClassifier(Llama(shape), 2, "mean"))
    ids, lengths = _ids(shape, batch=2), torch.tensor([40, 25])
    with torch.no_grad():
        normed = classifier.network.norm(classifier.network.hidden(ids))
        means = torch.stack([normed[i, :n].mean(0) for i, n in enumerate(lengths)])
        expected = means / means.pow(2).mean(-1, keepdim=True).sqrt()
        assert (classifier.features(ids, lengths) - expected).norm() < 0.02 * expected.norm()
