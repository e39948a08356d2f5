"""The encoder by itself: its loss, what a position sees, its first weights, and the table of families."""

import pytest
import torch
from torch.nn import functional as F

from raypretrain.models.config import PRESETS, SHAPES, ModelConfig
from raypretrain.models.families import NETWORKS, build
from raypretrain.models.llama import Llama
from raypretrain.models.modernbert import ModernBert

IGNORED = -100
TINY = ModelConfig(
    preset="modernbert-1m", width=16, layers=3, heads=2, feed_forward=24, global_every=2, local_attention=8
).shape(40, 32)


def _tiny(dtype: torch.dtype = torch.float32) -> ModernBert:
    """Weights large enough, and norms and bias uneven enough, that a mistake anywhere shows."""
    generator = torch.Generator().manual_seed(1)
    model = ModernBert(TINY).to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=dtype)
            weight.copy_(1 + 0.3 * noise if weight.ndim == 1 else 0.3 * noise)
    return model


def _batch(length: int = 21) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, TINY.vocabulary, (2, length), generator=generator)
    return ids, torch.where(torch.rand(ids.shape, generator=generator) < 0.3, ids, IGNORED)


def test_loss_and_every_gradient_are_those_of_the_logits_cross_entropy():
    model, (ids, targets) = _tiny(torch.float64), _batch()
    names, weights = zip(*model.named_parameters(), strict=True)
    loss = model(ids, targets)
    reference = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    torch.testing.assert_close(loss, reference, rtol=1e-12, atol=0)
    gradients = (torch.autograd.grad(result, weights) for result in (loss, reference))
    for name, mine, exact in zip(names, *gradients, strict=True):
        assert exact.norm() > 1e-6, name  # everything takes part
        torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-12, msg=name)


def test_the_gradient_is_the_slope_of_the_loss():
    """By differences, along one direction of all weights: autograd has no part in it."""
    model, (ids, targets) = _tiny(torch.float64), _batch()
    weights = list(model.parameters())
    generator = torch.Generator().manual_seed(5)
    ways = [torch.randn(weight.shape, generator=generator, dtype=torch.float64) for weight in weights]
    gradients = torch.autograd.grad(model(ids, targets), weights)
    expected = sum(float((slope * way).sum()) for slope, way in zip(gradients, ways, strict=True))
    losses = []
    for step in (1e-6, -2e-6):  # the second from where the first has led
        with torch.no_grad():
            for weight, way in zip(weights, ways, strict=True):
                weight.add_(way, alpha=step)
            losses.append(float(model(ids, targets)))
    assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(expected, rel=1e-5)


def test_each_takes_the_losses_of_the_targets_that_count():
    model, (ids, targets) = _tiny(), _batch()
    each = torch.full(ids.shape, 7.0)
    loss = model(ids, targets, each)
    counts = targets != IGNORED
    reference = F.cross_entropy(model(ids)[counts], targets[counts], reduction="none")
    torch.testing.assert_close(each[counts], reference)
    assert (each[~counts] == 7.0).all()
    torch.testing.assert_close(loss, reference.mean())
    measured = torch.zeros(ids.shape)
    with torch.no_grad():
        torch.testing.assert_close(model(ids, targets, measured), loss)
    torch.testing.assert_close(measured[counts], reference)


def test_only_the_positions_with_a_target_pass_the_head():
    model, (ids, targets) = _tiny(), _batch()
    rows = []
    model.head.register_forward_hook(lambda module, given, made: rows.append(len(made)))
    model(ids, targets)
    assert rows == [int((targets != IGNORED).sum())]


def test_without_a_target_that_counts_the_loss_is_nan():
    model, (ids, targets) = _tiny(), _batch()
    nothing = torch.full_like(targets, IGNORED)
    assert torch.isnan(model(ids, nothing))
    with torch.no_grad():
        assert torch.isnan(model(ids, nothing))


def test_what_a_position_predicts_depends_on_both_sides_and_in_local_layers_on_near_ones_alone():
    model, (ids, _) = _tiny(), _batch(30)
    x = model.embedding_norm(model.embedding(ids)).detach().requires_grad_()
    cos, sin = model.local_rotary.tables(0, 30, like=x)
    for block, seen in zip(model.blocks, (range(30), range(11, 20), range(30)), strict=True):
        slope = torch.autograd.grad(block(x, cos, sin)[0, 15].sum(), x)[0][0].norm(dim=-1)
        assert (slope > 0).nonzero()[:, 0].tolist() == list(seen)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(states))  # of no influence
        model = build(TINY)
        model.init_weights(seed)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    matrices = [name for name, weight in states[0].items() if weight.ndim == 2]
    assert not any(torch.equal(states[0][name], states[2][name]) for name in matrices)


def test_initial_weights_are_spread_and_cut_off_as_promised():
    shape = ModelConfig(preset="modernbert-1m", layers=3, initializer_range=0.05).shape(1000, 16)
    model = ModernBert(shape)
    model.init_weights(0)
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            assert torch.equal(weight, torch.full_like(weight, float(name != "bias"))), name
            continue
        scaled = name.endswith(("output.weight", "down.weight", "dense.weight"))
        spread = 0.05 / 6**0.5 if scaled else 0.05
        # A normal distribution that is cut off at two standard deviations keeps 0.8796 of its spread.
        assert weight.std().item() == pytest.approx(0.8796 * spread, rel=0.02), name
        assert weight.abs().max().item() == pytest.approx(2 * spread, rel=0.01), name


def test_every_family_is_built_from_its_shapes():
    assert list(NETWORKS) == list(SHAPES)
    assert {preset.family for preset in PRESETS.values()} == set(NETWORKS)
    for preset in ("llama-1m", "gpt2-1m", "bert-1m", "modernbert-1m", "esm2-1m"):
        shape = ModelConfig(preset=preset).shape(40, 32)
        network = build(shape)
        assert type(network) is NETWORKS[shape.family]
        assert network.shape == shape


def test_a_network_of_one_family_refuses_the_shape_of_another():
    with pytest.raises(TypeError, match="decoder cannot have the shape of a modernbert"):
        Llama(TINY)
    with pytest.raises(TypeError, match="encoder cannot have the shape of a llama"):
        ModernBert(ModelConfig(preset="llama-1m").shape(40, 32))
