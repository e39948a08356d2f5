"""To and from Hugging Face's layout: ``config.json`` and safetensors, by renaming alone.

Nothing here needs ``transformers``, and nothing is unpickled: a folder with pickled weights only is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from raypretrain.errors import InputError
from raypretrain.models.config import LlamaShape, read_json_object, read_shape
from raypretrain.models.heads import MEAN_SCALE, SequenceClassifier
from raypretrain.models.layout import check_state, expected_shapes, from_huggingface, some, to_huggingface
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


def load_base(folder: str | Path) -> tuple[ModelShape, dict[str, Tensor]]:
    """Read a model of any family from a folder in Hugging Face's layout.

    Returns:
        Its shape, and its state dict under the names of the network that ``families.build`` makes of it, on the
        CPU, in the file's dtype.

    Raises:
        InputError: no such folder, broken JSON or safetensors, pickled weights only, or weights that do not
            fit the config.
    """
    folder = Path(folder)
    shape = read_shape(
        read_json_object(folder / "config.json", "give the folder of a model that has one"),
        str(folder / "config.json"),
    )
    state: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  (no mapping)
                    _add(state, name, file.get_tensor(name), shape)
        except FileNotFoundError:
            raise InputError("the index names this file, but it is not there", where=str(path)) from None
        except (SafetensorError, OSError) as error:
            raise InputError(f"is no whole safetensors file ({error})", where=str(path)) from None
    check_state(state, shape, where=str(folder))
    return shape, state


def _add(state: dict[str, Tensor], name: str, weight: Tensor, shape: ModelShape) -> None:
    """Put a weight into the state under our name; under its own if we know none, for the error message."""
    try:
        found = from_huggingface(name, weight, shape)
    except KeyError:
        found = name, weight
    if found:
        state[found[0]] = found[1]


def _weight_files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if index.exists():
        names = read_json_object(index).get("weight_map")
        if not isinstance(names, dict):
            raise InputError("holds no 'weight_map'", where=str(index))
        return [folder / name for name in sorted(set(names.values()))]
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickled:
        raise InputError(
            f"holds pickled weights only ({some(pickled)}), and reading them runs what code is in them",
            where=str(folder),
            fix="if you trust it, run AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW)",
        )
    raise InputError(
        "holds no model.safetensors", where=str(folder), fix="give the folder of a released model"
    )


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
