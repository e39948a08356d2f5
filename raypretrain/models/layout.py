"""Which weights a network has: their names here and in Hugging Face's layout, and their shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from raypretrain.errors import InputError
from raypretrain.models.families import build
from raypretrain.models.shape import ModelShape


@dataclass(frozen=True)
class Names:
    """Our names of a family's weights → Hugging Face's.

    Args:
        top: of the weights outside the layers.
        layer: of those in a layer, ``blocks.0.`` here and ``model.layers.0.`` there.
        output: Hugging Face's name of the output matrix, which old versions saved where it is the embedding too.
    """

    top: Mapping[str, str]
    layer: Mapping[str, str]
    output: str


NAMES: dict[str, Names] = {
    "llama": Names(
        top={
            "embedding.weight": "model.embed_tokens.weight",
            "norm.weight": "model.norm.weight",
            "head.weight": "lm_head.weight",
            "score.weight": "score.weight",
        },
        layer={
            "attention_norm.weight": "input_layernorm.weight",
            "attention.query.weight": "self_attn.q_proj.weight",
            "attention.key.weight": "self_attn.k_proj.weight",
            "attention.value.weight": "self_attn.v_proj.weight",
            "attention.output.weight": "self_attn.o_proj.weight",
            "feed_forward_norm.weight": "post_attention_layernorm.weight",
            "feed_forward.gate.weight": "mlp.gate_proj.weight",
            "feed_forward.up.weight": "mlp.up_proj.weight",
            "feed_forward.down.weight": "mlp.down_proj.weight",
        },
        output="lm_head.weight",
    ),
    "modernbert": Names(
        top={
            "embedding.weight": "model.embeddings.tok_embeddings.weight",
            "embedding_norm.weight": "model.embeddings.norm.weight",
            "norm.weight": "model.final_norm.weight",
            "head.dense.weight": "head.dense.weight",
            "head.norm.weight": "head.norm.weight",
            "bias": "decoder.bias",
        },
        layer={
            "attention_norm.weight": "attn_norm.weight",
            "attention.query_key_value.weight": "attn.Wqkv.weight",
            "attention.output.weight": "attn.Wo.weight",
            "feed_forward_norm.weight": "mlp_norm.weight",
            "feed_forward.gate_up.weight": "mlp.Wi.weight",
            "feed_forward.down.weight": "mlp.Wo.weight",
        },
        output="decoder.weight",
    ),
}
"""By family."""


def to_huggingface_name(name: str, family: str) -> str:
    """``blocks.0.attention.key.weight`` → ``model.layers.0.self_attn.k_proj.weight``; KeyError if unknown."""
    if found := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
        return f"model.layers.{found[1]}.{NAMES[family].layer[found[2]]}"
    return NAMES[family].top[name]


def from_huggingface_name(name: str, family: str) -> str:
    """The inverse of :func:`to_huggingface_name`; KeyError if unknown."""
    if found := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name):
        return f"blocks.{found[1]}.{_ours(NAMES[family].layer)[found[2]]}"
    return _ours(NAMES[family].top)[name]


def _ours(names: Mapping[str, str]) -> dict[str, str]:
    return {theirs: ours for ours, theirs in names.items()}


def expected_shapes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of a language model of this shape."""
    with torch.device("meta"):  # no memory, no numbers
        network = build(shape)
    return {name: tuple(weight.shape) for name, weight in network.state_dict().items()}


def check_state(state: Mapping[str, Tensor], shape: ModelShape, where: str) -> None:
    """Raise an InputError that names the first weights that are missing, surplus or of another shape."""
    expected = expected_shapes(shape)
    for problem, names in (
        ("lacks", expected.keys() - state.keys()),
        ("has an unknown", state.keys() - expected.keys()),
    ):
        if names:
            raise InputError(f"the model {problem} {some(names)}", where=where)
    wrong = [
        f"{name} {list(state[name].shape)} (not {list(size)})"
        for name, size in expected.items()
        if tuple(state[name].shape) != size
    ]
    if wrong:
        raise InputError(f"weights whose shape does not fit the config: {some(wrong)}", where=where)


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few of the names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more
