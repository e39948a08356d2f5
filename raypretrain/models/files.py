"""Which files a model has in Hugging Face's layout. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from raypretrain.errors import InputError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
TOKENIZER = (
    "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "chat_template.jinja", "tokenizer.json",
)  # fmt: skip


def weight_files(names: Collection[str], where: str, index: Callable[[], dict[str, Any]]) -> list[str]:
    """Those of a model's files that hold its weights.

    Args:
        names: of all files in its folder.
        where: the folder.
        index: reads the file :data:`INDEX`.

    Raises:
        InputError: there are none, or pickles only.
    """
    if WEIGHTS in names:
        return [WEIGHTS]
    if INDEX in names:
        shards = index().get("weight_map")
        if not isinstance(shards, dict):
            raise InputError("holds no 'weight_map'", where=f"{where}/{INDEX}")
        return sorted(set(shards.values()))
    pickled = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
    if pickled:
        raise InputError(
            f"holds pickled weights only ({some(pickled)}), and reading them runs what code is in them",
            where=where,
            fix="if you trust it, run AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW)",
        )
    raise InputError(f"holds no {WEIGHTS}", where=where, fix="give the folder of a released model")


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few of the names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more
