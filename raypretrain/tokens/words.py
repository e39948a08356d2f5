"""Where a text can be cut without changing its pieces: into words, which are looked up, or into parts.

SentencePiece makes no piece that spans the place before white space, or between an English letter and another
ASCII character; and newline and tab are pieces by themselves.
"""

from __future__ import annotations

import re
from array import array
from typing import Any

SPACE = "\u2581"  # what SentencePiece writes for a space inside a piece

_LETTERS = r"[A-Za-z]++(?![^\x00-\x7f])"
_SIGNS = r"[!-@\[-`{-~]++(?![^A-Za-z \n\t])"
WORDS = rf"[ \n\t]*+(?:{_LETTERS}|{_SIGNS}|[^ \n\t]++)|[ \n\t]++"
"""A regular expression that cuts any text into words, without rest, where no piece of ours spans the cut."""

WORD = re.compile(WORDS)
SPANNING = re.compile(rf"[^{SPACE}]{SPACE}|[\n\t]|[A-Za-z][\x00-@\[-`{{-\x7f]|[\x00-@\[-`{{-\x7f][A-Za-z]")
_PART = re.compile(rf"[\n\t{SPACE}]|[^\n\t{SPACE}]+")
_LONGEST_WORD = 64
MOST_WORDS = 1 << 19  # about 100 MB
_LONGEST_PART = 2000  # characters; of 25 nats at most, their sum is below 65,536: exact in float32


class Words(dict[str, bytes]):
    """Word → its ids as int32 bytes; asks SentencePiece for those that it does not hold."""

    def __init__(self, processor: Any) -> None:
        super().__init__()
        self._processor = processor
        # SentencePiece would take a real U+2581 for a space: it goes by its bytes.
        self._fixed = {SPACE: [processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]}
        self._fixed |= {sign: [processor.piece_to_id(sign)] for sign in "\n\t"}

    def __missing__(self, word: str) -> bytes:
        fixed, ids = self._fixed, array("i")
        for part in _PART.findall(word):
            ids.extend(fixed.get(part) or self._processor.encode(part))
        found = ids.tobytes()
        if len(word) <= _LONGEST_WORD:
            self[word] = found
        return found


def parts_of(text: str) -> list[str]:
    """``text`` cut before white space into parts of at most ``_LONGEST_PART``; none where that cannot be."""
    if SPACE in text:
        return []
    parts, start = [], 0
    while len(text) - start > _LONGEST_PART:
        stop = start + _LONGEST_PART
        cut = max(text.rfind(" ", start, stop), text.rfind("\n", start, stop))
        while cut > start and text[cut - 1] in " \n\t":
            cut -= 1
        if cut <= start:
            return []
        parts.append(text[start:cut])
        start = cut
    return [*parts, text[start:]]
