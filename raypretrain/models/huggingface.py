"""To Hugging Face's layout: ``config.json`` and safetensors, by renaming. The way back is ``loading.py``.

Nothing here needs ``transformers``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from raypretrain.models.layout import check_state, to_huggingface
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
    save_tensors(tensors, config, folder, special, dtype)
    if shape.objective == "causal":
        # With the prompt's special tokens as trained: a generation stops where a document ends.
        _write_json(Path(folder) / "generation_config.json", special)


def save_tensors(
    tensors: dict[str, Tensor],
    config: dict[str, Any],
    folder: str | Path,
    special: dict[str, int | None],
    dtype: torch.dtype | None,
) -> None:
    """Write the weights, in shards if they are large, and then the config that makes them a model.

    Args:
        tensors: under Hugging Face's names.
        special: ids of special tokens under the names of ``config.json``.
        dtype: of the weights in the file; None keeps each as it is.
    """
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
        # A clone of each: safetensors refuses weights that share memory, as those of an appended layer do.
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
