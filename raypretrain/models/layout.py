"""Which weights a decoder has: their names here and in Hugging Face's Llama, and their shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from raypretrain.errors import InputError
from raypretrain.models.config import ModelShape

_TOP_NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
    "score.weight": "score.weight",
}
_LAYER_NAMES = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.query.weight": "self_attn.q_proj.weight",
    "attention.key.weight": "self_attn.k_proj.weight",
    "attention.value.weight": "self_attn.v_proj.weight",
    "attention.output.weight": "self_attn.o_proj.weight",
    "feed_forward_norm.weight": "post_attention_layernorm.weight",
    "feed_forward.gate.weight": "mlp.gate_proj.weight",
    "feed_forward.up.weight": "mlp.up_proj.weight",
    "feed_forward.down.weight": "mlp.down_proj.weight",
}
_TOP_NAMES_BACK = {theirs: ours for ours, theirs in _TOP_NAMES.items()}
_LAYER_NAMES_BACK = {theirs: ours for ours, theirs in _LAYER_NAMES.items()}


def to_huggingface_name(name: str) -> str:
    """``blocks.0.attention.key.weight`` → ``model.layers.0.self_attn.k_proj.weight``; KeyError if unknown."""
    if found := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
        return f"model.layers.{found[1]}.{_LAYER_NAMES[found[2]]}"
    return _TOP_NAMES[name]


def from_huggingface_name(name: str) -> str:
    """The inverse of :func:`to_huggingface_name`; KeyError if unknown."""
    if found := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name):
        return f"blocks.{found[1]}.{_LAYER_NAMES_BACK[found[2]]}"
    return _TOP_NAMES_BACK[name]


def expected_shapes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of a :class:`CausalLM` of this shape."""
    width, forward = shape.width, shape.feed_forward
    queries, keys = shape.heads * shape.head_width, shape.key_value_heads * shape.head_width
    layer: dict[str, tuple[int, ...]] = {
        "attention_norm.weight": (width,),
        "attention.query.weight": (queries, width),
        "attention.key.weight": (keys, width),
        "attention.value.weight": (keys, width),
        "attention.output.weight": (width, queries),
        "feed_forward_norm.weight": (width,),
        "feed_forward.gate.weight": (forward, width),
        "feed_forward.up.weight": (forward, width),
        "feed_forward.down.weight": (width, forward),
    }
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (shape.vocabulary, width)}
    for i in range(shape.layers):
        shapes |= {f"blocks.{i}.{name}": size for name, size in layer.items()}
    shapes["norm.weight"] = (width,)
    return shapes if shape.tied else shapes | {"head.weight": (shape.vocabulary, width)}


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
