"""The tokenizer in Hugging Face's layout: ``tokenizer.json``, which ``AutoTokenizer`` loads by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raypretrain import storage
from raypretrain.tokens.tokenizer_base import Tokenizer


def save_huggingface_tokenizer(
    tokenizer: Tokenizer, folder: str | Path, max_length: int | None = None
) -> None:
    """Write ``tokenizer.json``, its two companions with settings and special names, and the tokenizer's own file.

    As Llama's, it puts the mark of begin in front, and no mark of end behind: as documents begin in pretraining.
    The names of special tokens inside a text are text (``split_special_tokens``), as they were in pretraining.

    Args:
        tokenizer: of any kind; its ids are the same there.
        folder: written into; made if it is not there.
        max_length: the longest input of the model, in tokens.
    """
    folder = Path(folder)
    roles = {
        "bos": tokenizer.bos,
        "eos": tokenizer.eos,
        "unk": tokenizer.unk,
        "pad": tokenizer.pad,
        "mask": tokenizer.mask,
    }
    special = {f"{r}_token": tokenizer.token_name(token) for r, token in roles.items() if token is not None}
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length or 10**30,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": True,
        "add_eos_token": False,
        "split_special_tokens": True,
        "padding_side": "right",
        **special,
    }
    tokenizer.save(folder)
    _write_json(folder / "tokenizer.json", tokenizer.huggingface())
    _write_json(folder / "tokenizer_config.json", settings)
    _write_json(folder / "special_tokens_map.json", special)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    storage.write_atomic(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
