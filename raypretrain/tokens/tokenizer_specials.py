"""Which tokens of a ``tokenizer.json`` begin and end a document: the file itself does not say it by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raypretrain.errors import InputError

COMPANIONS = ("tokenizer_config.json", "special_tokens_map.json")
"""Files beside a ``tokenizer.json`` that name its special tokens."""

_KEYS = {
    "bos": ("bos_token", "cls_token"),
    "eos": ("eos_token", "sep_token"),
    "pad": ("pad_token",),
    "mask": ("mask_token",),
}
_COMMON = {
    "bos": ("<s>", "<|begin_of_text|>", "<bos>", "[CLS]", "<cls>", "<|startoftext|>"),
    "eos": ("</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>", "[SEP]", "<|im_end|>"),
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>"),
    "mask": ("<mask>", "[MASK]"),
}
INFILL = ("<PRE>", "<SUF>", "<MID>")
"""What a tokenizer trained here calls its marks of a prefix, a suffix and a middle."""
MASK = "<mask>"
"""What it calls the token that stands for a hidden one."""

_INFILL = (
    INFILL,
    ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),  # Code Llama
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen
    ("<|fim\u2581begin|>", "<|fim\u2581hole|>", "<|fim\u2581end|>"),  # DeepSeek
)
_SHOWN = 8


def infill_marks(tokens: Mapping[str, int]) -> tuple[int, int, int] | None:
    """The ids of the marks of a prefix, a suffix and a middle among special tokens; None without them."""
    for prefix, suffix, middle in _INFILL:
        if prefix in tokens and suffix in tokens and middle in tokens:
            return tokens[prefix], tokens[suffix], tokens[middle]
    return None


def mask_of(tokens: Mapping[str, int]) -> int | None:
    """The id of the token among special ones that stands for a hidden one; None without it."""
    return next((tokens[name] for name in _COMMON["mask"] if name in tokens), None)


def new_names(add: Sequence[str], tokens: Mapping[str, bool]) -> list[str]:
    """Those of the names that a tokenizer has not yet.

    Args:
        tokens: the names of its tokens, and whether they are special.

    Raises:
        InputError: one is no special token.
    """
    for name in add:
        if not tokens.get(name, True):
            what = f"'{name}' is a token of it, and no special one"
            raise InputError(what, where="tokenizer.add", fix="give another name")
    return [name for name in dict.fromkeys(add) if name not in tokens]


def find_specials(
    values: dict[str, Any],
    vocabulary: Mapping[str, int],
    companions: Mapping[str, bytes],
    named: Mapping[str, str],
    where: str,
) -> dict[str, int]:
    """The ids of ``bos``, ``eos``, ``pad``, and ``mask`` if there is one.

    A name that the recipe gives comes first, then those of the companions, then what the post-processor puts
    around a text, then common names. Without a begin or padding, the end serves.

    Args:
        values: the content of the ``tokenizer.json``.
        vocabulary: all tokens with their ids.
        companions: contents of :data:`COMPANIONS`, as far as they are there.
        named: what the recipe says.
        where: the file, for error messages.

    Raises:
        InputError: a name of the recipe is no token, or nothing names the end.
    """
    for role, name in named.items():
        if name not in vocabulary:
            own = ", ".join(token["content"] for token in (values.get("added_tokens") or [])[:_SHOWN])
            fix = f"it has {own}" if own else None
            raise InputError(f"'{name}' is no token of {where}", where=f"tokenizer.{role}", fix=fix)
    settings = [_settings(companions[file], file) for file in COMPANIONS if file in companions]
    around = dict(_around(values.get("post_processor") or {}))
    found: dict[str, int] = {}
    for role, keys in _KEYS.items():
        said = [named.get(role), *(_name(one.get(key)) for one in settings for key in keys), around.get(role)]
        names = [name for name in (*said, *_COMMON[role]) if name is not None and name in vocabulary]
        if names:
            found[role] = vocabulary[names[0]]
    if "eos" not in found:
        fix = "set tokenizer.eos to the name of one of its tokens"
        raise InputError("names no token that ends a document", where=where, fix=fix)
    return {"bos": found["eos"], "pad": found["eos"]} | found


def _settings(content: bytes, file: str) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except ValueError as error:
        raise InputError(f"cannot be read as JSON ({error})", where=file) from None
    return values if isinstance(values, dict) else {}


def _name(value: Any) -> str | None:
    """A token's name: as it is, or in an object with its flags."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


def _around(processor: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What a post-processor puts before and after a single text: ``("bos", name)``, ``("eos", name)``."""
    for one in processor.get("processors", []):
        yield from _around(one)
    if processor.get("type") in ("BertProcessing", "RobertaProcessing"):
        yield from (("bos", processor["cls"][0]), ("eos", processor["sep"][0]))
    if processor.get("type") == "TemplateProcessing":
        role = "bos"
        for item in processor.get("single", []):
            if "Sequence" in item:
                role = "eos"
            elif "SpecialToken" in item:
                yield role, item["SpecialToken"]["id"]
