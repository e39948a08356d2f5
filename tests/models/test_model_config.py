"""Presets, overrides, sizes, and the config of Hugging Face."""

import subprocess
import sys

import pytest
from pydantic import ValidationError
from transformers import LlamaConfig, LlamaForCausalLM

from raypretrain.config import validate
from raypretrain.errors import InputError, RecipeError
from raypretrain.models.config import PRESETS, LlamaShape, ModelConfig
from raypretrain.models.llama import Llama
from raypretrain.models.rope import RopeScaling


def _recipe_error(tmp_path, **values) -> str:
    with pytest.raises(RecipeError) as caught:
        validate(values, ModelConfig, folder=tmp_path, where="recipe.yaml")
    return str(caught.value)


def test_the_config_is_read_without_torch():
    code = "import sys, raypretrain.models.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["llama-1m", "llama-3m", "llama-10m", "llama-30m", "llama-100m"])
def test_a_small_preset_has_about_the_parameters_of_its_name(name):
    shape = ModelConfig(preset=name).shape(1000, 64)
    millions = int(name.removeprefix("llama-").removesuffix("m"))
    assert (shape.parameters - 1000 * shape.width) / 1e6 == pytest.approx(millions, rel=0.1)


@pytest.mark.parametrize(
    ("name", "vocabulary", "parameters"),
    [
        # As published with the models.
        ("smollm2-135m", 49152, 134_515_008),
        ("llama-1b", 128_256, 1_235_814_400),
        ("llama-3b", 128_256, 3_212_749_824),
        ("llama-8b", 128_256, 8_030_261_248),
        ("llama-70b", 128_256, 70_553_706_496),
    ],
)
def test_a_published_preset_has_exactly_the_published_parameters(name, vocabulary, parameters):
    assert ModelConfig(preset=name).shape(vocabulary, 2048).parameters == parameters


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_the_model_built(tied):
    shape = ModelConfig(preset="llama-1m", key_value_heads=2, tied=tied).shape(500, 64)
    assert shape.parameters == sum(weight.numel() for weight in Llama(shape).parameters())


def test_flops_are_six_for_each_weight_of_a_matrix_and_those_of_the_attention():
    shape = ModelConfig(preset="llama-1m", tied=False).shape(500, 64)
    matrices = shape.parameters - 500 * 128 - 11 * 128  # without the look-up and the norms
    assert shape.flops_per_token(64) == 6 * matrices + 12 * 5 * 128 * 64
    assert shape.flops_per_token(64, 0.5) == shape.flops_per_token(64) - 3 * 500 * 128


def test_overrides_replace_the_presets_numbers():
    shape = ModelConfig(
        preset="llama-10m", width=256, heads=4, layers=2, feed_forward="1K", rope_theta=5e5, tied=False
    ).shape(100, 32)
    assert (shape.width, shape.heads, shape.key_value_heads, shape.head_width) == (256, 4, 4, 64)
    assert (shape.layers, shape.feed_forward, shape.rope_theta, shape.tied) == (2, 1000, 5e5, False)
    assert (shape.vocabulary, shape.max_length, shape.norm_eps) == (100, 32, 1e-5)


def test_grouped_heads_of_a_preset_stay_when_its_heads_change():
    assert ModelConfig(preset="llama-1b", heads=16).shape(100, 32).key_value_heads == 8


def test_an_unknown_preset_names_the_nearest(tmp_path):
    assert "did you mean 'llama-10m'?" in _recipe_error(tmp_path, preset="lama-10m")
    assert all(name in _recipe_error(tmp_path, preset="xyz") for name in PRESETS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"heads": 7}, "7 heads do not divide the width 384"),
        ({"key_value_heads": 4}, "4 key_value_heads do not divide the 6 heads"),
        ({"heads": 128}, "must be even"),
        ({"width": 0}, "width: Input should be greater than 0"),
        ({"widht": 5}, "did you mean 'width'?"),
    ],
)
def test_an_impossible_shape_gets_one_line(values, message, tmp_path):
    assert message in _recipe_error(tmp_path, **values)


@pytest.mark.parametrize("preset", ["llama-3m", "smollm2-135m", "llama-8b"])
def test_a_shape_survives_transformers_config(preset, tmp_path):
    shape = ModelConfig(preset=preset, initializer_range=0.03).shape(1000, 256)
    theirs = LlamaConfig(**shape.to_huggingface_config())
    assert LlamaShape.from_huggingface_config(theirs.to_dict(), "config.json") == shape


def test_the_config_of_an_older_transformers_is_understood():
    values = {
        "model_type": "llama",
        "vocab_size": 100,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "rope_theta": 500000.0,
        "rope_scaling": None,
        "rms_norm_eps": 1e-6,
    }
    shape = LlamaShape.from_huggingface_config(values, "config.json")
    assert (shape.key_value_heads, shape.head_width, shape.rope_theta, shape.tied) == (4, 16, 500000.0, False)
    assert shape.parameters == LlamaForCausalLM(LlamaConfig(**values)).num_parameters()


def test_the_scaling_of_positions_of_an_older_transformers_is_understood():
    values = ModelConfig().shape(100, 64).to_huggingface_config()
    del values["rope_parameters"]
    values["rope_scaling"] = {"type": "linear", "factor": 4.0}
    assert LlamaShape.from_huggingface_config(values, "c").rope_scaling == RopeScaling(
        kind="linear", factor=4
    )


def test_a_recipe_can_scale_positions():
    config = ModelConfig.model_validate(
        {"rope_scaling": {"kind": "llama3", "factor": 8, "original_length": "8192"}}
    )
    scaling = RopeScaling(kind="llama3", factor=8, original_length=8192)
    assert config.shape(100, 64).rope_scaling == scaling
    for wrong, message in (
        ({"kind": "llama3", "factor": 8}, "needs original_length"),
        ({"kind": "linear", "factor": 8, "low_frequency": 5}, "greater than low_frequency"),
        ({"kind": "yarn", "factor": 8}, "'linear' or 'llama3'"),
    ):
        with pytest.raises(ValidationError, match=message):
            ModelConfig.model_validate({"rope_scaling": wrong})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "type 'gpt2'"),
        ({"hidden_size": None}, "no size"),
        ({"num_attention_heads": 0}, "make no Llama"),
        ({"num_key_value_heads": 4}, "make no Llama"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "'low_freq_factor' is missing"),
        ({"rope_scaling": {"type": "dynamic", "factor": 8.0}}, "rope_scaling: dynamic"),
        (
            {"rope_scaling": {"type": "linear", "factor": 0.5}},
            "rope_scaling.factor: .*greater than or equal to 1",
        ),
        ({"rope_scaling": {"type": "linear", "factor": "two"}}, "no size"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "yarn"),
    ],
)
def test_a_config_that_would_compute_something_else_is_refused(change, message):
    values = ModelConfig().shape(100, 64).to_huggingface_config() | change
    with pytest.raises(InputError, match=message) as caught:
        LlamaShape.from_huggingface_config(values, "base/config.json")
    assert str(caught.value).startswith("base/config.json: ")


def test_a_missing_key_is_named():
    values = ModelConfig().shape(100, 64).to_huggingface_config()
    del values["intermediate_size"]
    with pytest.raises(InputError, match="'intermediate_size' is missing"):
        LlamaShape.from_huggingface_config(values, "config.json")


@pytest.mark.parametrize(
    ("preset", "vocabulary", "length", "parameters"),
    [
        ("gpt2-124m", 50257, 1024, 124_439_808),
        ("gpt2-1.5b", 50257, 1024, 1_557_611_200),
        ("llama2-7b", 32000, 4096, 6_738_415_616),
        ("llama-8b", 128256, 8192, 8_030_261_248),
        ("llama-405b", 128256, 8192, 405_853_388_800),
        ("bert-base", 30522, 512, 109_514_298),
        ("modernbert-base", 50368, 8192, 149_655_232),
    ],
)
def test_the_presets_have_as_many_parameters_as_the_published_models(preset, vocabulary, length, parameters):
    assert ModelConfig(preset=preset).shape(vocabulary, length).parameters == parameters
