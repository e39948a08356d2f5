"""What is built of a shape."""

import subprocess
import sys

import pytest
import torch

from raypretrain.models.config import ModelConfig
from raypretrain.models.families import build

PRESETS = ["llama-1m", "gpt2-1m", "bert-1m", "modernbert-1m", "esm2-1m"]


@pytest.mark.parametrize("preset", PRESETS)
def test_building_draws_no_random_numbers(preset: str):
    shape = ModelConfig(preset=preset).shape(320, 64)
    before = torch.random.get_rng_state()
    build(shape)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_weight_is_set_by_the_first_weights(preset: str):
    networks = [build(ModelConfig(preset=preset).shape(320, 64)) for _ in range(2)]
    for network in networks:
        with torch.no_grad():
            for weight in network.parameters():
                weight.fill_(torch.nan)
        network.init_weights(1)
    for one, other in zip(*(network.state_dict().values() for network in networks), strict=True):
        assert torch.isfinite(one).all()
        assert torch.equal(one, other)


BUILD = """
import sys, torch
from raypretrain.models.config import ModelConfig
from raypretrain.models.layout import expected_shapes
expected_shapes(ModelConfig(preset="llama-1m").shape(320, 64))
assert "torch._dynamo" not in sys.modules
"""


def test_the_shapes_of_weights_are_known_without_torch_importing_its_compiler():
    subprocess.run([sys.executable, "-c", BUILD], check=True)
