"""Gradient checkpointing: the same gradients to the last bit, with less kept."""

from __future__ import annotations

import gc

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from raypretrain.models.checkpointing import checkpoint_blocks
from raypretrain.models.config import ModelConfig
from raypretrain.models.families import build

PRESETS = ("llama-1m", "gpt2-1m", "bert-1m", "modernbert-1m", "esm2-1m")
KINDS = ("none", "selective", "full")


def step(preset: str, kind: str, dtype: torch.dtype) -> tuple[float, list[torch.Tensor], int]:
    """Loss, gradients, and the bytes that a forward pass left for the backward pass."""
    model = build(ModelConfig(preset=preset, layers=4).shape(64, 128))
    model.init_weights(0)
    model.to(dtype)
    checkpoint_blocks(model, kind)
    ids = torch.randint(0, 64, (2, 128), generator=torch.Generator().manual_seed(0))
    starts = torch.zeros_like(ids)
    starts[:, 50:] = 50
    gc.collect()  # what an earlier test has left would be freed meanwhile, and counted
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        loss = model(ids, ids.clone(), starts=starts)
    kept = sum(event.self_cpu_memory_usage for event in profiled.events())
    loss.backward()
    return loss.item(), [p.grad for p in model.parameters() if p.grad is not None], kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("preset", PRESETS)
def test_less_is_kept_and_the_gradients_are_the_same(preset: str, dtype: torch.dtype) -> None:
    loss, gradients, everything = step(preset, "none", dtype)
    kept = [everything]
    for kind in KINDS[1:]:
        other_loss, others, bytes_kept = step(preset, kind, dtype)
        assert other_loss == loss
        for mine, wanted in zip(others, gradients, strict=True):
            assert torch.equal(mine, wanted)
        kept.append(bytes_kept)
    assert kept[0] > 1.3 * kept[1] > 1.69 * kept[2]
