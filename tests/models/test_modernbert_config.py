"""The encoder's presets, overrides, sizes, and the config of Hugging Face."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ModernBertConfig

from raypretrain.config import validate
from raypretrain.errors import InputError, RecipeError
from raypretrain.models.config import ModelConfig, ModernBertShape, read_shape
from raypretrain.models.families import build
from raypretrain.models.huggingface import save_language_model
from raypretrain.models.loading import load_base

SHAPE = ModelConfig(preset="modernbert-1m", width=32, layers=4, heads=2, feed_forward=48).shape(100, 64)


def _recipe_error(tmp_path, **values) -> str:
    with pytest.raises(RecipeError) as caught:
        validate(values, ModelConfig, folder=tmp_path, where="recipe.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["modernbert-1m", "modernbert-10m", "modernbert-30m"])
def test_a_small_preset_has_about_the_parameters_of_its_name(name):
    shape = ModelConfig(preset=name).shape(1000, 64)
    millions = int(name.removeprefix("modernbert-").removesuffix("m"))
    assert (shape.parameters - 1000 * (shape.width + 1)) / 1e6 == pytest.approx(millions, rel=0.1)
    assert shape.is_global(shape.layers - 1)


@pytest.mark.parametrize(
    ("name", "parameters"), [("modernbert-base", 149_655_232), ("modernbert-large", 395_881_664)]
)
def test_a_published_preset_has_exactly_the_published_parameters(name, parameters):
    assert ModelConfig(preset=name).shape(50_368, 8192).parameters == parameters


@pytest.mark.parametrize("layers", [1, 4])
def test_parameters_are_those_of_the_model_built(layers):
    shape = ModelConfig(preset="modernbert-1m", layers=layers).shape(500, 64)
    assert shape.parameters == sum(weight.numel() for weight in build(shape).parameters())


def test_flops_count_windows_where_layers_are_local_and_the_head_where_something_is_predicted():
    shape = ModelConfig(preset="modernbert-1m", local_attention=32).shape(500, 64)
    layers = 6 * sum(
        weight.numel()
        for name, weight in build(shape).named_parameters()
        if "blocks" in name and weight.ndim > 1
    )
    head = 6 * (128 * 128 + 500 * 128)
    for length, seen in ((64, 3 * 64 + 4 * 33), (20, 7 * 20)):
        attention = 12 * 128 * seen
        assert shape.flops_per_token(length) == layers + attention + head
        assert shape.flops_per_token(length, 0.25) == layers + attention + head // 4


def test_overrides_replace_the_presets_numbers():
    shape = ModelConfig(
        preset="modernbert-10m", width=256, heads=4, global_every=2, local_attention=64, global_rope_theta=1e4
    ).shape(100, 32)
    assert (shape.width, shape.heads, shape.head_width, shape.reach) == (256, 4, 64, 32)
    assert [shape.is_global(layer) for layer in range(4)] == [True, False, True, False]
    assert (shape.global_rope_theta, shape.local_rope_theta) == (1e4, 1e4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"key_value_heads": 2}, "key_value_heads: there is no such setting in the family 'modernbert'"),
        ({"rope_theta": 5e5}, "rope_theta: there is no such setting in the family 'modernbert'"),
        ({"preset": "llama-1m", "global_every": 3}, "no such setting in the family 'llama'"),
        ({"preset": "llama-1m", "local_attention": 64}, "no such setting in the family 'llama'"),
        ({"tied": False}, "tied cannot be false"),
        ({"local_attention": 7}, "local_attention 7 must be even"),
        ({"heads": 7}, "7 heads do not divide the width 128"),
        ({"heads": 128}, "must be even"),
        ({"preset": "modernbert-2m"}, "did you mean 'modernbert-1m'?"),
    ],
)
def test_an_impossible_shape_gets_one_line(values, message, tmp_path):
    assert message in _recipe_error(tmp_path, **{"preset": "modernbert-1m"} | values)


def test_a_setting_of_another_family_is_found_at_its_line(tmp_path):
    with pytest.raises(RecipeError) as caught:
        validate(
            {"preset": "modernbert-1m", "rope_theta": 1e4},
            ModelConfig,
            folder=tmp_path,
            where="recipe.yaml",
            lines={("preset",): 1, ("rope_theta",): 2},
        )
    assert str(caught.value).startswith("recipe.yaml:2: rope_theta: ")


@pytest.mark.parametrize(
    "values",
    [
        {"preset": "modernbert-base"},
        {"preset": "modernbert-1m", "layers": 2},  # of every period
        {"preset": "modernbert-1m", "global_every": 1, "local_attention": 30, "local_rope_theta": 5e3},
        {"preset": "modernbert-1m", "global_every": 9},
    ],
)
def test_a_shape_survives_transformers_config(values):
    shape = ModelConfig(**values).shape(1000, 256)
    theirs = ModernBertConfig(**shape.to_huggingface_config(), **shape.special_tokens(1, 2, 3))
    assert read_shape(theirs.to_dict(), "config.json") == shape


def test_the_period_of_a_config_that_names_none_is_found_in_its_layers():
    values = ModelConfig(preset="modernbert-1m", global_every=4).shape(100, 64).to_huggingface_config()
    del values["global_attn_every_n_layers"]
    assert read_shape(values, "config.json").global_every == 4


def test_the_config_of_an_older_transformers_is_understood():
    """The keys that the published models' configs have."""
    values = {
        "architectures": ["ModernBertForMaskedLM"],
        "model_type": "modernbert",
        "attention_bias": False,
        "attention_dropout": 0.1,
        "classifier_activation": "gelu",
        "classifier_bias": False,
        "decoder_bias": True,
        "deterministic_flash_attn": False,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "hidden_activation": "gelu",
        "hidden_size": 768,
        "intermediate_size": 1152,
        "layer_norm_eps": 1e-05,
        "local_attention": 128,
        "local_rope_theta": 10000.0,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "norm_bias": False,
        "norm_eps": 1e-05,
        "num_attention_heads": 12,
        "num_hidden_layers": 22,
        "vocab_size": 50368,
    }
    assert read_shape(values, "config.json") == ModelConfig(preset="modernbert-base").shape(50_368, 8192)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "t5"},
            "type 't5'; give a model of type 'llama' or 'gpt2' or 'bert' or 'modernbert' or 'esm'",
        ),
        ({"hidden_size": None}, "no size"),
        ({"num_attention_heads": 0}, "no size"),
        ({"num_attention_heads": 5}, "make no ModernBERT"),
        ({"local_attention": 0}, "make no ModernBERT"),
        ({"tie_word_embeddings": False}, "tied cannot be false"),
        ({"hidden_activation": "silu"}, "hidden_activation 'silu'"),
        ({"classifier_activation": "gelu_new"}, "classifier_activation 'gelu_new'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"norm_bias": True}, "norm_bias"),
        ({"classifier_bias": True}, "classifier_bias"),
        ({"decoder_bias": False}, "decoder_bias"),
        ({"layer_types": ["full_attention"] * 3 + ["sliding_attention"]}, "layer_types"),
        ({"layer_types": ["sliding_attention"] * 4}, "layer_types"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 8.0}}, "linear"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
            r"rope_parameters\.full_attention: yarn",
        ),
        ({"rope_parameters": ["yarn"]}, "'rope_parameters' that is no mapping"),
    ],
)
def test_a_config_that_would_compute_something_else_is_refused(change, message):
    with pytest.raises(InputError, match=message) as caught:
        read_shape(SHAPE.to_huggingface_config() | change, "base/config.json")
    assert str(caught.value).startswith("base/config.json: ")
    assert "\n" not in str(caught.value)


def test_dropout_is_ignored_and_a_missing_key_is_named():
    values = SHAPE.to_huggingface_config() | {
        "attention_dropout": 0.1,
        "mlp_dropout": 0.1,
        "embedding_dropout": 0.1,
    }
    assert ModernBertShape.from_huggingface_config(values, "config.json") == SHAPE
    del values["intermediate_size"]
    with pytest.raises(InputError, match="'intermediate_size' is missing"):
        read_shape(values, "config.json")


@pytest.fixture
def folder(tmp_path):
    model = build(SHAPE)
    model.init_weights(0)
    save_language_model(model.state_dict(), SHAPE, tmp_path, bos=1, eos=2, pad=None)
    return tmp_path


def test_a_copy_of_the_embedding_that_was_saved_is_left_out(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file(weights | {"decoder.weight": weights["model.embeddings.tok_embeddings.weight"].clone()}, path)
    assert load_base(folder)[1].keys() == build(SHAPE).state_dict().keys()


def test_missing_surplus_and_misshapen_weights_are_named(folder):
    path = folder / "model.safetensors"
    original = load_file(path)
    for change, message in (
        ({"decoder.bias": None}, "lacks bias"),
        # The first layer has none; a model that has one computes something else.
        ({"model.layers.0.attn_norm.weight": torch.zeros(32)}, r"unknown blocks\.0\.attention_norm\.weight"),
        ({"model.layers.0.attn.Wqkv.bias": torch.zeros(96)}, r"unknown model\.layers\.0\.attn\.Wqkv\.bias"),
        ({"head.norm.weight": torch.zeros(3)}, r"head\.norm\.weight \[3\] \(not \[32\]\)"),
    ):
        save_file({name: w for name, w in (original | change).items() if w is not None}, path)
        with pytest.raises(InputError, match=message):
            load_base(folder)


def test_the_config_holds_the_special_tokens_under_their_names(folder):
    config = json.loads((folder / "config.json").read_text())
    special = {name: value for name, value in config.items() if name.endswith("_token_id")}
    assert special == {
        "bos_token_id": 1,
        "cls_token_id": 1,
        "eos_token_id": 2,
        "sep_token_id": 2,
        "pad_token_id": None,
    }
