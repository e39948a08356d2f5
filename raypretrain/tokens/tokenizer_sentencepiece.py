"""SentencePiece models, lossless on any text, and several times faster than by plain calls.

A model trained here keeps every character: no normalisation, no space put in front, runs of spaces as
pieces, newline and tab as symbols of their own, digits one by one, and bytes for what the vocabulary does not
know. One from elsewhere is taken if it keeps every character as well; a space that it wants in front of a text
is put there, and taken off again.

Speed: SentencePiece makes no piece that spans the place before white space, or between an English letter and
another ASCII character; newline and tab are pieces by themselves. So the pieces of a text are those of its
*words*, cut at these places, and a word that was met before is looked up.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypretrain.errors import InputError
from raypretrain.tokens.tokenizer_base import Tokenizer
from raypretrain.tokens.tokenizer_specials import infill_marks, mask_of, new_names
from raypretrain.tokens.words import KINDS, Cut, Words, pieces

MODEL_NAME = "tokenizer.model"

SPACE = "\u2581"  # what SentencePiece writes for a space inside a piece

_SIGNS = "5.'\0\r\v"
_ALONE = "\n\t"
CUT = Cut(
    (f"a{_SIGNS}é—\xa0", " "), ("a", _SIGNS), (_SIGNS, "a"), (KINDS, _ALONE), (_ALONE, f"a{_SIGNS}é {_ALONE}")
)
_SPANNING = re.compile(rf"[^{SPACE}]{SPACE}|[\n\t]|[A-Za-z][\x00-@\[-`{{-\x7f]|[\x00-@\[-`{{-\x7f][A-Za-z]")


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model, with the bytes that each piece stands for."""

    unk: int

    def __init__(
        self,
        model: bytes,
        where: str = MODEL_NAME,
        specials: Mapping[str, str] | None = None,
        add: Sequence[str] = (),
    ) -> None:
        """Read it.

        Args:
            model: the content of a ``.model`` file.
            where: its name for error messages.
            specials: names for ``bos``, ``eos`` and ``pad`` that the recipe gives.
            add: names of special tokens that it gets if it has not got them.
        """
        import sentencepiece

        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, OSError):
            raise InputError("is no SentencePiece model", where=where) from None
        proto = model_proto(model)
        self.added = _add(proto, add)
        changed = bool(specials or self.added)
        if changed:
            _rename(proto, specials or {})
            model = bytes(proto.SerializeToString())
        if reason := _loses(proto):
            fix = "give the model's own tokenizer.json, or train one with 'raypretrain tokenizer train'"
            raise InputError(f"this tokenizer loses text: it {reason}", where=where, fix=fix)
        self.prefix = " " if proto.normalizer_spec.add_dummy_prefix else ""
        """What the model wants in front of a text."""
        if changed or self.prefix:
            proto.normalizer_spec.add_dummy_prefix = False  # ours: words are not beginnings of texts
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        self.model = model
        self.kind = str(proto.trainer_spec.ModelType.Name(proto.trainer_spec.model_type)).lower()
        self.vocabulary = self._processor.get_piece_size()
        self.bos, self.eos = self._special("bos", where), self._special("eos", where)
        self.unk = self._processor.unk_id()
        self.pad = self._processor.pad_id() if self._processor.pad_id() >= 0 else self.eos
        marks = {p.piece: i for i, p in enumerate(proto.pieces) if p.type == p.CONTROL}
        self.infill, self.mask = infill_marks(marks), mask_of(marks)
        self.texts = _texts_of_pieces(self._processor)
        self.byte_lengths = np.array([len(text) for text in self.texts], dtype=np.int32)
        # SentencePiece takes a real U+2581 for a space, and a space that no text of its training had for U+2581.
        alone = SPACE if self._processor.piece_to_id(SPACE) != self.unk else f" {SPACE}"
        self._fixed = {sign: self._alone(sign) for sign in alone + _ALONE}
        self._apart, self._parts = re.compile(f"[{alone}]"), re.compile(f"[{alone}]|[^{alone}]+")
        self._words = Words(CUT, self._encode_words)

    def encode_batch(self, texts: Iterable[str]) -> list[NDArray[np.int32]]:
        if self.prefix:
            texts = [self.prefix + text if text else text for text in texts]
        return super().encode_batch(texts)

    def encode_on(self, texts: Iterable[str]) -> list[NDArray[np.int32]]:
        return super().encode_batch(texts)

    def decode(self, ids: Iterable[int]) -> str:
        texts = self.texts
        text = b"".join([texts[i] for i in ids]).decode("utf-8", errors="replace")
        return text.removeprefix(self.prefix)

    def token_bytes(self, text: str) -> NDArray[np.int64]:
        lengths = super().token_bytes(text)
        lengths[:1] -= len(self.prefix)
        return lengths

    def token_name(self, token: int) -> str:
        return str(self._processor.id_to_piece(token))

    def is_special(self, token: int) -> bool:
        return bool(self._processor.is_control(token) or self._processor.is_unknown(token))

    def is_byte(self, token: int) -> bool:
        """Whether the token stands for a single byte."""
        return bool(self._processor.is_byte(token))

    @cached_property
    def pieces(self) -> list[tuple[str, float]]:
        """``(piece, score)`` of each id, as SentencePiece writes them."""
        size = range(self.vocabulary)
        return [(self._processor.id_to_piece(i), self._processor.get_score(i)) for i in size]

    def files(self) -> dict[str, bytes]:
        return {MODEL_NAME: self.model}

    def huggingface(self) -> dict[str, Any]:
        from raypretrain.tokens.export_sentencepiece import tokenizer_json

        return tokenizer_json(self)

    def _identity(self) -> bytes:
        return self.model

    def _pieces(self, text: str) -> Iterator[str]:
        return pieces(text, CUT.words)

    def _encode(self, texts: list[str]) -> list[NDArray[np.int32]]:
        return self._words.ids(texts)

    def _encode_words(self, words: list[str]) -> list[bytes]:
        # Few words hold anything to look up: the others are encoded in one go.
        apart = [word in self._fixed or self._apart.search(word) is not None for word in words]
        encoded = iter(
            self._processor.encode([w for w, so in zip(words, apart, strict=True) if not so], num_threads=1)
        )
        found = (self._by_parts(w) if so else next(encoded) for w, so in zip(words, apart, strict=True))
        return [array("i", ids).tobytes() for ids in found]

    def _by_parts(self, word: str) -> list[int]:
        parts = self._parts.findall(word)
        return [i for part in parts for i in self._fixed.get(part) or self._processor.encode(part)]

    def _alone(self, sign: str) -> list[int]:
        """The ids of a character that no other piece holds: its own piece, or its bytes."""
        own = self._processor.piece_to_id(sign)
        if sign != SPACE and own != self._processor.unk_id():
            return [own]
        return [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in sign.encode()]

    def _special(self, name: str, where: str) -> int:
        token = int(getattr(self._processor, f"{name}_id")())
        if token < 0:
            fix = f"train it with {name}_id, or name the piece as tokenizer.{name}"
            raise InputError(f"has no '{name}' piece", where=where, fix=fix)
        return token

    def __reduce__(self) -> tuple[Any, ...]:
        return (SentencePieceTokenizer, (self.model,))


def _add(proto: Any, names: Sequence[str]) -> int:
    """Give the model special pieces of these names, after its own; returns how many it had not."""
    new = new_names(names, {piece.piece: piece.type == piece.CONTROL for piece in proto.pieces})
    for name in new:
        piece = proto.pieces.add(piece=name, score=0.0)
        piece.type = piece.CONTROL
        proto.trainer_spec.vocab_size = len(proto.pieces)
    return len(new)


def _rename(proto: Any, specials: Mapping[str, str]) -> None:
    """Make pieces of these names the model's marks: ``bos``, ``eos``, ``pad``."""
    named = {piece.piece: piece for piece in proto.pieces}
    for role, name in specials.items():
        if name not in named:
            raise InputError(f"the model has no piece '{name}'", where=f"tokenizer.{role}")
        named[name].type = named[name].CONTROL
        setattr(proto.trainer_spec, f"{role}_piece", name)


def _loses(proto: Any) -> str | None:
    """How the model changes a text for good, or why its pieces are not those of the text's words."""
    normalizer, trainer = proto.normalizer_spec, proto.trainer_spec
    if trainer.model_type not in (trainer.UNIGRAM, trainer.BPE):
        return "is neither of kind bpe nor unigram"
    if normalizer.precompiled_charsmap or normalizer.name not in ("", "identity"):
        return f"normalises characters ({normalizer.name or 'by rules of its own'})"
    if normalizer.remove_extra_whitespaces:
        return "leaves out spaces"
    if not trainer.byte_fallback:
        return "has no bytes for unknown characters"
    names = {piece.piece for piece in proto.pieces if piece.type in (piece.NORMAL, piece.USER_DEFINED)}
    alone = {"\n", "\t"}
    user = {piece.piece for piece in proto.pieces if piece.type in (piece.USER_DEFINED, piece.UNUSED)}
    cut = normalizer.escape_whitespaces and not trainer.treat_whitespace_as_suffix
    if not cut or user - alone or any(_SPANNING.search(name) for name in names - alone):
        return "has pieces across words or symbols of its own"
    return None


def model_proto(model: bytes) -> Any:
    """The content of a ``.model`` file."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(model)
    return proto


def _texts_of_pieces(processor: Any) -> list[bytes]:
    texts = []
    for i in range(processor.get_piece_size()):
        if processor.is_control(i) or processor.is_unknown(i):
            texts.append(b"")
        elif processor.is_byte(i):
            texts.append(bytes([int(processor.id_to_piece(i)[3:5], 16)]))
        else:
            texts.append(processor.id_to_piece(i).replace(SPACE, " ").encode("utf-8"))
    return texts
