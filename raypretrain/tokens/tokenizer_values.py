"""What a ``tokenizer.json`` says: its tokens, the bytes that they stand for, and whether any text gets lost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from raypretrain.errors import InputError
from raypretrain.tokens.tokenizer_json import BYTE_SIGNS, added_token
from raypretrain.tokens.tokenizer_specials import new_names

_NEVER = -1e4  # the score of a special token's name: no text must match it
_BYTE_OF_SIGN = {sign: byte for byte, sign in enumerate(BYTE_SIGNS)}

FIX = "give a tokenizer.json of the tokenizers library"


def parsed(content: bytes, where: str) -> tuple[dict[str, Any], dict[str, int]]:
    """The file's content, and the ids of all its tokens by their names."""
    try:
        values = json.loads(content)
        model, vocabulary = values["model"], values["model"]["vocab"]
        # Unigram's is a list of names and scores.
        names = (
            {one[0]: token for token, one in enumerate(vocabulary)}
            if isinstance(vocabulary, list)
            else vocabulary
        )
        added = {token["content"]: token["id"] for token in values.get("added_tokens") or []}
        values["model"] = {"type": _type_of(model)} | model
    except (ValueError, KeyError, TypeError, IndexError) as error:
        what = f"is no tokenizer ({type(error).__name__}: {str(error)[:200]})"
        raise InputError(what, where=where, fix=FIX) from None
    if not names or not isinstance(names, dict):
        raise InputError("has no tokens", where=where, fix=FIX)
    return values | {"truncation": None, "padding": None}, names | added


def _type_of(model: dict[str, Any]) -> str:
    """The kind of a model; old files do not say it."""
    if "merges" in model:
        return "BPE"
    return "WordPiece" if "continuing_subword_prefix" in model else "WordLevel"


def with_tokens(content: bytes, add: Sequence[str], where: str) -> tuple[bytes, int]:
    """The file with special tokens of these names after its own, and how many of them are new.

    Raises:
        InputError: one of them stands for text.
    """
    values, ids = parsed(content, where)
    added = values.get("added_tokens") or []
    special = {token["content"] for token in added if token.get("special")}
    new = new_names(add, {name: name in special for name in ids})
    first = max(ids.values()) + 1
    values["added_tokens"] = [*added, *(added_token(first + i, name) for i, name in enumerate(new))]
    return (json.dumps(values, ensure_ascii=False).encode() if new else content), len(new)


def declare(values: dict[str, Any], specials: dict[int, str]) -> None:
    """Make the marks special tokens, so that their names in a text are text, and drop what draws at random."""
    added = {token["id"]: token for token in values.get("added_tokens") or []}
    for token, name in specials.items():
        added[token] = added.get(token, {}) | added_token(token, name)
    values["added_tokens"] = [added[token] for token in sorted(added)]
    model = values["model"]
    if model.get("dropout"):
        model["dropout"] = None
    if model["type"] == "Unigram":
        special = {token["content"] for token in values["added_tokens"] if token["special"]}
        model["vocab"] = [[name, _NEVER if name in special else score] for name, score in model["vocab"]]


def texts_of_tokens(
    values: dict[str, Any], names: dict[int, str], special: set[int], size: int
) -> list[bytes]:
    """The bytes of each token; of one that is no run of bytes those of its name."""
    byte_level, prefix = _is_byte_level(values), values["model"].get("continuing_subword_prefix") or ""
    own = {token["id"] for token in values["added_tokens"]}
    texts = []
    for token in range(size):
        name = "" if token in special else names.get(token, "")
        if byte_level and token not in own and all(sign in _BYTE_OF_SIGN for sign in name):
            texts.append(bytes([_BYTE_OF_SIGN[sign] for sign in name]))
        else:
            texts.append((name if token in own else name.removeprefix(prefix)).encode())
    return texts


def _is_byte_level(values: dict[str, Any]) -> bool:
    return any(step["type"] == "ByteLevel" for step in steps_of(values.get("pre_tokenizer"), "pretokenizers"))


def is_lossless(values: dict[str, Any], names: dict[str, int]) -> bool:
    """Whether it follows from the file that every text comes back: byte-level, nothing changed, nothing left out."""
    model = values["model"]
    if values.get("normalizer") or model["type"] != "BPE" or not set(BYTE_SIGNS) <= names.keys():
        return False
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return False
    own = [token for token in values["added_tokens"] if not token["special"]]
    steps = steps_of(values.get("pre_tokenizer"), "pretokenizers")
    return (
        [step["type"] for step in steps].count("ByteLevel") == 1
        and all(_keeps_all(step) for step in steps)
        and not any(token["lstrip"] or token["rstrip"] for token in own)
    )


def _keeps_all(step: dict[str, Any]) -> bool:
    if step["type"] == "ByteLevel":
        return not step.get("add_prefix_space", True)
    if step["type"] in ("Split", "Punctuation"):
        return str(step.get("behavior", "Isolated")) != "Removed"
    return step["type"] in ("Digits", "UnicodeScripts")


def steps_of(value: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """The steps of a sequence, of sequences in it too, or the single one."""
    if not value:
        return []
    if value.get("type") == "Sequence":
        return [step for inner in value[name] for step in steps_of(inner, name)]
    return [value]
