"""What a layer is counted to keep for its backward pass on a CPU, against what autograd keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from raypretrain.models.config import PRESETS
from raypretrain.models.families import build
from raypretrain.models.shape import ModelShape
from raypretrain.planning.layout import Layout
from raypretrain.planning.memory import activations, kept_by_layer, memory
from raypretrain.training.planned import network_of

LENGTH = 512
LAYOUT = Layout(workers=1, zero=0, micro_batch=1, length=LENGTH, precision="fp32", blockwise=True)


def kept(shape: ModelShape, dtype: torch.dtype, documents: bool) -> int:
    """Bytes of the tensors that a forward pass leaves, weights not counted."""
    model = build(shape).to(dtype)
    model.init_weights(0)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    found: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        found.setdefault(storage.data_ptr(), storage)
        return tensor

    ids = torch.zeros(1, LENGTH, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(ids, ids, starts=torch.zeros_like(ids) if documents else None)
        assert loss.requires_grad
    return sum(storage.nbytes() for place, storage in found.items() if place not in own)


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("preset", ["llama-1m", "gpt2-1m", "bert-1m", "modernbert-1m", "esm2-1m"])
def test_a_layer_keeps_what_autograd_keeps(preset: str, dtype: torch.dtype, documents: bool) -> None:
    shape = replace(PRESETS[preset], vocabulary=64, max_length=LENGTH)
    # Of ModernBERT's layers every third sees everything: three more are one round.
    few, many = (kept(replace(shape, layers=layers), dtype, documents) for layers in (3, 6))
    layout = replace(LAYOUT, precision="fp32" if dtype == torch.float32 else "bf16", documents=documents)
    counted = kept_by_layer(network_of(replace(shape, layers=3)), layout)
    assert counted == pytest.approx((many - few) / 3 / LENGTH / layout.unit, rel=0.01)


def test_without_training_one_layer_is_there_at_a_time() -> None:
    network = network_of(replace(PRESETS["llama-3m"], vocabulary=64, max_length=LENGTH))
    frozen = replace(LAYOUT, trained=0.0)
    assert activations(network, frozen) == kept_by_layer(network, frozen) * LENGTH * 4
    assert memory(network, frozen)["gradients"] == memory(network, frozen)["optimizer"] == 0
    assert memory(network, frozen)["weights"] == memory(network, LAYOUT)["weights"]
