"""One document of any size: the ids of the whole, in memory for its ids and little more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from real_text import python_files, reviews
from tokenizer_kinds import KINDS, tokenizer_of

from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.tokens.tokenizer_huggingface import HuggingFaceTokenizer
from raypretrain.tokens.tokenizer_sentencepiece import CUT, SentencePieceTokenizer
from raypretrain.tokens.words import PIECE, pieces

QUICK = ("bpe", "unigram", "like-llama2", "like-llama3", "bytes")
ALL = [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
SPACES_ONLY = ("like-roberta", "like-t5")  # can be cut before a space, and nowhere else


def long_text(kind: str) -> str:
    """1 MB: prose in one line, then code, then lines without a single space, where they can be cut."""
    prose, code = " ".join(reviews(320)), "\n".join(python_files(8))
    unspaced = "\n".join("".join(text.split()) for text in reviews(270))
    return f"{prose}\n{code}\n漢字，{'かな。' * 50}\n{prose if kind in SPACES_ONLY else unspaced}"


def whole(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of the library for the text in one go."""
    if isinstance(tokenizer, SentencePieceTokenizer):
        ids: list[int] = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model).encode(text)
    elif isinstance(tokenizer, HuggingFaceTokenizer):
        ids = tokenizer._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
    else:
        ids = tokenizer._encode([text])[0].tolist()
    return ids


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL)
def test_a_long_text_has_the_ids_of_the_whole(kind: str) -> None:
    tokenizer, text = tokenizer_of(kind), long_text(kind)
    parts = list(tokenizer._pieces(text))
    assert len(parts) > 2
    assert "".join(parts) == text
    assert max(map(len, parts)) <= PIECE
    # The sums of unigram over a whole text of this size are not exact in SentencePiece itself.
    expected = [i for ids in tokenizer._encode(parts) for i in ids.tolist()] if kind == "unigram" else None
    assert tokenizer.encode(text) == (expected or whole(tokenizer, text))


@pytest.mark.parametrize("kind", ALL)
def test_a_long_text_has_spans_and_bytes_as_any(kind: str) -> None:
    tokenizer, text = tokenizer_of(kind), long_text(kind)[-PIECE - 5000 :]
    spans, sizes = tokenizer.spans(text), tokenizer.token_bytes(text)
    assert len(spans) == len(sizes) == len(tokenizer.encode(text))
    assert int(sizes.sum()) == len(text.encode())
    assert spans[-1, 1] >= len(text) - 1
    assert (np.diff(spans[:, 1]) >= 0).all()


def test_a_word_that_is_longer_than_a_piece_is_cut_where_a_piece_ends() -> None:
    text = "a " * 10 + "x" * (2 * PIECE) + " b"
    parts = list(pieces(text, CUT.words))
    assert "".join(parts) == text
    assert max(map(len, parts)) <= PIECE
    assert len(parts) <= 4
    gpt2 = tokenizer_of("like-gpt2")
    assert gpt2.decode(gpt2.encode(text)) == text


def test_no_piece_ends_in_a_token_of_the_files_own() -> None:
    qwen = tokenizer_of("like-qwen")
    text = "<tool>" * (PIECE // 4)  # no space, and a place between letters and signs in every one
    parts = list(qwen._pieces(text))
    assert len(parts) > 1
    assert all(len(part) % len("<tool>") == 0 for part in parts)
    assert qwen.encode(text) == whole(qwen, text)


@pytest.mark.slow
def test_white_space_at_the_end_of_a_piece_stays_with_its_word() -> None:
    text = "x" * 100 + (" " * 5000 + "y\n\n") * 200 + "z"
    for kind in ("bpe", "like-gpt2", "like-llama3"):
        tokenizer = tokenizer_of(kind)
        assert tokenizer.encode(text) == whole(tokenizer, text)


MEASURE = """
import resource, sys
from pathlib import Path
from raypretrain.tokens.tokenizer import Tokenizer

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000

tokenizer = Tokenizer.load(sys.argv[1])
text = Path(sys.argv[2]).read_bytes().decode()
tokenizer.encode_batch([text[:2_000_000]])
before = peak()
ids = tokenizer.encode_batch([text])[0]
print(len(ids), peak() - before - ids.nbytes / 1e6)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bpe", "unigram", "like-llama3", "bytes"])
def test_a_document_of_20_mb_needs_little_memory_but_for_its_ids(kind: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(kind)
    text = "\n".join([" ".join(reviews(13_000)), *python_files(150)])[:20_000_000]
    assert len(text) > 19_000_000
    (tmp_path / "text").write_text(text, newline="")
    command = [sys.executable, "-c", MEASURE, str(tokenizer.save(tmp_path)), str(tmp_path / "text")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    tokens, megabytes = map(float, done.stdout.split())
    assert tokens > 2_000_000
    assert megabytes < 100  # in one go: 550 for words and their ids
