"""To Hugging Face's layout: ``config.json`` and safetensors, by renaming. The way back is ``loading.py``.

Nothing here needs ``transformers``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from raypretrain.errors import InputError
from raypretrain.models.config import LlamaShape
from raypretrain.models.heads import MEAN_SCALE, SequenceClassifier
from raypretrain.models.layout import check_state, expected_shapes, to_huggingface
from raypretrain.models.shape import ModelShape

SHARD_BYTES = 5 * 10**9
"""A safetensors file holds at most this much, unless one weight alone is larger."""


def save_language_model(
    state: Mapping[str, Tensor],
    shape: ModelShape,
    folder: str | Path,
    *,
    bos: int | None,
    eos: int | None,
    pad: int | None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a folder that ``transformers`` loads, as the shape's ``architecture``.

    Args:
        state: the state dict of a network that ``families.build`` makes.
        bos, eos, pad: ids of the tokenizer's special tokens.
        dtype: of the weights in the file; None keeps each as it is.

    Raises:
        InputError: the state does not fit the shape.
    """
    check_state(state, shape, where=str(folder))
    config = shape.to_huggingface_config()
    tensors = to_huggingface(state, shape.family)
    special = shape.special_tokens(bos, eos, pad)
    _save(tensors, config, folder, special, dtype)
    if shape.objective == "causal":
        # With the prompt's special tokens as trained: a generation stops where a document ends.
        _write_json(Path(folder) / "generation_config.json", special)


def save_classifier(
    classifier: SequenceClassifier,
    folder: str | Path,
    labels: Sequence[str],
    *,
    pad: int,
    bos: int | None = None,
    eos: int | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a folder that ``transformers.AutoModelForSequenceClassification`` loads and that scores alike.

    Args:
        classifier: with pooling "mean" the exported model has one layer more (:class:`SequenceClassifier`).
        labels: the names of the classes, in the order of the scores.
        pad: the id that sequences are padded with; ``transformers`` finds the last token by it.

    Raises:
        InputError: the labels' number differs from the scores', or the shape cannot express the mean.
    """
    if len(labels) != classifier.score.out_features:
        raise InputError(
            f"{len(labels)} labels for {classifier.score.out_features} scores", where=str(folder)
        )
    shape: LlamaShape = classifier.shape
    state = dict(classifier.state_dict())
    if classifier.pooling == "mean":
        shape, state = _with_mean_layer(shape, state, where=str(folder))
    config = shape.to_huggingface_config() | {
        "architectures": ["LlamaForSequenceClassification"],
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    tensors = to_huggingface(state, shape.family)
    _save(tensors, config, folder, shape.special_tokens(bos, eos, pad), dtype)


def _with_mean_layer(
    shape: LlamaShape, state: dict[str, Tensor], where: str
) -> tuple[LlamaShape, dict[str, Tensor]]:
    """Append the layer whose uniform attention adds ``MEAN_SCALE`` times the mean of the normalised stream.

    Its values must be the whole stream, so grouped key-value heads become one for each head, in every layer.
    """
    inner, groups = shape.heads * shape.head_width, shape.heads // shape.key_value_heads
    if inner < shape.width:
        raise InputError(
            f"{shape.heads} heads of {shape.head_width} cannot carry the width {shape.width}", where=where
        )
    for name in [name for name in state if name.endswith(("attention.key.weight", "attention.value.weight"))]:
        heads = state[name].unflatten(0, (shape.key_value_heads, shape.head_width))
        state[name] = heads.repeat_interleave(groups, dim=0).flatten(0, 1)
    like, layer = state["norm.weight"], f"blocks.{shape.layers}"
    identity = torch.eye(inner, shape.width, dtype=like.dtype, device=like.device)
    extra = {
        name: torch.zeros(size, dtype=like.dtype, device=like.device)
        for name, size in expected_shapes(replace(shape, key_value_heads=shape.heads, layers=1)).items()
        if name.startswith("blocks.0.")
    }
    state |= {name.replace("blocks.0", layer): weight for name, weight in extra.items()}
    state[f"{layer}.attention_norm.weight"] = state["norm.weight"]
    state[f"{layer}.attention.value.weight"] = identity
    state[f"{layer}.attention.output.weight"] = MEAN_SCALE * identity.T
    state[f"{layer}.feed_forward_norm.weight"] = torch.ones_like(like)
    state["norm.weight"] = torch.ones_like(like)
    return replace(shape, key_value_heads=shape.heads, layers=shape.layers + 1), state


def _save(
    tensors: dict[str, Tensor],
    config: dict[str, Any],
    folder: str | Path,
    special: dict[str, int | None],
    dtype: torch.dtype | None,
) -> None:
    """Write the weights, in shards if they are large, and then the config that makes them a model."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kept = dtype or next(iter(tensors.values())).dtype
    shards = _shards({name: weight.numel() * kept.itemsize for name, weight in tensors.items()})
    files: dict[str, str] = {}
    for i, names in enumerate(shards):
        file = (
            "model.safetensors" if len(shards) == 1 else f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        )
        files |= dict.fromkeys(names, file)
        # A clone of each: safetensors refuses weights that share memory, as the appended layer's do.
        part = {name: tensors[name].detach().to("cpu", dtype, copy=True).contiguous() for name in names}
        save_file(part, folder / (file + ".tmp"), metadata={"format": "pt"})
        os.replace(folder / (file + ".tmp"), folder / file)
    if len(shards) > 1:
        size = sum(weight.numel() * kept.itemsize for weight in tensors.values())
        _write_json(
            folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": files}
        )
    _write_json(folder / "config.json", config | special | {"dtype": str(kept).removeprefix("torch.")})


def _shards(sizes: Mapping[str, int]) -> list[list[str]]:
    """The names in order, parted so that each part has at most ``SHARD_BYTES``."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _write_json(path: Path, values: dict[str, Any]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
