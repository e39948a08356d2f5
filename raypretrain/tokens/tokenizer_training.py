"""Training a SentencePiece model that loses nothing."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from raypretrain import storage
from raypretrain.errors import InputError
from raypretrain.tokens.tokenizer_config import TokenizerConfig
from raypretrain.tokens.tokenizer_sentencepiece import SPACE, SentencePieceTokenizer, model_proto


def train_tokenizer(
    texts: Iterator[str], config: TokenizerConfig, path: Path, threads: int, controls: Sequence[str] = ()
) -> SentencePieceTokenizer:
    """Train on ``texts``, write the model to ``path``, and return it. The same texts give the same model.

    (Unigram: with the same number of threads, whose sums are added up in another order otherwise.)

    Args:
        controls: names of special tokens beside those that begin, end and fill: marks for infilling, a mask.

    Raises:
        InputError: the texts do not support that many pieces, or need more; says how many. Or nothing is trained
            for a tokenizer of that kind.
    """
    import sentencepiece

    if config.kind in ("bytes", "amino-acids"):
        fix = f"set tokenizer.kind: {config.kind} in the recipe"
        raise InputError("a tokenizer of this kind is not trained", where="tokenizer.kind", fix=fix)

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
            control_symbols=list(controls),
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
    return SentencePieceTokenizer(model, str(path))


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
    proto = model_proto(model)
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
