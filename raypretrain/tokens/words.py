"""Where a text can be cut without changing its pieces: into words, which are looked up, or into longer parts.

SentencePiece makes no piece that spans the place before white space, or between an English letter and another
ASCII character; and newline and tab are pieces by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import accumulate

SPACE = "\u2581"  # what SentencePiece writes for a space inside a piece

_LETTERS = r"[A-Za-z]++(?![^\x00-\x7f])"
_SIGNS = r"[!-@\[-`{-~]++(?![^A-Za-z \n\t])"
WORDS = rf"[ \n\t]*+(?:{_LETTERS}|{_SIGNS}|[^ \n\t]++)|[ \n\t]++"
"""A regular expression that cuts any text into words, without rest, where no piece of ours spans the cut."""

WORD = re.compile(WORDS)
SPANNING = re.compile(rf"[^{SPACE}]{SPACE}|[\n\t]|[A-Za-z][\x00-@\[-`{{-\x7f]|[\x00-@\[-`{{-\x7f][A-Za-z]")

PIECE = 1 << 18
"""Characters of a text that are encoded in one go, at most: at most 1 MiB."""

_LONGEST_WORD = 64
_MOST_WORDS = 1 << 19  # about 100 MB
_LONGEST_PART = 2000  # characters; of 25 nats at most, their sum is below 65,536: exact in float32

# A cut here is one for every expression of ours for words.
_BEFORE_SPACE = re.compile(r"(?<=[\w!-~])(?= [\w!-~])")
_NEAR = 4096


class Words(dict[str, bytes]):
    """Word → its ids as int32 bytes; encodes those that it does not hold, and holds no more than memory allows."""

    def __init__(self, encode: Callable[[str], bytes]) -> None:
        super().__init__()
        self._encode = encode

    def __missing__(self, word: str) -> bytes:
        found = self._encode(word)
        if len(word) <= _LONGEST_WORD:
            self[word] = found
        return found

    def ids(self, words: list[str]) -> bytearray:
        """The ids of words that follow each other."""
        if len(self) > _MOST_WORDS:
            self.clear()
        return bytearray().join(map(self.__getitem__, words))


def pieces(text: str, words: Callable[[str], list[str]], longest: int = 1) -> Iterator[str]:
    """``text`` in parts of at most :data:`PIECE` characters, cut between words.

    A single word that is longer is cut as well: unbroken data of that size has no better place.

    Args:
        words: cuts a text into words, without rest.
        longest: characters of the longest symbol that belongs together whatever the words.
    """
    start = 0
    while len(text) - start > PIECE:
        stop = start + PIECE
        cuts = [found.start() for found in _BEFORE_SPACE.finditer(text, stop - _NEAR, stop + 2)]
        if not cuts:
            ends = accumulate(map(len, words(text[start:stop])), initial=start)
            cuts = [
                end for end in ends if start < end <= stop - longest
            ]  # the last may go on after the window
        cut = cuts[-1] if cuts else stop
        yield text[start:cut]
        start = cut
    yield text[start:]


def parts_of(text: str) -> list[str]:
    """``text`` cut before white space into parts of at most ``_LONGEST_PART``; none where that cannot be."""
    if SPACE in text:
        return []
    if len(text) <= _LONGEST_PART:
        return [text]
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
