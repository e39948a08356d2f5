"""Which weights a network has: their names here and in Hugging Face's layout, and their shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from raypretrain.errors import InputError
from raypretrain.models.families import build
from raypretrain.models.files import some
from raypretrain.models.shape import ModelShape


@dataclass(frozen=True)
class Names:
    """Our names of a family's weights → Hugging Face's.

    Args:
        top: of the weights outside the layers.
        layer: of those in a layer, after ``blocks.0.`` here and ``layers.0.`` there.
        layers: where its layers are there.
        output: Hugging Face's name of the output matrix, which old versions saved where it is the embedding too.
        transposed: the matrices of a layer, by their names there, that it has with the inputs first.
        derived: a pattern of what it may have and follows from its config or its other weights.
        left_out: a pattern of what it may have and is of no use here.
        head: the weights, by our names, that a model without its output has not.
    """

    top: Mapping[str, str]
    layer: Mapping[str, str]
    layers: str
    output: str
    transposed: frozenset[str] = frozenset()
    derived: str = r"(?!)"
    left_out: str = r"(?!)"
    head: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        """What a model saved without its output has not in front of its names."""
        return self.layers.partition(".")[0] + "."


def _both(ours: str, theirs: str) -> dict[str, str]:
    """A matrix and its bias, or a norm and its bias."""
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for kind in ("weight", "bias")}


_BERT_LAYER = {
    **_both("attention.query", "attention.self.query"),
    **_both("attention.key", "attention.self.key"),
    **_both("attention.value", "attention.self.value"),
    **_both("attention.output", "attention.output.dense"),
    **_both("feed_forward.up", "intermediate.dense"),
    **_both("feed_forward.down", "output.dense"),
}
_MASKED_HEAD = ("bias", "head.dense.weight", "head.dense.bias", "head.norm.weight", "head.norm.bias")

NAMES: dict[str, Names] = {
    "llama": Names(
        top={
            "embedding.weight": "model.embed_tokens.weight",
            "norm.weight": "model.norm.weight",
            "head.weight": "lm_head.weight",
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
        layers="model.layers",
        output="lm_head.weight",
    ),
    "gpt2": Names(
        top={
            "embedding.weight": "transformer.wte.weight",
            "positions.weight": "transformer.wpe.weight",
            **_both("norm", "transformer.ln_f"),
        },
        layer={
            **_both("attention_norm", "ln_1"),
            **_both("attention.query_key_value", "attn.c_attn"),
            **_both("attention.output", "attn.c_proj"),
            **_both("feed_forward_norm", "ln_2"),
            **_both("feed_forward.up", "mlp.c_fc"),
            **_both("feed_forward.down", "mlp.c_proj"),
        },
        layers="transformer.h",
        output="lm_head.weight",
        transposed=frozenset(
            ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
        ),
        derived=r".*\.attn\.(bias|masked_bias)",  # the causal mask
    ),
    "bert": Names(
        top={
            "embedding.weight": "bert.embeddings.word_embeddings.weight",
            "positions.weight": "bert.embeddings.position_embeddings.weight",
            "token_types.weight": "bert.embeddings.token_type_embeddings.weight",
            **_both("embedding_norm", "bert.embeddings.LayerNorm"),
            **_both("head.dense", "cls.predictions.transform.dense"),
            **_both("head.norm", "cls.predictions.transform.LayerNorm"),
            "bias": "cls.predictions.bias",
        },
        layer={
            **_BERT_LAYER,
            **_both("attention_norm", "attention.output.LayerNorm"),
            **_both("feed_forward_norm", "output.LayerNorm"),
        },
        layers="bert.encoder.layer",
        output="cls.predictions.decoder.weight",
        derived=r"cls\.predictions\.decoder\.bias|.*\.position_ids",
        left_out=r"bert\.pooler\..*|cls\.seq_relationship\..*",  # the pooler and the next sentence
        head=_MASKED_HEAD,
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
        layers="model.layers",
        output="decoder.weight",
        head=("bias", "head.dense.weight", "head.norm.weight"),
    ),
    "esm": Names(
        top={
            "embedding.weight": "esm.embeddings.word_embeddings.weight",
            **_both("norm", "esm.encoder.emb_layer_norm_after"),
            **_both("head.dense", "lm_head.dense"),
            **_both("head.norm", "lm_head.layer_norm"),
            "bias": "lm_head.bias",
        },
        layer={
            **_BERT_LAYER,
            **_both("attention_norm", "attention.LayerNorm"),
            **_both("feed_forward_norm", "LayerNorm"),
        },
        layers="esm.encoder.layer",
        output="lm_head.decoder.weight",
        # The published files have positions as well, which models whose positions are rotary do not use.
        derived=r".*\.position_(ids|embeddings\.weight)",
        left_out=r"esm\.(contact_head|pooler)\..*",
        head=_MASKED_HEAD,
    ),
}
"""By family."""


def unread_by_heads(family: str) -> frozenset[str]:
    """The weights, by our names, of which a head of another task reads nothing: those of the output.

    A ModernBERT's classifiers begin with the head of its pretraining.
    """
    return frozenset(("bias",)) if family == "modernbert" else frozenset((*NAMES[family].head, "head.weight"))


LEFT_OUT = ""
"""Our name of what a model has and is of no use here."""


def to_huggingface(state: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """A state dict under Hugging Face's names, in its orientation; KeyError for a name that is not known."""
    names = NAMES[family]
    made = {}
    for name, weight in state.items():
        if found := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
            theirs = names.layer[found[2]]
            made[f"{names.layers}.{found[1]}.{theirs}"] = weight.T if theirs in names.transposed else weight
        else:
            made[names.top[name]] = weight
    return made


def from_huggingface(name: str, weight: Tensor, shape: ModelShape) -> tuple[str, Tensor] | None:
    """Our name of a weight, or ``LEFT_OUT``, and it in our orientation. None for what follows from the rest.

    Raises:
        KeyError: it is not known.
    """
    names = NAMES[shape.family]
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)  # as converted from TensorFlow
    name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
    for full in (name, names.prefix + name):
        if full.endswith(".inv_freq") or (shape.tied and full == names.output):
            return None
        if re.fullmatch(names.derived, full):
            return None
        if re.fullmatch(names.left_out, full):
            return LEFT_OUT, weight
        if found := re.fullmatch(rf"{re.escape(names.layers)}\.(\d+)\.(.+)", full):
            ours = f"blocks.{found[1]}.{_ours(names.layer)[found[2]]}"
            return ours, weight.T if found[2] in names.transposed else weight
        if full in (top := _ours(names.top)):
            return top[full], weight
    raise KeyError(name)


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
