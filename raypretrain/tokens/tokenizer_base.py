"""What every tokenizer can do: text to ids and back, and which characters and bytes each token stands for."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypretrain import storage
from raypretrain.tokens.words import PIECE


class Tokenizer(ABC):
    """Text ↔ ids. Pickled, it makes the same ids in any process.

    Attributes:
        kind: ``bpe``, ``unigram``, ``wordpiece``, …, ``bytes`` or ``amino-acids``.
        vocabulary: the highest id, and one more.
        bos, eos, pad: what begins and ends a document, and what fills a sequence. No text becomes one of them.
        unk: stands for characters that the vocabulary lacks; None where that cannot happen.
        mask: stands for a token that is hidden; None if there is none.
        infill: mark a prefix, a suffix and a middle; None without them.
        added: how many special tokens, its last ones, :meth:`load` added to what it read.
        lossless: whether every text comes back from its ids as it was.
        byte_lengths: int32 [vocabulary], the bytes of UTF-8 that each token stands for, 0 for special ones. Of a
            tokenizer that is not lossless only its name's: see :meth:`token_bytes`.
        texts: the bytes themselves, by id.
    """

    kind: str
    vocabulary: int
    bos: int
    eos: int
    pad: int
    unk: int | None = None
    mask: int | None = None
    infill: tuple[int, int, int] | None = None
    added: int = 0
    lossless: bool = True
    byte_lengths: NDArray[np.int32]
    texts: list[bytes]

    @classmethod
    def load(
        cls,
        path: str | Path,
        specials: Mapping[str, str] | None = None,
        add: Sequence[str] = (),
        options: storage.Options | None = None,
    ) -> Tokenizer:
        """Read a ``.model`` of SentencePiece, a ``tokenizer.json``, or a folder with either; local or in a bucket.

        Args:
            specials: names of the tokens for ``bos``, ``eos`` and ``pad``, where the file's own are not meant.
            add: names of special tokens that it shall have; those that it has not come after all others.
            options: how to reach the store that it is in.

        Raises:
            InputError: it is not there, is no tokenizer, cannot be used, or has no token that ends a document; or
                a name of ``add`` stands for text.
        """
        from raypretrain.tokens.tokenizer_files import load_tokenizer

        return load_tokenizer(str(path), specials or {}, add, options)

    def save(self, folder: str | Path) -> Path:
        """Write the tokenizer's files into ``folder``; returns the path of the one to load it from."""
        path = Path(folder)
        for name, content in self.files().items():  # the one to load from comes last: with it, all are there
            path = Path(folder) / name
            storage.write_atomic(path, content)
        return path

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``, without marks of begin or end. Names of special tokens in it are text."""
        return self.encode_batch([text])[0].tolist()

    def encode_batch(self, texts: Iterable[str]) -> list[NDArray[np.int32]]:
        """The ids of each text: int32 [tokens], equal to :meth:`encode`."""
        texts = list(texts)
        encoded = iter(self._encode([text for text in texts if len(text) <= PIECE]))
        return [next(encoded) if len(t) <= PIECE else _joined(self._encode_long(t)) for t in texts]

    def encode_on(self, texts: Iterable[str]) -> list[NDArray[np.int32]]:
        """As :meth:`encode_batch`, for texts that go on with another: without what a model wants in front of one."""
        return self.encode_batch(texts)

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``; special ones are nothing, and bytes that are no UTF-8 become U+FFFD."""

    @abstractmethod
    def is_special(self, token: int) -> bool:
        """Whether the token stands for no text of its own: unknown, begin, end, padding, mask."""

    @abstractmethod
    def token_name(self, token: int) -> str:
        """The token as the tokenizer's file writes it."""

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """What :meth:`save` writes: names and contents."""

    @abstractmethod
    def huggingface(self) -> dict[str, Any]:
        """The tokenizer as the content of a ``tokenizer.json``: ``bos`` in front, then the same ids."""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what the ids depend on."""
        return hashlib.sha256(self._identity()).hexdigest()

    def spans(self, text: str) -> NDArray[np.int64]:
        """The characters that each token of :meth:`encode` stands for: the first and past the last, int64 [tokens, 2].

        Tokens that are single bytes of one character all have that character.
        """
        return spans_of_lengths(text, self.token_bytes(text))

    def token_bytes(self, text: str) -> NDArray[np.int64]:
        """The bytes of ``text`` that each token of :meth:`encode` has: int64 [tokens]; they add up to all."""
        ids = self.encode_batch([text])[0]
        return self.byte_lengths[ids].astype(np.int64)

    def joins(self) -> NDArray[np.bool_]:
        """Whether a word goes on with each token, and whether it may go on after it: bool [2, vocabulary].

        A token belongs to the same word as the one before it where both are so. Words are letters and digits.
        """
        begins = [_of_a_word(text[:1]) for text in self.texts]
        return np.array([begins, [_of_a_word(text[-1:]) for text in self.texts]])

    @abstractmethod
    def _encode(self, texts: list[str]) -> list[NDArray[np.int32]]:
        """The ids of texts that are short enough to be encoded in one go."""

    @abstractmethod
    def _pieces(self, text: str) -> Iterator[str]:
        """A long text cut where that does not change its ids."""

    @abstractmethod
    def _identity(self) -> bytes:
        """All that the ids depend on."""

    def _encode_long(self, text: str) -> Iterator[NDArray[np.int32]]:
        for piece in self._pieces(text):
            yield from self._encode([piece])


def _of_a_word(byte: bytes) -> bool:
    """Whether it is an ASCII letter or digit, or of another script."""
    return byte.isalnum() or byte >= b"\x80"


def _joined(parts: Iterable[NDArray[np.int32]]) -> NDArray[np.int32]:
    """One after the other. A bytearray grows in place: there are never two copies of all."""
    ids = bytearray()
    for part in parts:
        ids += part.data.cast("B")
    return np.frombuffer(ids, dtype=np.int32)


def spans_of_lengths(text: str, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The characters in which runs of bytes begin and end: int64 [runs, 2], first and past the last.

    Args:
        lengths: int64 [runs], the bytes of each run of ``text`` in UTF-8, end to end; only the first may be 0.
    """
    ends = np.cumsum(lengths, dtype=np.int64)
    starts = ends - lengths
    data = np.frombuffer(text.encode(), np.uint8)
    if len(data) == len(text) or not len(lengths):
        return np.stack([starts, ends], axis=1)
    # A byte's character is its place less the bytes up to it that go on with a character.
    goes_on = (data & 0xC0) == 0x80
    up_to_end = np.cumsum(np.add.reduceat(goes_on, starts, dtype=np.int64))
    before = np.concatenate([[0], up_to_end[:-1]])
    return np.stack([starts - before - goes_on[starts], ends - up_to_end], axis=1)


def bytes_of_spans(text: str, spans: NDArray[np.int64]) -> NDArray[np.int64]:
    """The bytes of ``text`` shared out to tokens: int64 [tokens], whose sum is all of them.

    A character belongs to the first token that reaches past it: what no token stands for (white space that is
    left out, say) goes with the next one, and at the end with the last.

    Args:
        spans: int64 [tokens, 2], as of :meth:`Tokenizer.spans`.
    """
    if not len(spans):
        return np.empty(0, np.int64)
    ends = np.maximum.accumulate(spans[:, 1])
    ends[-1] = len(text)
    data = np.frombuffer(text.encode(), np.uint8)
    if len(data) != len(text):
        ends = np.append(np.flatnonzero((data & 0xC0) != 0x80), len(data))[ends]
    return np.diff(ends, prepend=0)
