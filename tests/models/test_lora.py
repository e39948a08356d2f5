"""Low-rank adapters: on every family, what they compute and what they train."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapters import KINDS, LAYERS, SHAPES, adapted, apart, learned, random, some_ids
from torch.nn import functional as F
from uneven import spread

from raypretrain.config import validate
from raypretrain.errors import InputError, RecipeError
from raypretrain.models import linear as linear_module
from raypretrain.models.families import build
from raypretrain.models.linear import Linear
from raypretrain.models.lora import (
    AdaptedLinear,
    adapter_state,
    add_adapters,
    load_adapters,
    merged_state,
)
from raypretrain.models.lora_config import LoraConfig

PLAIN = [(64, 64)] * 4, [(64, 96), (96, 64)]
SIDES = {
    "llama": ([(64, 64), (64, 32), (64, 32), (64, 64)], [(64, 96), (64, 96), (96, 64)]),
    "gpt2": ([(64, 192), (64, 64)], [(64, 96), (96, 64)]),
    "bert": PLAIN,
    "modernbert": ([(64, 192), (64, 64)], [(64, 192), (96, 64)]),
    "esm2": PLAIN,
}
"""Inputs and outputs of the matrices of a layer: of attention, and of the feed-forward block."""


@pytest.fixture(params=SHAPES)
def family(request) -> str:
    return request.param


@pytest.fixture(params=KINDS)
def config(request) -> LoraConfig:
    return KINDS[request.param]


def test_at_first_the_network_computes_what_it_did(family, config):
    network = spread(build(SHAPES[family]))
    with torch.no_grad():
        before = network(some_ids())
        add_adapters(network, config, seed=0)
        assert apart(network(some_ids()), before) < 1e-6


def test_merged_into_the_plain_model_they_compute_the_same(family, config):
    network = adapted(SHAPES[family], config)
    plain, base = build(SHAPES[family]), spread(build(SHAPES[family]))
    plain.load_state_dict(merged_state(network))
    with torch.no_grad():
        ours, merged, unadapted = (model(some_ids()) for model in (network, plain, base))
    assert apart(ours, merged) < 1e-5
    assert apart(ours, unadapted) > 0.1


def test_only_the_adapters_get_gradients_and_all_of_them(family, config):
    network = adapted(SHAPES[family], config)
    network(some_ids(), some_ids()).backward()
    trained = {name for name, weight in network.named_parameters() if weight.grad is not None}
    assert trained == adapter_state(network).keys()
    assert all(network.get_parameter(name).grad.abs().max() > 0 for name in trained)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("targets", ["all", "attention", "feed_forward"])
def test_as_many_parameters_are_trained_as_the_formula_says(family, targets, dora):
    attention, feed_forward = SIDES[family]
    sides = {"attention": attention, "feed_forward": feed_forward, "all": attention + feed_forward}[targets]
    expected = LAYERS * sum(5 * (inputs + outputs) + dora * outputs for inputs, outputs in sides)
    network = build(SHAPES[family])
    add_adapters(network, LoraConfig(rank=5, targets=targets, dora=dora), seed=0)
    assert sum(weight.numel() for weight in network.parameters() if weight.requires_grad) == expected


def test_the_base_keeps_its_matrices_and_their_names(family, config):
    network = spread(build(SHAPES[family]))
    before = dict(network.named_parameters())
    add_adapters(network, config, seed=0)
    after = dict(network.named_parameters())
    assert all(after[name] is weight for name, weight in before.items())
    kinds = {name.rpartition(".")[2] for name in after.keys() - before.keys()}
    assert kinds == {"lora_a", "lora_b"} | ({"magnitude"} if config.dora else set())


def test_the_same_seed_gives_the_same_weights():
    states = []
    for seed in (7, 7, 8):
        network = spread(build(SHAPES["llama"]))
        add_adapters(network, LoraConfig(), seed)
        states.append(adapter_state(network))
    name = "blocks.1.feed_forward.down.lora_a"
    assert all(torch.equal(weight, states[1][name]) for name, weight in states[0].items())
    assert not torch.equal(states[0][name], states[2][name])
    bound = 96**-0.5
    assert 0.9 * bound < states[0][name].abs().max() <= bound
    assert not states[0][name.replace("lora_a", "lora_b")].any()


@pytest.mark.parametrize("by_onednn", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_output_and_gradients_are_those_of_the_formula(kind, bias, by_onednn, monkeypatch):
    if by_onednn and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setitem(linear_module._ways, "mkl is slow", lambda: by_onednn)
    config = KINDS[kind]
    frozen = Linear(48, 40, bias=bias).requires_grad_(False)
    layer = AdaptedLinear(frozen, config, torch.Generator().manual_seed(0))
    with torch.no_grad():
        layer.lora_b.copy_(random(40, 4))
    trained = [weight for weight in layer.parameters() if weight.requires_grad]
    assert len(trained) == (3 if config.dora else 2)
    x, upstream = random(3, 50, 48).requires_grad_(), random(3, 50, 40, seed=1)

    whole = frozen.weight + config.scale * layer.lora_b @ layer.lora_a
    if config.dora:
        whole = layer.magnitude[:, None] * whole / whole.norm(dim=1, keepdim=True).detach()
    wanted = F.linear(x, whole, frozen.bias)
    found = layer(x)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    pairs = zip(*(torch.autograd.grad(y, (x, *trained), upstream) for y in (found, wanted)), strict=True)
    for mine, reference in pairs:
        assert apart(mine, reference) < 1e-5


def test_the_scale_is_alpha_by_the_rank_or_by_its_root():
    assert LoraConfig(rank=16, alpha=8).scale == 0.5
    assert LoraConfig(rank=16, alpha=8, rank_stabilised=True).scale == 2


def test_a_row_of_zeros_stays_one_with_dora():
    frozen = Linear(8, 4).requires_grad_(False)
    frozen.weight[2] = 0
    layer = AdaptedLinear(frozen, LoraConfig(rank=2, dora=True), torch.Generator())
    y = layer(random(5, 8))
    y.sum().backward()
    assert not y[:, 2].any()
    assert not layer.merged()[2].any()
    assert all(torch.isfinite(weight.grad).all() for weight in (layer.lora_a, layer.lora_b, layer.magnitude))


def test_dropout_is_for_training_alone():
    network = adapted(SHAPES["bert"], LoraConfig(rank=4, dropout=0.5))
    without = adapted(SHAPES["bert"], LoraConfig(rank=4))
    with torch.no_grad():
        assert torch.equal(network(some_ids()), without(some_ids()))
        network.train()
        assert apart(network(some_ids()), without(some_ids())) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_bf16_model_has_adapters_in_fp32(kind):
    network = spread(build(SHAPES["gpt2"])).bfloat16()
    add_adapters(network, KINDS[kind], seed=0)
    learned(network)
    assert {weight.dtype for weight in adapter_state(network).values()} == {torch.float32}
    merged = merged_state(network)
    assert {weight.dtype for weight in merged.values()} == {torch.bfloat16}
    plain = build(SHAPES["gpt2"])
    plain.load_state_dict(merged)
    with torch.no_grad():
        ours, exact = network(some_ids()), plain(some_ids())
    assert ours.dtype == torch.bfloat16
    assert (ours.float() - exact).norm() < 0.05 * exact.norm()


def test_adapters_are_loaded_into_another_network(config):
    one, other = adapted(SHAPES["esm2"], config), spread(build(SHAPES["esm2"]))
    add_adapters(other, config, seed=1)
    load_adapters(other, adapter_state(one), where="adapters.safetensors")
    with torch.no_grad():
        assert torch.equal(one(some_ids()), other(some_ids()))


def test_adapters_that_do_not_fit_are_refused_in_one_line():
    network = adapted(SHAPES["llama"], KINDS["lora"])
    state, name = adapter_state(network), "blocks.0.attention.key.lora_a"
    for wrong, said in (
        ({key: weight for key, weight in state.items() if key != name}, f"the adapter '{name}' is missing"),
        (state | {"blocks.9.lora_a": state[name]}, "the adapter 'blocks.9.lora_a' is unknown"),
        (state | {name: state[name][:2]}, f"the adapter '{name}' has the shape [2, 64], not [4, 64]"),
    ):
        with pytest.raises(InputError) as caught:
            load_adapters(network, wrong, where="there")
        assert str(caught.value) == f"there: {said}"


def test_a_rank_above_a_side_is_refused_and_nothing_changed():
    network = build(SHAPES["llama"])
    with pytest.raises(InputError) as caught:
        add_adapters(network, LoraConfig(rank=33), seed=0)
    line = "lora: rank 33 is larger than a side of blocks.0.attention.key.weight [32, 64]; give at most 32"
    assert str(caught.value) == line
    assert not adapter_state(network)
    assert all(weight.requires_grad for weight in network.parameters())


def test_a_second_set_of_adapters_is_refused():
    network = adapted(SHAPES["llama"], KINDS["lora"])
    with pytest.raises(ValueError, match="has adapters already"):
        add_adapters(network, KINDS["lora"], seed=0)


@pytest.mark.parametrize(
    "values",
    [
        {"rank": 0}, {"rank": 2.5}, {"alpha": 0}, {"alpha": float("inf")}, {"dropout": 1.0}, {"dropout": -0.1},
        {"targets": "mlp"}, {"rnak": 4},
    ],
    ids=str,
)  # fmt: skip
def test_a_bad_config_is_refused_in_one_line(values):
    with pytest.raises(RecipeError) as caught:
        validate(values, LoraConfig, folder=Path("."), where="r.yaml")
    assert next(iter(values)) in str(caught.value)
    assert "\n" not in str(caught.value)
