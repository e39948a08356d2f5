"""Words of a text that a ``tokenizer.json`` encodes each by itself as it does within the text, found by trying.

What may be cut depends on the file's pre-tokenizer, most often a regular expression of its own. So expressions for
words, finest first, are tried on every short text over an alphabet of one character of each kind: letters, marks,
digits, signs, white space. The first that never changes what the model gets is taken.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from typing import Any

_WHITE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_SIGN = r"!-/:-@\[-`{-~"
_LETTERS = r"[A-Za-z]++(?![^\x00-\x7f])"
_SIGNS = rf"[!-@\[-`{{-~]++(?<!')(?![^A-Za-z{_WHITE}])"
# Signs, then letters, up to a sign that is no apostrophe or to white space.
_SIGNS_AND_LETTERS = rf"[{_SIGN}]*+[A-Za-z]++(?=[{_WHITE}!-&(-/:-@\[-`{{-~])"
_BLACK = rf"[^{_WHITE}]++"
_NEWLINES = rf"[\r\n]++(?:/[^{_WHITE}]*+)?"

CUTS = [
    re.compile(expression)
    for expression in (
        # Before white space, and between letters and signs: the pre-tokenizer of GPT-2.
        rf"[{_WHITE}]*+(?:{_LETTERS}|{_SIGNS}|{_BLACK})|[{_WHITE}]++",
        # Before white space and after letters; newlines stay with a sign before them: that of GPT-4, Llama 3.
        rf"[{_WHITE}]*+(?:{_SIGNS_AND_LETTERS}|{_BLACK}(?:(?<=[\W_]){_NEWLINES})*+)|[{_WHITE}]++",
        # The same where what is neither a letter nor an ASCII sign may belong to either: Qwen, GPT-4o.
        rf"[{_WHITE}]*+(?:{_SIGNS_AND_LETTERS}"
        rf"|{_BLACK}(?:(?<=[{_SIGN}]){_NEWLINES}|(?<=[^\w!-~])[{_WHITE}]++[^{_WHITE}]*+)*+)|[{_WHITE}]++",
        # Before common white space only: BERT, which takes other white space out.
        r"[ \t\n\r]*+[^ \t\n\r]++|[ \t\n\r]++",
        # Before a space only: SentencePiece's way in a tokenizer.json.
        rf"[\s\S][^ ]*+(?:(?<=[{_WHITE}]) ++[^ ]*+)*+",
    )
]
"""Regular expressions that cut any text into words, without rest."""

_KINDS = "sTé中\u03015.'/_-😀 \n\t\r\xa0\x85\u2028\x1c\0\u200d\ufeff"
_ENDS = [*_KINDS, "s\u0301", ".\u0301", "'s"]
_SPACES = " \n\r\t"
_STARTS = ["s", "é", "\u0301", "5", "/", "'s"]
_RANDOM = 5_000


def cut_of(normalizer: Any, pre_tokenizer: Any) -> re.Pattern[str] | None:
    """The finest of :data:`CUTS` that changes nothing for them (of the ``tokenizers`` library); None if none does."""
    if pre_tokenizer is None:
        return None
    known: dict[str, list[str]] = {}

    def parts(text: str) -> list[str]:
        if text not in known:
            normal = normalizer.normalize_str(text) if normalizer else text
            known[text] = [part for part, _ in pre_tokenizer.pre_tokenize_str(normal)]
        return known[text]

    def changes_nothing(cut: re.Pattern[str]) -> bool:
        return all(
            [part for word in cut.findall(text) for part in parts(word)] == parts(text) for text in _texts()
        )

    return next((cut for cut in CUTS if changes_nothing(cut)), None)


def _texts() -> Iterator[str]:
    """Every text of at most three characters, all white space between any two kinds, and some longer ones."""
    for length in (1, 2, 3):
        yield from map("".join, itertools.product(_KINDS, repeat=length))
        white = list(map("".join, itertools.product(_SPACES, repeat=length)))
        yield from map("".join, itertools.product(_ENDS, white, _STARTS))
    draw = random.Random(0)
    for _ in range(_RANDOM):
        yield "".join(draw.choices(_KINDS, k=8))
