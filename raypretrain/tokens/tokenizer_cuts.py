"""Words of a text that a ``tokenizer.json`` encodes each by itself as it does within the text, found by trying.

What may be cut depends on the file's pre-tokenizer, most often a regular expression of its own. So ways to cut,
finest first, are tried on every short text over an alphabet of one character of each kind: letters, marks,
digits, signs, white space. The first that never changes what the model gets is taken.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from functools import cache
from typing import Any

from raypretrain.tokens.words import Cut

_WHITE = " \t\n\r\v"
_ASCII = "5.'\0"

CUTS = [
    # Before white space, and between letters and signs, but not after an apostrophe: the pre-tokenizer of GPT-2.
    Cut((f"a{_ASCII}é—", _WHITE), ("a", _ASCII), ("5.\0", "a")),
    # Before white space and after letters; newlines stay with a sign before them: that of GPT-4, Llama 3, Qwen.
    Cut(("a5é", _WHITE), (f"{_ASCII}—", " \t\v"), ("a", "5.\0")),
    # Before common white space only: BERT, which takes other white space out.
    Cut((f"a{_ASCII}\vé—\xa0", " \t\n\r")),
    # Before a space only: SentencePiece's way in a tokenizer.json.
    Cut((f"a{_ASCII}é—", " ")),
]
"""Ways to cut any text into words."""

_KINDS = "sTé中\u03015.'/_-😀 \n\t\r\x0b\xa0\x85\u2028\x1c\0\u200d\ufeff"
_ENDS = [*_KINDS, "s\u0301", ".\u0301", "'s"]
_SPACES = " \n\r\t"
_STARTS = ["s", "é", "\u0301", "5", "/", "'s"]
_RANDOM = 5_000


def cut_of(normalizer: Any, pre_tokenizer: Any) -> Cut | None:
    """The finest of :data:`CUTS` that changes nothing for them (of the ``tokenizers`` library); None if none does."""
    if pre_tokenizer is None:
        return None
    known: dict[str, list[str]] = {}

    def parts(text: str) -> list[str]:
        if text not in known:
            normal = normalizer.normalize_str(text) if normalizer else text
            known[text] = [part for part, _ in pre_tokenizer.pre_tokenize_str(normal)]
        return known[text]

    def changes_nothing(cut: Cut) -> bool:
        data, places, firsts = cut.places(_texts())
        words = [data[a:b].decode() for a, b in itertools.pairwise(places.tolist())]
        return all(
            [part for word in words[a:b] for part in parts(word)] == parts(text)
            for text, (a, b) in zip(_texts(), itertools.pairwise(firsts.tolist()), strict=True)
        )

    return next((cut for cut in CUTS if changes_nothing(cut)), None)


@cache
def _texts() -> list[str]:
    return list(_every_text())


def _every_text() -> Iterator[str]:
    """Every text of at most three characters, all white space between any two kinds, and some longer ones."""
    for length in (1, 2, 3):
        yield from map("".join, itertools.product(_KINDS, repeat=length))
        white = list(map("".join, itertools.product(_SPACES, repeat=length)))
        yield from map("".join, itertools.product(_ENDS, white, _STARTS))
    draw = random.Random(0)
    for _ in range(_RANDOM):
        yield "".join(draw.choices(_KINDS, k=8))
