"""The tokenizer: SentencePiece, lossless on any text, and several times faster than by plain calls.

A model trained here keeps every character: no normalisation, no space put in front, runs of spaces as
pieces, newline and tab as symbols of their own, digits one by one, and bytes for what the vocabulary does not
know.

Speed: SentencePiece makes no piece that spans the place before white space, or between an English letter
and another ASCII character. So the pieces of a text are those of its *words*, cut at these places, and a
word that was met before is looked up.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from raypretrain import storage
from raypretrain.config import Config, Count, Location
from raypretrain.errors import InputError
from raypretrain.tokens.words import MOST_WORDS, SPACE, SPANNING, WORD, Words, parts_of

MODEL_NAME = "tokenizer.model"


class TokenizerConfig(Config):
    """Which tokenizer: one that exists, or how to train one on a sample of the corpus."""

    path: Location | None = None
    """A SentencePiece ``.model``, or a folder that holds ``tokenizer.model``. Nothing is trained then."""
    kind: Literal["bpe", "unigram"] = "bpe"
    vocabulary: Count = 16384
    """Pieces, the 256 bytes and six special ones among them."""
    sample: Count = 20_000_000
    """Bytes of text to train on."""


class Tokenizer:
    """A SentencePiece model, with the bytes that each piece stands for."""

    def __init__(self, model: bytes, where: str = MODEL_NAME) -> None:
        """Args: the content of a ``.model`` file, and its name for error messages."""
        import sentencepiece

        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, OSError):
            raise InputError("is no SentencePiece model", where=where) from None
        self.model = model
        self.vocabulary: int = self._processor.get_piece_size()
        self.bos, self.eos = self._special("bos", where), self._special("eos", where)
        self.unk: int = self._processor.unk_id()
        self.pad: int = self._processor.pad_id() if self._processor.pad_id() >= 0 else self.eos
        self._texts = _texts_of_pieces(self._processor)
        self._words = Words(self._processor)
        self._cut = self.lossless

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a ``.model`` file, or the ``tokenizer.model`` of a folder; local or in a bucket.

        Raises:
            InputError: it is not there, or is no SentencePiece model with marks of begin and end.
        """
        text = str(path)
        if not storage.is_remote(text) and Path(text).is_dir():
            text = str(Path(text) / MODEL_NAME)
        if not storage.is_remote(text) and not Path(text).is_file():
            fix = f"name a .model file or a folder with {MODEL_NAME}"
            raise InputError("there is no such tokenizer", where=text, fix=fix)
        with storage.open_read(text) as file:
            return cls(file.read(), text)

    def save(self, folder: str | Path) -> Path:
        """Write ``tokenizer.model`` into ``folder`` and return its path."""
        path = Path(folder) / MODEL_NAME
        storage.write_atomic(path, self.model)
        return path

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``, without marks of begin or end."""
        return self._array(text).tolist()

    def encode_batch(self, texts: Iterable[str]) -> list[np.ndarray]:
        """The ids of each text: int32 [tokens], equal to :meth:`encode`."""
        if self._cut and self.kind == "unigram":
            return self._in_parts(list(texts))
        return [self._array(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``; special ones are nothing, and bytes that are no UTF-8 become U+FFFD."""
        texts = self._texts
        return b"".join([texts[i] for i in ids]).decode("utf-8", errors="replace")

    @cached_property
    def byte_lengths(self) -> np.ndarray:
        """int32 [vocabulary]: the bytes of UTF-8 that each token stands for; 0 for special ones."""
        return np.array([len(text) for text in self._texts], dtype=np.int32)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the model file."""
        return hashlib.sha256(self.model).hexdigest()

    @cached_property
    def pieces(self) -> list[tuple[str, float]]:
        """``(piece, score)`` of each id, as SentencePiece writes them."""
        size = range(self.vocabulary)
        return [(self._processor.id_to_piece(i), self._processor.get_score(i)) for i in size]

    @cached_property
    def kind(self) -> str:
        """``bpe`` or ``unigram`` (or ``char``, ``word`` for a model from elsewhere)."""
        spec = _proto(self.model).trainer_spec
        return str(spec.ModelType.Name(spec.model_type)).lower()

    def is_special(self, token: int) -> bool:
        """Whether the token stands for no text: unknown, begin, end, padding."""
        return bool(self._processor.is_control(token) or self._processor.is_unknown(token))

    def is_byte(self, token: int) -> bool:
        """Whether the token stands for a single byte."""
        return bool(self._processor.is_byte(token))

    @cached_property
    def lossless(self) -> bool:
        """Whether every text comes back as it was, and can be cut into words. All trained here are so."""
        proto = _proto(self.model)
        spec = proto.normalizer_spec
        plain = spec.name == "identity" and not spec.add_dummy_prefix and not spec.remove_extra_whitespaces
        if not (plain and spec.escape_whitespaces and proto.trainer_spec.byte_fallback):
            return False
        alone = {"\n", "\t"}
        normal = (i for i in range(self.vocabulary) if not (self.is_special(i) or self.is_byte(i)))
        names = [self.pieces[i][0] for i in normal]
        if not alone <= set(names):
            return False
        return not any(SPANNING.search(name) for name in names if name not in alone)

    def _array(self, text: str) -> np.ndarray:
        if not self._cut:
            return np.asarray(self._processor.encode(text), dtype=np.int32)
        words = self._words
        if len(words) > MOST_WORDS:
            words.clear()
        ids = bytearray().join(map(words.__getitem__, WORD.findall(text)))
        return np.frombuffer(ids, dtype=np.int32)

    def _in_parts(self, texts: list[str]) -> list[np.ndarray]:
        """Unigram is quick enough for whole texts to be cheaper than words; cut so that its sums stay exact."""
        parts = [parts_of(text) for text in texts]
        flat = [part for some in parts for part in some]
        encoded = iter(self._processor.encode_as_numpy(flat, num_threads=1) if flat else [])
        found = []
        for text, some in zip(texts, parts, strict=True):
            ids = [next(encoded) for _ in some]
            found.append(self._array(text) if not ids else ids[0] if len(ids) == 1 else np.concatenate(ids))
        return found

    def _special(self, name: str, where: str) -> int:
        token = int(getattr(self._processor, f"{name}_id")())
        if token < 0:
            raise InputError(f"has no '{name}' piece", where=where, fix=f"train it with {name}_id")
        return token

    def __reduce__(self) -> tuple[Any, ...]:
        return (Tokenizer, (self.model,))


def train_tokenizer(texts: Iterator[str], config: TokenizerConfig, path: Path, threads: int) -> Tokenizer:
    """Train on ``texts``, write the model to ``path``, and return it. The same texts give the same model.

    (Unigram: with the same number of threads, whose sums are added up in another order otherwise.)

    Raises:
        InputError: the texts do not support that many pieces, or need more; says how many.
    """
    import sentencepiece

    out = io.BytesIO()
    broken: list[Exception] = []
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(_noting(texts, broken)),
            model_writer=out,
            model_type=config.kind,
            vocab_size=config.vocabulary,
            num_threads=threads,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            user_defined_symbols=["\n", "\t"],
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=3,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise (broken[0] if broken else _training_error(error, config)) from None
    model = _finished(out.getvalue())
    storage.write_atomic(path, model)
    return Tokenizer(model, str(path))


def _noting(texts: Iterator[str], broken: list[Exception]) -> Iterator[str]:
    """``texts``; SentencePiece makes a message of what they raise, so the error itself is kept."""
    try:
        yield from texts
    except Exception as error:
        broken.append(error)
        raise


_LONGEST_LINE = 4000  # bytes; SentencePiece passes over longer ones


def _lines(texts: Iterator[str]) -> Iterator[str]:
    """Lines to train on: no newline, tab or NUL, none too long; a long one is cut before a space."""
    for text in texts:
        for line in re.split(r"[\n\t\0]+", text.replace(SPACE, " ")):
            while len(line) > _LONGEST_LINE // 4 and len(line.encode()) > _LONGEST_LINE:
                cut = line.rfind(" ", 1, _LONGEST_LINE // 4)
                cut = cut if cut > 0 else _LONGEST_LINE // 4
                yield line[:cut]
                line = line[cut:]
            if line:
                yield line


def _finished(model: bytes) -> bytes:
    """The model without the number of threads, its scores rounded to multiples of 1/256.

    Sums of such scores are exact in float32 and float64 alike. Otherwise rounding would decide between
    equally good ways to cut a word ("====" + "==", or the other way round), differently in each program.
    """
    proto = _proto(model)
    proto.trainer_spec.num_threads = 1
    unigram = proto.trainer_spec.model_type == proto.trainer_spec.UNIGRAM
    for piece in proto.pieces:  # BPE's are ranks, whole numbers
        if unigram and piece.piece in ("\n", "\t"):
            # As symbols their score would be made up (0.1 below the best). No other piece holds them anyway.
            piece.type, piece.score = piece.NORMAL, 0.0
        piece.score = round(piece.score * 256) / 256
    return bytes(proto.SerializeToString())


def _training_error(error: Exception, config: TokenizerConfig) -> InputError:
    message = str(error)
    where = "tokenizer.vocabulary"
    if found := re.search(r"set it to a value <= (\d+)", message):
        most = int(found[1])
        what = f"{config.vocabulary} pieces are more than the text supports, which is {most}"
        return InputError(what, where=where, fix=f"set it to {most} or less, or give more text")
    if found := re.search(r"smaller than required_chars\.? *(\d+) vs (\d+)", message):
        least = max(int(found[1]), int(found[2]))
        what = f"{config.vocabulary} pieces are too few for the text"
        return InputError(what, where=where, fix=f"set it to {least} or more")
    if "sentences" in message and "empty" in message:
        return InputError("there is no text to train the tokenizer on", where="corpus.sources")
    return InputError(f"the tokenizer cannot be trained ({message})", where="tokenizer")


def _proto(model: bytes) -> Any:
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
