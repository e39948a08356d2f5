"""The layers, compiled by torch.compile: what lies between the matrix products becomes few passes over memory.

Attention stays as it is (on CPUs it goes by blocks whose sizes follow from the documents), and so do embedding, head
and loss. The compiled code is kept on the disk (``TORCHINDUCTOR_CACHE_DIR``), so that another run of the same shape
finds it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from raypretrain.models import attention
from raypretrain.models.linear import prepare_for_compiling


def compiles(device: str) -> bool:
    """Whether there is what it takes: for CPUs a compiler."""
    return device == "cuda" or shutil.which("g++") is not None


def compile_blocks(model: nn.Module) -> None:
    """Compile every layer of ``model``; it happens in the first step, and takes seconds to a minute."""
    ways = attention.WAYS
    ways.causal, ways.bidirectional = map(torch.compiler.disable, (ways.causal, ways.bidirectional))
    prepare_for_compiling()
    for block in model.blocks:  # type: ignore[union-attr]
        block.forward = _WhileTraining(block.forward)


class _WhileTraining:
    """Compiled where gradients are taken; elsewhere it would be compiled once more for little."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._plain, self._compiled = function, torch.compile(function)

    def __call__(self, *inputs: Any) -> Any:
        return (self._compiled if torch.is_grad_enabled() else self._plain)(*inputs)
