"""Rows for new tokens: the mean of those that the model has learned, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from raypretrain.models.config import PRESETS, ModelConfig
from raypretrain.models.families import build
from raypretrain.models.initial import with_new_rows
from raypretrain.models.layout import check_state
from raypretrain.models.shape import ModelShape

FAMILIES = ["llama-1m", "llama-untied", "gpt2-1m", "bert-1m", "modernbert-1m", "esm2-1m"]


def network(name: str, rows: int) -> tuple[ModelShape, Any]:
    """A small model with weights of which none is alike, biases too."""
    preset = name.replace("llama-untied", "llama-1m")
    assert preset in PRESETS
    config = ModelConfig.model_validate(
        {"preset": preset, "layers": 1, "width": 32, "heads": 2, "feed_forward": 48}
        | ({"tied": False} if name == "llama-untied" else {})
    )
    shape = config.shape(rows, 64)
    model = build(shape).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return shape, model


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_the_logit_of_a_new_token_is_the_mean_of_the_others_which_stay(name: str) -> None:
    shape, model = network(name, 50)
    larger = replace(shape, vocabulary=64)
    grown = with_new_rows(model.state_dict(), tokens=50, new=3, rows=64)
    check_state(grown, larger, "here")
    wider = build(larger).eval()
    wider.load_state_dict(grown)
    ids = torch.arange(50)[None]
    before, after = model(ids), wider(ids)
    torch.testing.assert_close(after[..., :50], before)
    mean = before.mean(-1, keepdim=True).expand(-1, -1, 14)
    torch.testing.assert_close(after[..., 50:], mean, atol=1e-5, rtol=1e-5)
    # So the probabilities of the others fall by the share of the new rows at most.
    assert (after.logsumexp(-1) - before.logsumexp(-1)).max() <= torch.tensor(64 / 50).log() + 1e-6
    assert torch.isfinite(wider(torch.tensor([[1, 50, 51, 52]]))).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_that_no_token_had_are_taken_first_and_count_in_no_mean(name: str) -> None:
    _, model = network(name, 64)
    state = model.state_dict()
    grown = with_new_rows(state, tokens=50, new=3, rows=64)
    changed = [weight for weight in state if not torch.equal(grown[weight], state[weight])]
    assert changed == [weight for weight in state if weight in ("embedding.weight", "head.weight", "bias")]
    for weight in changed:
        torch.testing.assert_close(
            grown[weight][50:53], state[weight][:50].mean(0).expand_as(state[weight][50:53])
        )
        assert torch.equal(grown[weight][:50], state[weight][:50])
        assert torch.equal(grown[weight][53:], state[weight][53:])


def test_without_new_tokens_nothing_is_touched() -> None:
    _, model = network("llama-untied", 50)
    state = model.state_dict()
    grown = with_new_rows(state, tokens=40, new=0, rows=50)
    assert all(grown[name] is state[name] for name in state)


def test_the_mean_keeps_the_weights_dtype_and_is_rounded_once() -> None:
    rows = torch.tensor([[256.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]).bfloat16()
    grown = with_new_rows({"embedding.weight": rows}, tokens=4, new=1, rows=5)["embedding.weight"]
    assert grown.dtype == torch.bfloat16
    assert grown[4].tolist() == [torch.tensor(259 / 4).bfloat16().item(), 1.0]
