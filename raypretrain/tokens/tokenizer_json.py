"""Parts of a ``tokenizer.json``, the file of Hugging Face's ``tokenizers``."""

from __future__ import annotations

from typing import Any

_SELF = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_OTHERS = [byte for byte in range(256) if byte not in set(_SELF)]

BYTE_SIGNS: list[str] = [""] * 256
"""The character that stands for each byte in byte-level vocabularies: itself if it is printable Latin-1."""
for _byte in _SELF:
    BYTE_SIGNS[_byte] = chr(_byte)
for _number, _byte in enumerate(_OTHERS):
    BYTE_SIGNS[_byte] = chr(256 + _number)


def tokenizer_json(
    model: dict[str, Any],
    *,
    added: dict[int, str],
    bos: int,
    decoder: dict[str, Any],
    normalizer: dict[str, Any] | None = None,
    pre_tokenizer: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole file.

    Args:
        added: special tokens.
        bos: one of them, put in front of every text.
    """
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(token, name) for token, name in added.items()],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": begin(bos, added[bos]),
        "decoder": decoder,
        "model": model,
    }


def added_token(token: int, name: str) -> dict[str, Any]:
    """A special token, known by exactly its name."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token, "content": name, **flags}


def begin(token: int, name: str) -> dict[str, Any]:
    """The post-processor that puts a token in front of each text."""
    marks = [{"SpecialToken": {"id": name, "type_id": kind}} for kind in (0, 1)]
    first, second = ({"Sequence": {"id": text, "type_id": kind}} for kind, text in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [marks[0], first],
        "pair": [marks[0], first, marks[1], second],
        "special_tokens": {name: {"id": name, "ids": [token], "tokens": [name]}},
    }


def split(expression: str) -> dict[str, Any]:
    """The pre-tokenizer that cuts a text into the matches of a regular expression."""
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


def sequence(name: str, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Several steps, one after the other: ``name`` is ``normalizers``, ``pretokenizers`` or ``decoders``."""
    return {"type": "Sequence", name: steps}
