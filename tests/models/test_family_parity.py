"""GPT-2, BERT and ESM-2 and their exports against transformers' own."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertForMaskedLM,
    BertModel,
    EsmForMaskedLM,
    GPT2LMHeadModel,
    GPT2Model,
)
from uneven import spread

from raypretrain.errors import InputError
from raypretrain.models.config import ModelConfig
from raypretrain.models.families import build
from raypretrain.models.huggingface import save_language_model
from raypretrain.models.loading import load_base
from raypretrain.models.shape import ModelShape

PAD, MASK, IGNORED, VOCABULARY = 3, 4, -100, 300
SPECIAL = {"bos": 1, "eos": 2, "pad": PAD}
THEIRS = {"gpt2": GPT2LMHeadModel, "bert": BertForMaskedLM, "esm": EsmForMaskedLM}
GPT2 = ModelConfig(preset="gpt2-1m", width=64, layers=3, heads=4, feed_forward=96).shape(VOCABULARY, 80)
BERT = ModelConfig(preset="bert-1m", width=64, layers=3, heads=4, feed_forward=96).shape(VOCABULARY, 80)
ESM2 = ModelConfig(preset="esm2-1m", width=64, layers=3, heads=4, feed_forward=96).shape(VOCABULARY, 80)
SHAPES = {
    "gpt2": GPT2,
    "gpt2 of odd heads": replace(GPT2, width=60, head_width=15, norm_eps=1e-3),
    "bert": BERT,
    "bert of three token types": replace(BERT, token_types=3, norm_eps=1e-3),
    "esm2": ESM2,
    "esm2 with the mask dropped out": replace(ESM2, mask_token=MASK, rope_theta=500.0),
}


@pytest.fixture(params=SHAPES)
def shape(request) -> ModelShape:
    return SHAPES[request.param]


def _ids(length: int = 60, batch: int = 3) -> torch.Tensor:
    """Some of them the mask; without the padding, for whose row transformers takes no gradient."""
    ids = torch.randint(PAD + 1, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(2))
    return ids.masked_fill(torch.rand(ids.shape, generator=torch.Generator().manual_seed(3)) < 0.2, MASK)


def _theirs(folder, shape: ModelShape, **options):
    auto = AutoModelForCausalLM if shape.objective == "causal" else AutoModelForMaskedLM
    model = auto.from_pretrained(folder, **options)
    assert type(model) is THEIRS[shape.family]
    return model.eval()


def _counted(model) -> int:
    """Without what transformers has for the contacts of a protein."""
    return sum(weight.numel() for name, weight in model.named_parameters() if "contact_head" not in name)


def test_the_exported_model_gives_the_same_logits(shape, tmp_path):
    model = spread(build(shape))
    save_language_model(model.state_dict(), shape, tmp_path, **SPECIAL)
    theirs = _theirs(tmp_path, shape)
    assert _counted(theirs) == shape.parameters == sum(weight.numel() for weight in model.parameters())
    for length in (20, 80):
        with torch.no_grad():
            assert (model(_ids(length)) - theirs(_ids(length)).logits).abs().max() < 1e-4
    assert (theirs.config.bos_token_id, theirs.config.eos_token_id) == (1, 2)
    assert theirs.config.pad_token_id == PAD
    assert theirs.config.architectures == [shape.architecture]


def test_a_model_from_transformers_gives_the_same_logits_here(shape, tmp_path):
    special = {"pad_token_id": PAD, "mask_token_id": MASK}
    values = shape.to_huggingface_config() | special
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    theirs = spread(THEIRS[shape.family](config))
    theirs.save_pretrained(tmp_path)
    found, state = load_base(tmp_path)
    assert found == shape
    model = build(found)
    model.load_state_dict(state)
    with torch.no_grad():
        assert (model(_ids()) - theirs(_ids()).logits).abs().max() < 1e-4


def test_loss_and_gradients_are_those_of_transformers(shape, tmp_path):
    model = spread(build(shape))
    save_language_model(model.state_dict(), shape, tmp_path, **SPECIAL)
    theirs = _theirs(tmp_path, shape)
    ids = _ids()
    if shape.objective == "causal":
        loss, reference = model(ids[:, :-1], ids[:, 1:]), theirs(ids, labels=ids).loss
    else:
        targets = ids.masked_fill(torch.arange(ids.shape[1]) % 4 > 0, IGNORED)
        loss, reference = model(ids, targets), theirs(ids, labels=targets).loss
    torch.testing.assert_close(loss, reference, rtol=1e-5, atol=1e-5)
    loss.backward()
    reference.backward()
    # Every gradient, under its name there and in its orientation.
    grads = {name: weight.grad for name, weight in model.named_parameters()}
    (tmp_path / "grads").mkdir()
    save_language_model(grads, shape, tmp_path / "grads", **SPECIAL)
    ours = load_file(tmp_path / "grads" / "model.safetensors")
    expected = {name: weight.grad for name, weight in theirs.named_parameters() if weight.grad is not None}
    assert len(ours) == len(expected)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=2e-5, msg=name)


def test_each_loss_is_that_of_its_target(shape):
    model, ids = spread(build(shape)), _ids()
    targets = ids.masked_fill(torch.arange(ids.shape[1]) % 4 > 0, IGNORED)
    each = torch.zeros(ids.shape)
    loss = model(ids, targets, each)
    assert each[targets != IGNORED].mean() == pytest.approx(loss.item(), rel=1e-5)
    assert (each[targets == IGNORED] == 0).all()


def test_a_round_trip_changes_no_bit(shape, tmp_path):
    model = spread(build(shape))
    save_language_model(model.state_dict(), shape, tmp_path, **SPECIAL)
    found, state = load_base(tmp_path)
    assert found == shape
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(weight, state[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("shape", [GPT2, BERT, ESM2], ids=lambda shape: shape.family)
def test_in_bf16_both_round_alike(shape, tmp_path):
    model = spread(build(shape)).bfloat16()
    save_language_model(model.state_dict(), shape, tmp_path, **SPECIAL)
    theirs = _theirs(tmp_path, shape, dtype=torch.bfloat16)
    exact = build(shape)
    exact.load_state_dict(model.state_dict())
    ids = _ids()
    with torch.no_grad():
        truth = exact(ids)
        ours, reference = ((m.float() - truth).norm() for m in (model(ids), theirs(ids).logits))
    assert ours < 1.1 * reference
    assert ours < 0.05 * truth.norm()


def test_the_published_gpt2_is_read_whose_names_have_no_prefix_and_which_saved_its_mask(tmp_path):
    theirs = spread(GPT2Model(AutoConfig.for_model("gpt2", **_values(GPT2))))
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    assert "wte.weight" in state
    causal = torch.ones(80, 80).tril()[None, None]
    save_file(state | {f"h.{i}.attn.bias": causal.clone() for i in range(3)}, path)
    found, weights = load_base(tmp_path)
    assert found == GPT2
    assert torch.equal(weights["blocks.1.attention.output.weight"], state["h.1.attn.c_proj.weight"].T)


def test_the_published_bert_is_read_whose_norms_are_gamma_and_beta(tmp_path):
    model = spread(build(BERT))
    save_language_model(model.state_dict(), BERT, tmp_path, **SPECIAL)
    path = tmp_path / "model.safetensors"
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): weight
        for name, weight in load_file(path).items()
    }
    rest = {"bert.pooler.dense.weight": torch.zeros(64, 64), "cls.seq_relationship.bias": torch.zeros(2)}
    save_file(old | rest, path)
    assert all(
        torch.equal(weight, load_base(tmp_path)[1][name]) for name, weight in model.state_dict().items()
    )


def test_a_bert_without_a_head_is_refused_by_the_names_that_are_missing(tmp_path):
    BertModel(AutoConfig.for_model("bert", **_values(BERT))).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"lacks bias, head\.dense\.bias, head\.dense\.weight and 2 more"):
        load_base(tmp_path)


def _values(shape: ModelShape) -> dict:
    values = shape.to_huggingface_config()
    return {key: value for key, value in values.items() if key not in ("model_type", "architectures")}


WRONG = [
    (GPT2, {"activation_function": "relu"}, "relu"),
    (GPT2, {"scale_attn_weights": False}, "does not scale its attention"),
    (GPT2, {"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn"),
    (GPT2, {"tie_word_embeddings": False}, "tied cannot be false"),
    (GPT2, {"n_head": 5}, "do not fill the width"),
    (GPT2, {"n_embd": None}, "no size"),
    (BERT, {"hidden_act": "relu"}, "hidden_act 'relu'"),
    (BERT, {"position_embedding_type": "relative_key"}, "relative_key"),
    (BERT, {"is_decoder": True}, "is_decoder"),
    (BERT, {"type_vocab_size": 0}, "token_types"),
    (ESM2, {"position_embedding_type": "absolute"}, "no ESM-2"),
    (ESM2, {"emb_layer_norm_before": True}, "emb_layer_norm_before"),
    (ESM2, {"token_dropout": True}, "'mask_token_id' is missing"),
    (ESM2, {"token_dropout": True, "mask_token_id": 300}, "not in the vocabulary"),
    (ESM2, {"num_attention_heads": 64}, "must be even"),
]


@pytest.mark.parametrize(("shape", "change", "message"), WRONG, ids=[str(row[1]) for row in WRONG])
def test_a_config_that_would_compute_something_else_is_refused(shape, change, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(shape.to_huggingface_config() | change))
    with pytest.raises(InputError, match=message) as caught:
        load_base(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "config.json"))
