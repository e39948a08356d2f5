"""The tokenizer in Hugging Face's layout: ``tokenizer.json``, which ``AutoTokenizer`` loads by itself.

Its ids are ours on every text. The pieces are written with their spaces as they are (SentencePiece writes
U+2581 for them, so that a real U+2581 could not be told from a space), and the text is cut into the same
words.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raypretrain import storage
from raypretrain.errors import InputError
from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.tokens.words import SPACE, WORDS

_NEVER = -1e4  # the score of a piece that text must never match by its name, such as <0x0A>


def save_huggingface_tokenizer(
    tokenizer: Tokenizer, folder: str | Path, max_length: int | None = None
) -> None:
    """Write ``tokenizer.json``, its two companions with settings and special names, and ``tokenizer.model``.

    As Llama's, it puts the mark of begin in front, and no mark of end behind. The names of special tokens
    inside a text are text (``split_special_tokens``), as they were in pretraining.

    Args:
        tokenizer: one that is lossless, as all are that were trained here.
        folder: written into; made if it is not there.
        max_length: the longest input of the model, in tokens.

    Raises:
        InputError: the tokenizer was trained elsewhere with settings that lose text.
    """
    if not tokenizer.lossless:
        raise InputError(
            "this tokenizer changes the text (normalisation, a space in front, or no bytes), and its own "
            "Hugging Face files are needed",
            where="tokenizer.path",
            fix="copy them beside the model",
        )
    folder = Path(folder)
    names = [_name(tokenizer, i) for i in range(tokenizer.vocabulary)]
    special = _special_names(tokenizer, names)
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
    _write_json(folder / "tokenizer.json", _tokenizer_json(tokenizer, names))
    _write_json(folder / "tokenizer_config.json", settings)
    _write_json(folder / "special_tokens_map.json", special)
    tokenizer.save(folder)


def _name(tokenizer: Tokenizer, token: int) -> str:
    piece = tokenizer.pieces[token][0]
    return piece if tokenizer.is_special(token) or tokenizer.is_byte(token) else piece.replace(SPACE, " ")


def _special_names(tokenizer: Tokenizer, names: list[str]) -> dict[str, str]:
    tokens = {"bos": tokenizer.bos, "eos": tokenizer.eos, "unk": tokenizer.unk, "pad": tokenizer.pad}
    return {f"{name}_token": names[token] for name, token in tokens.items()}


def _tokenizer_json(tokenizer: Tokenizer, names: list[str]) -> dict[str, Any]:
    begin = names[tokenizer.bos]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added(token, names[token])
            for token in range(tokenizer.vocabulary)
            if tokenizer.is_special(token)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": WORDS},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [_mark(begin, 0), _sequence("A", 0)],
            "pair": [_mark(begin, 0), _sequence("A", 0), _mark(begin, 1), _sequence("B", 1)],
            "special_tokens": {begin: {"id": begin, "ids": [tokenizer.bos], "tokens": [begin]}},
        },
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": _unigram(tokenizer, names) if tokenizer.kind == "unigram" else _bpe(tokenizer, names),
    }


def _bpe(tokenizer: Tokenizer, names: list[str]) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": names[tokenizer.unk],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": {name: token for token, name in enumerate(names)},
        "merges": _merges(tokenizer, names),
    }


def _merges(tokenizer: Tokenizer, names: list[str]) -> list[list[str]]:
    """Every pair of pieces whose sum is a piece, best piece first.

    SentencePiece merges the neighbours whose sum has the best score; so a pair ranks as its sum does.
    """
    normal = {
        name: token
        for token, name in enumerate(names)
        if not (tokenizer.is_special(token) or tokenizer.is_byte(token))
    }
    ranked = []
    for name, token in normal.items():
        rank = -tokenizer.pieces[token][1]
        for cut in range(1, len(name)):
            left, right = name[:cut], name[cut:]
            if left in normal and right in normal:
                ranked.append((rank, normal[left], normal[right], left, right))
    return [[left, right] for _, _, _, left, right in sorted(ranked)]


def _unigram(tokenizer: Tokenizer, names: list[str]) -> dict[str, Any]:
    vocabulary = [
        [
            name,
            _NEVER if tokenizer.is_special(token) or tokenizer.is_byte(token) else tokenizer.pieces[token][1],
        ]
        for token, name in enumerate(names)
    ]
    return {"type": "Unigram", "unk_id": tokenizer.unk, "vocab": vocabulary, "byte_fallback": True}


def _added(token: int, name: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token, "content": name, **flags}


def _mark(name: str, kind: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": name, "type_id": kind}}


def _sequence(name: str, kind: int) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": kind}}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    storage.write_atomic(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
