"""Parameters by part, exact to the last one against the built networks; and the operations of a token."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from raypretrain.models.config import PRESETS
from raypretrain.models.families import build
from raypretrain.models.shape import ModelShape
from raypretrain.planning.compute import mean_span, number_of_parameters, operations, parameters
from raypretrain.training.planned import network_of


def shape_of(preset: str) -> ModelShape:
    return replace(PRESETS[preset], vocabulary=1000, max_length=96)


def part_of(name: str, parameter: nn.Parameter) -> str:
    """The planner's word for a parameter of a built network."""
    parts = name.split(".")
    if "norm" in name and not name.startswith("head."):
        return "norms"
    if parts[0] == "blocks":
        matrix = parameter.ndim == 2
        return ("attention" if "attention" in parts else "feed-forward") if matrix else "biases"
    if parts[0] == "embedding":
        return "embedding"
    if parts[0] in ("positions", "token_types"):
        return "positions"
    return "output" if name == "head.weight" else "prediction head"


@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_by_part_are_those_of_the_built_network(preset: str) -> None:
    shape = shape_of(preset)
    with torch.device("meta"):
        model = build(shape)
    built: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        built[part_of(name, parameter)] += parameter.numel()
    assert parameters(network_of(shape)) == dict(built)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("predicted", [1.0, 0.3])
def test_what_a_token_costs_is_what_the_shape_says(preset: str, predicted: float) -> None:
    shape = shape_of(preset)
    ours = operations(network_of(shape), 96, predicted).training
    assert ours == pytest.approx(shape.flops_per_token(96, predicted), abs=1)  # it rounds


def test_published_sizes() -> None:
    """Llama 3.1's, of Hugging Face's model cards (8,030,261,248; 70,553,706,496; 405,853,388,800)."""
    sizes = {"llama-8b": 8_030_261_248, "llama-70b": 70_553_706_496, "llama-405b": 405_853_388_800}
    for preset, size in sizes.items():
        shape = replace(PRESETS[preset], vocabulary=128_256, max_length=8192)
        assert number_of_parameters(network_of(shape)) == size


def test_gpt_3_took_3_14e23_operations() -> None:
    """Brown et al., 2020, table D.1: 3.14e23 for 300 billion tokens, without attention."""
    shape = replace(PRESETS["gpt3-175b"], vocabulary=50_257, max_length=2048)
    cost = operations(network_of(shape), 2048)
    assert 300e9 * (cost.training - 3 * cost.attention) == pytest.approx(3.14e23, rel=0.02)


def test_documents_that_do_not_see_each_other_cost_less_attention() -> None:
    assert mean_span(1024) == 1024
    assert mean_span(1024, [256] * 40) == 256
    assert mean_span(1024, [1536]) == pytest.approx((1024**2 + 512**2) / 1536)  # cut at a row's end
    network = network_of(shape_of("llama-1m"))
    assert operations(network, 1024, documents=[256]).attention == operations(network, 256).attention


def test_local_layers_span_their_window_only() -> None:
    network = network_of(shape_of("modernbert-1m"))  # 7 layers, of which 0, 3 and 6 see everything
    long, longer = operations(network, 4096).attention, operations(network, 8192).attention
    assert longer - long == pytest.approx(3 * 4 * network.queries * 4096)


def test_full_checkpointing_computes_the_layers_again_and_selective_no_product() -> None:
    cost = operations(network_of(shape_of("llama-1m")), 96)
    assert cost.recomputed("none") == cost.recomputed("selective") == 0
    assert cost.recomputed("full") == cost.layers + cost.attention
