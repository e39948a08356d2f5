"""Sampling against the plain recomputation of every step."""

import math

import pytest
import torch

from raypretrain.errors import InputError
from raypretrain.models.config import ModelConfig
from raypretrain.models.families import LanguageModel, build
from raypretrain.models.huggingface import save_language_model
from raypretrain.models.sample import generate
from raypretrain.training.sampling import sample

GROUPED = {"key_value_heads": 2}


@pytest.fixture(scope="module", params=[("llama-1m", GROUPED), ("gpt2-1m", {})], ids=["llama", "gpt2"])
def model(request) -> LanguageModel:
    preset, own = request.param
    config = ModelConfig(preset=preset, width=32, layers=3, heads=4, initializer_range=0.5, **own)
    model = build(config.shape(60, 40))
    model.init_weights(3)
    return model


def _greedy(model: LanguageModel, ids: list[int], count: int) -> list[int]:
    """Without a cache: the whole sequence again for every token."""
    ids = list(ids)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[-count:]


def test_the_cache_changes_no_token(model):
    prompt = [1, 5, 9, 30]
    expected = _greedy(model, prompt, 20)
    assert len(set(expected)) > 3  # not the same token over and over, which would show nothing
    assert generate(model, prompt, 20, temperature=0) == expected


def test_the_same_seed_draws_the_same_tokens(model):
    draws = [generate(model, [1], 20, seed=seed) for seed in (7, 7, 8)]
    assert draws[0] == draws[1] != draws[2]


def test_eos_ends_the_text_and_is_left_out(model):
    tokens = _greedy(model, [1, 5, 9], 20)
    eos = tokens[6]
    assert generate(model, [1, 5, 9], 20, temperature=0, eos=eos) == tokens[: tokens.index(eos)]


def test_the_longest_sequence_of_the_model_ends_the_text(model):
    assert len(generate(model, [1] * 30, 100)) == 10
    assert generate(model, [1] * 40, 100) == []


def test_top_k_and_top_p_of_the_likeliest_alone_are_greedy(model):
    expected = _greedy(model, [1, 5], 10)
    assert generate(model, [1, 5], 10, top_k=1) == expected
    assert generate(model, [1, 5], 10, top_p=1e-6) == expected


def test_draws_follow_the_models_probabilities(model):
    """One step, many seeds: frequencies within four standard errors, and nothing outside the nucleus."""
    with torch.no_grad():
        probabilities = torch.softmax(model(torch.tensor([[4]]))[0, -1] / 2.0, dim=-1)
    draws = [generate(model, [4], 1, temperature=2.0, seed=seed)[0] for seed in range(600)]
    token = int(probabilities.argmax())
    p = float(probabilities[token])
    assert abs(draws.count(token) / 600 - p) < 4 * math.sqrt(p * (1 - p) / 600)
    ordered = probabilities.sort(descending=True)
    kept = int((ordered.values.cumsum(0) - ordered.values < 0.5).sum())
    nucleus = set(ordered.indices[:kept].tolist())
    assert {
        generate(model, [4], 1, temperature=2.0, top_p=0.5, seed=seed)[0] for seed in range(200)
    } <= nucleus


def test_an_empty_prompt_is_refused(model):
    with pytest.raises(ValueError, match="at least one token"):
        generate(model, [], 5)


def test_an_encoder_continues_no_text(tmp_path):
    shape = ModelConfig(preset="modernbert-1m", width=32, layers=1, heads=2, feed_forward=32).shape(60, 40)
    encoder = build(shape)
    save_language_model(encoder.state_dict(), shape, tmp_path, bos=1, eos=2, pad=3)
    with pytest.raises(InputError, match=r"is an encoder .*give a decoder, e.g. of type 'llama'") as caught:
        sample(tmp_path, "a prompt", 5, 1.0, 0.9, seeds=[1])
    assert str(caught.value).startswith(f"{tmp_path}/config.json: ")
