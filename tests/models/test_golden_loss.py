"""The first losses of a tiny model, as they were when every part had been checked against its peer.

A change of these numbers is a change of the mathematics: of the initial weights, the network, the loss or their
gradients. Whoever means it writes the new numbers down.
"""

from collections.abc import Callable

import pytest
import torch

from raypretrain.models.config import ModelConfig
from raypretrain.models.families import LanguageModel, build
from raypretrain.models.llama import Llama
from raypretrain.models.shape import ModelShape

MODELS = {
    "llama": ModelConfig(preset="llama-1m", width=64, layers=2, heads=4, key_value_heads=2, feed_forward=160),
    "gpt2": ModelConfig(preset="gpt2-1m", width=64, layers=2, heads=4, feed_forward=160),
    "bert": ModelConfig(preset="bert-1m", width=64, layers=3, heads=4, feed_forward=96),
    "modernbert": ModelConfig(
        preset="modernbert-1m", width=64, layers=3, heads=4, feed_forward=96, local_attention=16
    ),
    "esm2": ModelConfig(preset="esm2-1m", width=64, layers=3, heads=4, feed_forward=96),
}
MASK = 0

LOSSES = {
    "llama": [
        5.567418,
        5.497265,
        5.527556,
        5.439053,
        5.411557,
        5.311182,
        5.241870,
        5.292131,
        5.260119,
        5.193599,
        5.049129,
        4.924675,
        4.879709,
        4.894961,
        4.856352,
        4.762235,
        4.630988,
        4.545679,
        4.507246,
        4.454117,
    ],
    "gpt2": [
        5.559385,
        5.502533,
        5.528270,
        5.456412,
        5.448731,
        5.347664,
        5.315096,
        5.306575,
        5.253008,
        5.241416,
    ],
    "bert": [
        5.557545,
        5.522816,
        5.541552,
        5.617971,
        5.606158,
        5.421869,
        5.433821,
        5.357603,
        5.539799,
        5.520253,
    ],
    "modernbert": [
        5.561873,
        5.511471,
        5.493885,
        5.630064,
        5.639502,
        5.417021,
        5.409689,
        5.338350,
        5.584305,
        5.583189,
        5.803623,
        5.716726,
        5.453022,
        5.450373,
        5.215878,
        5.301348,
        5.290097,
        5.183077,
        5.577023,
        5.510887,
    ],
    "esm2": [
        5.545467,
        5.531217,
        5.550324,
        5.635250,
        5.608582,
        5.528679,
        5.437307,
        5.357199,
        5.555723,
        5.541517,
    ],
}


def _tokens(step: int) -> torch.Tensor:
    """[4, 49] ids < 256 that can be learned: each row a walk of its own stride, the same on every machine."""
    rows, columns = torch.arange(4)[:, None], torch.arange(49)[None]
    return (columns * (3 + (rows + step) % 5) + 11 * rows + 7 * step) % 256


def _causal_loss(model: LanguageModel, step: int) -> torch.Tensor:
    ids = _tokens(step)
    return model(ids[:, :-1], ids[:, 1:])


def _masked_loss(model: LanguageModel, step: int) -> torch.Tensor:
    """A quarter of the positions are hidden, each step others."""
    ids = _tokens(step)[:, :-1]
    hidden = (torch.arange(4)[:, None] + torch.arange(48)[None] * 3 + step) % 4 == 0
    return model(ids.masked_fill(hidden, MASK), ids.masked_fill(~hidden, -100))


def _first_losses(
    shape: ModelShape, loss_of: Callable[[LanguageModel, int], torch.Tensor], count: int
) -> list[float]:
    model = build(shape)
    model.init_weights(0)
    # A gradient that is all rounding moves its weight by the whole rate with the usual eps, and CPUs round differently.
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), eps=1e-4, weight_decay=0.1)
    losses = []
    for step in range(count):
        loss = loss_of(model, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("family", LOSSES)
def test_the_first_losses_are_the_golden_ones(family: str):
    model, golden = MODELS[family], LOSSES[family]
    loss_of = _causal_loss if model.objective == "causal" else _masked_loss
    assert _first_losses(model.shape(256, 48), loss_of, len(golden)) == pytest.approx(golden, abs=1e-5, rel=0)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(states))  # of no influence
        model = Llama(ModelConfig(preset="llama-1m").shape(100, 16))
        model.init_weights(seed)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    matrices = [name for name in states[0] if "norm" not in name]
    assert not any(torch.equal(states[0][name], states[2][name]) for name in matrices)


def test_initial_weights_have_the_spread_that_is_promised():
    shape = ModelConfig(preset="llama-3m", initializer_range=0.05, tied=False).shape(1000, 16)
    model = Llama(shape)
    model.init_weights(0)
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            assert torch.equal(weight, torch.ones_like(weight))
            continue
        residual = name.endswith(("output.weight", "down.weight"))
        expected = 0.05 / (2 * shape.layers) ** 0.5 if residual else 0.05
        assert weight.std().item() == pytest.approx(expected, rel=0.02), name
        assert abs(weight.mean().item()) < 0.02 * expected, name
