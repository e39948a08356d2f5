"""Tokenizers that nothing has to be trained for: bytes, and the letters of proteins. Both are look-ups in NumPy."""

from __future__ import annotations

import json
import string
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypretrain.tokens.tokenizer_base import Tokenizer
from raypretrain.tokens.tokenizer_json import BYTE_SIGNS, sequence, split, tokenizer_json
from raypretrain.tokens.words import PIECE

JSON_NAME = "tokenizer.json"


class _Fixed(Tokenizer):
    """A tokenizer without settings: its kind says everything. Its file is the equivalent ``tokenizer.json``."""

    names: list[str]

    def token_name(self, token: int) -> str:
        return self.names[token]

    def files(self) -> dict[str, bytes]:
        return {JSON_NAME: (json.dumps(self.huggingface(), indent=1) + "\n").encode()}

    def _identity(self) -> bytes:
        return self.files()[JSON_NAME]

    def _pieces(self, text: str) -> Iterator[str]:
        return (text[start : start + PIECE] for start in range(0, len(text), PIECE))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), ())


class Bytes(_Fixed):
    """The 256 bytes of UTF-8 as the ids 0 to 255, and four special tokens."""

    kind = "bytes"
    vocabulary = 260
    bos, eos, pad, mask = 256, 257, 258, 259

    def __init__(self) -> None:
        self.names = [*BYTE_SIGNS, "<s>", "</s>", "<pad>", "<mask>"]
        self.byte_lengths = (np.arange(self.vocabulary) < 256).astype(np.int32)
        self.texts = [bytes([i]) for i in range(256)] + [b""] * 4

    def decode(self, ids: Iterable[int]) -> str:
        return bytes([i for i in ids if i < 256]).decode("utf-8", errors="replace")

    def is_special(self, token: int) -> bool:
        return token >= 256

    def huggingface(self) -> dict[str, Any]:
        vocabulary = {name: token for token, name in enumerate(self.names) if token < 256}
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
        return tokenizer_json(
            {"type": "BPE", "vocab": vocabulary, "merges": []},
            added={token: self.names[token] for token in range(256, 260)},
            bos=self.bos,
            decoder=level,
            pre_tokenizer=level,
        )

    def _encode(self, texts: list[str]) -> list[NDArray[np.int32]]:
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]


class AminoAcids(_Fixed):
    """Proteins, a letter a token, with the alphabet and the ids of the ESM-2 models.

    Small letters are read as capitals; every other character is ``<unk>``.
    """

    kind = "amino-acids"
    vocabulary = 33
    bos, pad, eos, unk, mask = 0, 1, 2, 3, 32
    lossless = False

    def __init__(self) -> None:
        self.names = [
            "<cls>",
            "<pad>",
            "<eos>",
            "<unk>",
            *"LAGVSERTIDPKQNFYMHWCXBUZO.-",
            "<null_1>",
            "<mask>",
        ]
        self.byte_lengths = np.array([len(name) == 1 for name in self.names], np.int32)
        self.texts = [name.encode() if len(name) == 1 else b"" for name in self.names]
        self._ids = np.full(128, self.unk, np.int32)
        for token, name in enumerate(self.names):
            if len(name) == 1:
                self._ids[[ord(name), ord(name.lower())]] = token

    def decode(self, ids: Iterable[int]) -> str:
        return "".join([self.names[i] for i in ids if not self.is_special(i)])

    def is_special(self, token: int) -> bool:
        return len(self.names[token]) > 1

    def joins(self) -> NDArray[np.bool_]:
        return np.zeros((2, self.vocabulary), bool)  # each residue is a word

    def spans(self, text: str) -> NDArray[np.int64]:
        places = np.arange(len(text), dtype=np.int64)
        return np.stack([places, places + 1], axis=1)

    def token_bytes(self, text: str) -> NDArray[np.int64]:
        data = np.frombuffer(text.encode(), np.uint8)
        return np.diff(np.flatnonzero((data & 0xC0) != 0x80), append=len(data)).astype(np.int64)

    def huggingface(self) -> dict[str, Any]:
        capitals = [
            {"type": "Replace", "pattern": {"String": letter}, "content": letter.upper()}
            for letter in string.ascii_lowercase
        ]
        vocabulary = {name: token for token, name in enumerate(self.names)}
        return tokenizer_json(
            {"type": "WordLevel", "vocab": vocabulary, "unk_token": self.names[self.unk]},
            added={token: name for token, name in enumerate(self.names) if len(name) > 1},
            bos=self.bos,
            decoder={"type": "Fuse"},
            normalizer=sequence("normalizers", capitals),
            pre_tokenizer=split(r"[\s\S]"),
        )

    def _encode(self, texts: list[str]) -> list[NDArray[np.int32]]:
        # What is no ASCII becomes "?", which is no letter of the alphabet either.
        return [self._ids[np.frombuffer(text.encode("ascii", "replace"), np.uint8)] for text in texts]
