"""Compiled layers: the same losses and gradients up to rounding, and nothing compiled where none are taken."""

from __future__ import annotations

import pytest
import torch

from raypretrain.models import attention, linear
from raypretrain.models.compiling import compile_blocks, compiles
from raypretrain.models.config import ModelConfig
from raypretrain.models.families import build

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _ways_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "WAYS", attention._Ways())
    monkeypatch.setattr(linear, "_ways", {**linear._ways})


@pytest.mark.skipif(not compiles("cpu"), reason="there is no g++")
@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("preset", ["llama-1m", "modernbert-1m"])
def test_compiled_layers_compute_the_same(preset: str, slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = linear.Cpu(slow, slow, has_bf16=True)
    monkeypatch.setattr(linear, "this_cpu", lambda: cpu)
    shape = ModelConfig(preset=preset, width=32, layers=2, heads=2, feed_forward=48).shape(64, 40)
    plain, compiled = build(shape), build(shape)
    plain.init_weights(0)
    compiled.load_state_dict(plain.state_dict())
    compile_blocks(compiled)
    ids = torch.randint(0, 64, (3, 40), generator=torch.Generator().manual_seed(0))
    starts = torch.zeros_like(ids)
    starts[:, 17:] = 17
    losses = [model(ids, ids.clone(), starts=starts) for model in (plain, compiled)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)
    for loss in losses:
        loss.backward()
    for mine, wanted in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, wanted.grad, rtol=1e-3, atol=1e-6)
    before = torch._dynamo.utils.counters["frames"]["total"]
    with torch.no_grad():
        torch.testing.assert_close(compiled(ids[:2], starts=starts[:2]), plain(ids[:2], starts=starts[:2]))
    assert torch._dynamo.utils.counters["frames"]["total"] == before


def test_without_a_compiler_a_cpu_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not compiles("cpu")
    assert compiles("cuda")
