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
        5.493984,
        5.526887,
        5.435814,
        5.405251,
        5.299279,
        5.228275,
        5.269907,
        5.234331,
        5.171401,
        5.012261,
        4.875541,
        4.832321,
        4.847622,
        4.804355,
        4.708990,
        4.578629,
        4.497225,
        4.454977,
        4.396537,
    ],
    "gpt2": [
        5.559385,
        5.500983,
        5.526207,
        5.454677,
        5.441698,
        5.343369,
        5.307761,
        5.298836,
        5.249397,
        5.234914,
    ],
    "bert": [
        5.557545,
        5.522290,
        5.541549,
        5.618443,
        5.607384,
        5.424622,
        5.432680,
        5.358213,
        5.537609,
        5.516701,
    ],
    "modernbert": [
        5.561873,
        5.510596,
        5.494722,
        5.632283,
        5.640096,
        5.416985,
        5.412883,
        5.336794,
        5.583894,
        5.579416,
        5.792245,
        5.690985,
        5.436218,
        5.417362,
        5.393925,
        5.364794,
        5.303173,
        5.182023,
        5.581158,
        5.521070,
    ],
    "esm2": [
        5.545467,
        5.531538,
        5.550355,
        5.636281,
        5.607174,
        5.650314,
        5.439312,
        5.358413,
        5.540863,
        5.528439,
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
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
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
