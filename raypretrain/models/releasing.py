"""Classifiers and embedders in Hugging Face's layout, so that ``transformers`` computes what was trained.

Nothing here needs ``transformers``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raypretrain.errors import InputError
from raypretrain.models.heads import MEAN_SCALE, TANH_SCALE, SequenceClassifier, TokenClassifier
from raypretrain.models.huggingface import save_tensors
from raypretrain.models.layout import NAMES, to_huggingface, unread_by_heads
from raypretrain.models.llama_config import LlamaShape
from raypretrain.models.shape import ModelShape

State = dict[str, Tensor]


@dataclass(frozen=True)
class Special:
    """The ids of the tokenizer's special tokens; ``transformers`` finds a text's last token by the one for padding."""

    pad: int
    bos: int | None = None
    eos: int | None = None


@dataclass(frozen=True)
class _Class:
    """How a family's classes of ``transformers`` are named, and what their scores' matrix is named."""

    stem: str
    sequence: str
    token: str


_CLASSES = {
    "llama": _Class("Llama", "score", "score"),
    "gpt2": _Class("GPT2", "score", "classifier"),
    "bert": _Class("Bert", "classifier", "classifier"),
    "modernbert": _Class("ModernBert", "classifier", "classifier"),
    "esm": _Class("Esm", "classifier.out_proj", "classifier"),
}
_UNBIASED = ("llama", "gpt2")
"""Families whose classifier of texts has no bias."""

WORDS_PARTED_BY = "words_parted_by"
"""Key of our own in the config of a token classifier; ``transformers`` passes it on as an attribute."""


def save_classifier(
    classifier: SequenceClassifier,
    folder: str | Path,
    labels: Sequence[str],
    special: Special,
    problem: str = "single_label_classification",
    dtype: torch.dtype | None = None,
) -> None:
    """Write a folder that ``AutoModelForSequenceClassification`` loads and that scores alike.

    With the mean as pooling, the exported model of all families but ModernBERT has one layer more, see
    :func:`raypretrain.models.heads.pooled`.

    Args:
        labels: the names of the scores.
        problem: as ``transformers`` calls it: ``single_label_classification``, ``multi_label_classification``
            or ``regression``.

    Raises:
        InputError: the labels' number differs from the scores', or the shape cannot express the mean.
    """
    _check_labels(labels, classifier.score.out_features, folder)
    shape: ModelShape = classifier.network.shape
    state = dict(classifier.network.state_dict())
    family = _CLASSES[shape.family]
    config: dict[str, Any] = {}
    if shape.family == "modernbert":
        config["classifier_pooling"] = classifier.pooling
    elif classifier.pooling == "mean":
        shape, state = _with_mean_layer(shape, state, where=str(folder))
    tensors = _body(shape, state)
    (score, bias), name = classifier.released(), family.sequence
    if shape.family in ("bert", "esm"):
        dense = "bert.pooler.dense" if shape.family == "bert" else "classifier.dense"
        tensors[f"{dense}.weight"] = TANH_SCALE * torch.eye(shape.width, dtype=score.dtype)
        tensors[f"{dense}.bias"] = torch.zeros(shape.width, dtype=score.dtype)
        score = score / TANH_SCALE
    tensors[f"{name}.weight"] = score
    if shape.family not in _UNBIASED:
        tensors[f"{name}.bias"] = torch.zeros(len(labels), dtype=score.dtype) if bias is None else bias
    config |= {"problem_type": problem} | _named(labels)
    _save(tensors, shape, f"{family.stem}ForSequenceClassification", config, folder, special, dtype)


def save_token_classifier(
    classifier: TokenClassifier,
    folder: str | Path,
    labels: Sequence[str],
    special: Special,
    dtype: torch.dtype | None = None,
    between: str = " ",
) -> None:
    """Write a folder that ``AutoModelForTokenClassification`` loads and that scores alike.

    Args:
        between: what parted the words that it learned from; the config has it, as :data:`WORDS_PARTED_BY`.

    Raises:
        InputError: the labels' number differs from the scores'.
    """
    _check_labels(labels, classifier.score.out_features, folder)
    shape = classifier.network.shape
    family = _CLASSES[shape.family]
    tensors = _body(shape, dict(classifier.network.state_dict()))
    for part, weight in classifier.score.state_dict().items():
        tensors[f"{family.token}.{part}"] = weight
    name = f"{family.stem}ForTokenClassification"
    config = _named(labels) | {WORDS_PARTED_BY: between}
    _save(tensors, shape, name, config, folder, special, dtype)


def save_embedder(
    state: State, shape: ModelShape, folder: str | Path, special: Special, dtype: torch.dtype | None = None
) -> None:
    """Write a folder that ``AutoModel`` loads: the network without its output."""
    tensors = _body(shape, state)
    prefix = NAMES[shape.family].prefix
    tensors = {
        name.removeprefix(prefix): weight for name, weight in tensors.items() if name.startswith(prefix)
    }
    _save(tensors, shape, f"{_CLASSES[shape.family].stem}Model", {}, folder, special, dtype)


def _check_labels(labels: Sequence[str], scores: int, folder: str | Path) -> None:
    if len(labels) != scores:
        raise InputError(f"{len(labels)} labels for {scores} scores", where=str(folder))


def _named(labels: Sequence[str]) -> dict[str, Any]:
    return {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }


def _body(shape: ModelShape, state: State) -> State:
    """Under Hugging Face's names, without the output: classifiers have none. ModernBERT's have its head."""
    output = unread_by_heads(shape.family)
    return to_huggingface({name: w for name, w in state.items() if name not in output}, shape.family)


def _save(
    tensors: State,
    shape: ModelShape,
    architecture: str,
    config: dict[str, Any],
    folder: str | Path,
    special: Special,
    dtype: torch.dtype | None,
) -> None:
    whole = shape.to_huggingface_config() | {"architectures": [architecture]} | config
    # A classifier has no output matrix for the embedding to be tied to.
    ids = shape.special_tokens(special.bos, special.eos, special.pad)
    save_tensors(tensors, whole, folder, ids, dtype)


def _with_mean_layer(shape: ModelShape, state: State, where: str) -> tuple[ModelShape, State]:
    """Append the layer whose uniform attention adds ``MEAN_SCALE`` times the mean of the normalised stream.

    Its queries and keys are zero, its values the whole stream: so grouped key-value heads become one for each head,
    in every layer. Its feed-forward part is zero. Where there is a final norm, it moves into the layer.
    """
    inner = shape.heads * shape.head_width
    if inner < shape.width:
        raise InputError(
            f"{shape.heads} heads of {shape.head_width} cannot carry the width {shape.width}", where=where
        )
    if isinstance(shape, LlamaShape):
        _repeat_groups(shape, state)
        shape = replace(shape, key_value_heads=shape.heads)
    last = f"blocks.{shape.layers}."
    like = state["embedding.weight"]
    for name, weight in list(state.items()):
        if name.startswith("blocks.0."):
            size = weight.shape
            state[name.replace("blocks.0.", last)] = torch.zeros(size, dtype=like.dtype, device=like.device)
    identity = torch.eye(inner, shape.width, dtype=like.dtype, device=like.device)
    if shape.family == "gpt2":
        state[f"{last}attention.query_key_value.weight"][2 * inner :] = identity
    else:
        state[f"{last}attention.value.weight"] = identity
    state[f"{last}attention.output.weight"] = MEAN_SCALE * identity.T
    ones = torch.ones(shape.width, dtype=like.dtype, device=like.device)
    for norm in ("attention_norm", "feed_forward_norm"):
        state[f"{last}{norm}.weight"] = ones
    if shape.family != "bert":
        for part in ("weight", "bias"):
            if f"norm.{part}" in state:
                state[f"{last}attention_norm.{part}"] = state[f"norm.{part}"]
                state[f"norm.{part}"] = ones if part == "weight" else torch.zeros_like(ones)
    return replace(shape, layers=shape.layers + 1), state


def _repeat_groups(shape: LlamaShape, state: State) -> None:
    groups = shape.heads // shape.key_value_heads
    for name in [name for name in state if name.endswith(("attention.key.weight", "attention.value.weight"))]:
        heads = state[name].unflatten(0, (shape.key_value_heads, shape.head_width))
        state[name] = heads.repeat_interleave(groups, dim=0).flatten(0, 1)
