"""Gradient checkpointing: activations that are computed again in the backward pass instead of being kept.

Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174; the selective form after Korthikanti et
al., Reducing Activation Recomputation in Large Transformer Models, arXiv:2205.05198, section 5.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from raypretrain.models.linear import ROUNDED_LINEAR

_aten = torch.ops.aten
_KEPT = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    ROUNDED_LINEAR,
}
"""What the selective form keeps: the results of the large products and of fused attention; the rest is cheap."""
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    _KEPT.add(torch.ops.mkldnn._linear_pointwise.default)


def checkpoint_blocks(model: nn.Module, kind: str, *, random: bool = False) -> None:
    """Have every layer of ``model`` keep less.

    Args:
        kind: ``none``; ``selective`` keeps the results of matrix products; ``full`` keeps a layer's input alone.
        random: something in the layers is drawn, as dropout is, and has to be drawn alike when it comes again.
    """
    if kind == "none":
        return
    from torch.utils import checkpoint as torchs  # it imports torch's compiler, which takes seconds

    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": random}
    if kind == "selective":
        keep, recompute = torchs.CheckpointPolicy.MUST_SAVE, torchs.CheckpointPolicy.PREFER_RECOMPUTE

        def policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> Any:
            return keep if operation in _KEPT else recompute

        options["context_fn"] = functools.partial(torchs.create_selective_checkpoint_contexts, policy)
    for block in model.blocks:  # type: ignore[union-attr]
        block.forward = functools.partial(torchs.checkpoint, block.forward, **options)
