"""What trials start from, the model that each trains, and what it ends with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from raypretrain.finetuning.adapt import AdaptConfig
from raypretrain.finetuning.base import Packed, unpack
from raypretrain.finetuning.base_text import BaseText
from raypretrain.finetuning.kinds.kind import Kind
from raypretrain.finetuning.recipe import Precision
from raypretrain.models.families import LanguageModel
from raypretrain.models.families import build as build_network
from raypretrain.models.freezing import freeze_below
from raypretrain.models.layout import unread_by_heads
from raypretrain.models.lora import add_adapters, is_adapter, merged_state
from raypretrain.models.shape import ModelShape

WEIGHTS = "trained.safetensors"
"""What a trial changed: the head alone, adapters, or every weight."""


@dataclass(frozen=True)
class Start:
    """What all trials of a search have in common: the base model, in memory that they may share."""

    shape: ModelShape
    weights: Packed
    pad: int
    text: BaseText | None = None
    before: dict[str, Any] | None = None
    """What :func:`raypretrain.finetuning.forgetting.recall` says of the base."""
    precision: Precision = "fp32"
    """What the network computes in."""
    checkpointing: str = "none"
    """Whether a step keeps activations, or computes them again: ``none`` or ``full``."""


def build(start: Start, adapt: AdaptConfig, kind: Kind) -> nn.Module:
    """The model as a trial begins with it: the head zero, on the CPU, fp32; what is not trained wants no gradient."""
    network = build_network(start.shape).float()
    if adapt.init == "base":
        network.load_state_dict(unpack(start.weights))
    else:
        network.init_weights(adapt.seed)
    model = kind.model(network, adapt.pooling)
    if adapt.way == "lora":
        add_adapters(network, adapt.lora, adapt.seed)
    elif adapt.way == "head":
        network.requires_grad_(False)
    elif adapt.top_layers is not None:
        freeze_below(network, adapt.top_layers)
    if not kind.learns_output:
        unread = unread_by_heads(start.shape.family)
        for name, weight in network.named_parameters():
            if name in unread:
                weight.requires_grad_(False)
    return model


def set_precision(network: LanguageModel, precision: Precision) -> None:
    """Hold a network's weights in what it is to compute in, in place; adapters are in fp32 anyway."""
    if precision == "fp32":
        return
    for name, weight in network.named_parameters():
        if not is_adapter(name):
            weight.data = weight.data.to(torch.bfloat16)


def rebuild(start: Start, adapt: AdaptConfig, kind: Kind, folder: Path) -> nn.Module:
    """The model that a trial ended with, from what it saved in ``folder``; adapters are merged."""
    model: Any = build(start, adapt, kind)
    model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    if adapt.way == "lora":
        merged = build_network(start.shape).float()
        merged.load_state_dict(merged_state(model.network))
        model.network = merged
    return model
