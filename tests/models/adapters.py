"""Networks of every family with adapters that have learned something, for the tests of adapters."""

from __future__ import annotations

import torch
from torch import Tensor
from uneven import spread

from raypretrain.models.config import ModelConfig
from raypretrain.models.families import LanguageModel, build
from raypretrain.models.lora import adapter_state, add_adapters
from raypretrain.models.lora_config import LoraConfig
from raypretrain.models.shape import ModelShape

PAD, VOCABULARY, LAYERS = 3, 300, 2
SIZES = {"width": 64, "layers": LAYERS, "heads": 4, "feed_forward": 96}
SHAPES = {
    "llama": ModelConfig(preset="llama-1m", key_value_heads=2, tied=False, **SIZES).shape(VOCABULARY, 80),
    **{
        name: ModelConfig(preset=f"{name}-1m", **SIZES).shape(VOCABULARY, 80)
        for name in ("gpt2", "bert", "modernbert", "esm2")
    },
}
KINDS = {
    "lora": LoraConfig(rank=4, alpha=6),
    "rank-stabilised": LoraConfig(rank=4, alpha=2.5, rank_stabilised=True),
    "dora": LoraConfig(rank=4, alpha=6, dora=True),
}


def random(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed))


def some_ids() -> Tensor:
    """[3, 40]; without the padding, which transformers' ESM-2 hides."""
    return torch.randint(PAD + 1, VOCABULARY, (3, 40), generator=torch.Generator().manual_seed(2))


def learned(network: LanguageModel) -> LanguageModel:
    """With adapters as far from their beginning as training would bring them, and further."""
    for seed, (name, weight) in enumerate(adapter_state(network).items()):
        noise = random(*weight.shape, seed=seed)
        weight.mul_(1 + 0.3 * noise) if name.endswith("magnitude") else weight.copy_(0.2 * noise)
    return network


def adapted(shape: ModelShape, config: LoraConfig) -> LanguageModel:
    network = spread(build(shape))
    add_adapters(network, config, seed=0)
    return learned(network)


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference, against the largest entry."""
    return ((one - other).abs().max() / other.abs().max()).item()
