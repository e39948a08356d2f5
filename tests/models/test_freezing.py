"""Where a weight stands, and the top layers trained alone, for every family."""

from __future__ import annotations

import pytest
import torch

from raypretrain.errors import InputError
from raypretrain.models.config import ModelConfig
from raypretrain.models.families import LanguageModel, build
from raypretrain.models.freezing import freeze_below, layer_of

LAYERS = 3
BOTTOM = {
    "llama-1m": {"embedding.weight"},
    "gpt2-1m": {"embedding.weight", "positions.weight"},
    "bert-1m": {
        "embedding.weight", "positions.weight", "token_types.weight", "embedding_norm.weight", "embedding_norm.bias",
    },
    "modernbert-1m": {"embedding.weight", "embedding_norm.weight"},
    "esm2-1m": {"embedding.weight"},
}  # fmt: skip


def made(preset: str, **sizes) -> LanguageModel:
    network = build(ModelConfig(preset=preset, layers=LAYERS, **sizes).shape(64, 32))
    network.init_weights(0)
    return network


@pytest.mark.parametrize("preset", BOTTOM)
def test_embeddings_are_at_the_bottom_and_what_follows_the_layers_at_the_top(preset):
    names = [name for name, _ in made(preset).named_parameters()]
    assert {name for name in names if layer_of(name, LAYERS) == 0} == BOTTOM[preset]
    for name in set(names) - BOTTOM[preset]:
        inside = name.startswith("blocks.")
        assert layer_of(name, LAYERS) == (1 + int(name.split(".")[1]) if inside else LAYERS + 1), name
    assert {layer_of(name, LAYERS) for name in names} >= {0, 1, 2, 3}


def test_adapters_stand_where_their_layer_does_and_a_head_on_top():
    assert layer_of("blocks.11.attention.query.lora_a", 12) == 12
    assert layer_of("score.weight", 12) == layer_of("head.weight", 12) == 13


@pytest.mark.parametrize("top", [0, 1, LAYERS])
@pytest.mark.parametrize("preset", BOTTOM)
def test_only_the_top_layers_and_what_follows_them_get_gradients(preset, top):
    network = made(preset)
    freeze_below(network, top)
    ids = torch.randint(0, 64, (2, 32), generator=torch.Generator().manual_seed(0))
    loss = network(ids, ids)
    loss.backward()
    with_gradient = {name for name, weight in network.named_parameters() if weight.grad is not None}
    expected = {name for name in network.state_dict() if layer_of(name, LAYERS) > LAYERS - top}
    assert with_gradient == expected
    blocks = {int(name.split(".")[1]) for name in with_gradient if name.startswith("blocks.")}
    assert blocks == set(range(LAYERS - top, LAYERS))
    assert any(not name.startswith("blocks.") for name in with_gradient)


def test_an_output_matrix_of_its_own_is_trained_and_a_tied_one_is_not():
    untied, tied = made("llama-1m", tied=False), made("llama-1m")
    for network in (untied, tied):
        freeze_below(network, 1)
    assert untied.head.weight.requires_grad
    assert not untied.embedding.weight.requires_grad
    assert not tied.embedding.weight.requires_grad


@pytest.mark.parametrize("top", [-1, LAYERS + 1])
def test_more_layers_than_there_are_are_refused_in_one_line(top):
    with pytest.raises(InputError) as caught:
        freeze_below(made("llama-1m"), top)
    assert str(caught.value) == f"top_layers: {top} top layers of a model that has 3; give 0 to 3"
