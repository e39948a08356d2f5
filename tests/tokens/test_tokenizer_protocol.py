"""What holds of tokenizers of every kind."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from real_text import python_files, reviews
from tokenizer_kinds import KINDS, LOSSLESS, tokenizer_of

from raypretrain.tokens.export import save_huggingface_tokenizer
from raypretrain.tokens.tokenizer import Tokenizer

TEXTS = st.one_of(st.text(), st.text(alphabet=" \n\t\r\0\x85\u2581\u2028aZ5.,'/é\u0301漢😀<>xs", max_size=80))
ODD = [
    "",
    " ",
    " a  b ",
    "\n\n\t\t  x",
    "a\r\n\r\nb \u2028c\x85d\xa0 e",
    "\u2581 \u2581\u2581x",
    "e\u0301 ﬁ Å İ ß 한글",
    "<s></s><pad><mask><unk>[CLS] [SEP][PAD]<cls><eos><|endoftext|><|end_of_text|><|begin|>",
    "<tool>x</tool> <think>\n    y",
    "mktLSDER*jx-. ",
    "日本語 emoji 😀 👩\u200d👩\u200d👧",
    "  " * 200,
    "x" * 3000,
]


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return tokenizer_of(request.param)


def real_texts() -> list[str]:
    return [*ODD, *reviews(140)[120:], *(text[:5000] for text in python_files(30)[20:])]


@pytest.mark.parametrize("kind", LOSSLESS)
def test_any_text_comes_back_as_it_was(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    assert tokenizer.lossless

    @settings(max_examples=60)
    @given(TEXTS)
    @example(ODD[5])
    @example(ODD[7])
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not any(tokenizer.is_special(i) for i in ids)

    check()


def test_a_batch_has_the_ids_of_its_texts_one_by_one(tokenizer: Tokenizer) -> None:
    chosen = real_texts()
    batch = tokenizer.encode_batch(chosen)
    assert [ids.tolist() for ids in batch] == [tokenizer.encode(text) for text in chosen]
    assert {ids.dtype for ids in batch} == {np.dtype(np.int32)}
    assert max(ids.max(initial=0) for ids in batch) < tokenizer.vocabulary
    assert tokenizer.encode_batch([]) == []


def test_no_text_becomes_a_mark_not_even_its_name(tokenizer: Tokenizer) -> None:
    marks = {tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.mask} - {None}
    names = [tokenizer.token_name(mark) for mark in sorted(marks)]
    for text in (
        *ODD,
        *names,
        " ".join(names),
        "a".join(names),
        f"x {names[0]}\n{names[-1]}.",
        "\n".join(names),
    ):
        assert not marks & set(tokenizer.encode(text))


def as_bytes_of_characters(text: str) -> list[int]:
    """The character of each byte of ``text``."""
    return [i for i, character in enumerate(text) for _ in character.encode()]


@pytest.mark.parametrize("kind", KINDS)
def test_spans_cover_the_text_and_bytes_add_up(kind: str) -> None:
    tokenizer = tokenizer_of(kind)

    @settings(max_examples=60)
    @given(TEXTS)
    def check(text: str) -> None:
        spans, sizes, ids = tokenizer.spans(text), tokenizer.token_bytes(text), tokenizer.encode(text)
        assert spans.shape == (len(ids), 2)
        assert spans.dtype == sizes.dtype == np.int64
        assert len(sizes) == len(ids)
        assert int(sizes.sum()) == (len(text.encode()) if ids else 0)
        assert ((spans[:, 0] <= spans[:, 1]) & (spans[:, 1] <= len(text)) & (spans[:, 0] >= 0)).all()
        assert (np.diff(spans[:, 1]) >= 0).all()
        if tokenizer.lossless:
            owners, ends = as_bytes_of_characters(text), np.cumsum(sizes)
            expected = [
                (owners[end - size], owners[end - 1] + 1) if size else (0, 0)
                for end, size in zip(ends, sizes, strict=True)
            ]
            assert list(map(tuple, spans.tolist())) == expected

    for text in ODD:
        check.hypothesis.inner_test(text)  # type: ignore[attr-defined]
    check()


def test_the_texts_of_the_spans_are_those_of_the_tokens() -> None:
    text = "A good  film — naïve, 3.14\n\tdef f(x):"
    gpt2, bert = tokenizer_of("like-gpt2"), tokenizer_of("like-bert")
    pieces = [text[start:stop] for start, stop in gpt2.spans(text)]
    assert [
        gpt2.decode([i]) for i, piece in zip(gpt2.encode(text), pieces, strict=True) if piece.isascii()
    ] == [piece for piece in pieces if piece.isascii()]
    pieces = [text[start:stop].lower() for start, stop in bert.spans(text)]
    names = [bert.token_name(i).removeprefix("##") for i in bert.encode(text)]
    assert len(names) > 10
    assert all(p == n for p, n in zip(pieces, names, strict=True) if p.isascii() and n != "[UNK]")


@pytest.mark.slow
def test_it_is_the_same_after_saving_loading_and_pickling(tokenizer: Tokenizer, tmp_path: Path) -> None:
    saved = tokenizer.save(tmp_path / "folder")
    again = [
        Tokenizer.load(saved),
        Tokenizer.load(tmp_path / "folder"),
        pickle.loads(pickle.dumps(tokenizer)),
        pickle.loads(pickle.dumps(Tokenizer.load(saved))),
    ]
    chosen = real_texts()
    expected = [tokenizer.encode(text) for text in chosen]
    for other in again:
        assert type(other) is type(tokenizer)
        assert other.fingerprint == tokenizer.fingerprint
        assert (other.kind, other.vocabulary, other.lossless) == (
            tokenizer.kind,
            tokenizer.vocabulary,
            tokenizer.lossless,
        )
        assert (other.bos, other.eos, other.pad, other.unk, other.mask) == (
            tokenizer.bos,
            tokenizer.eos,
            tokenizer.pad,
            tokenizer.unk,
            tokenizer.mask,
        )
        assert other.byte_lengths.tolist() == tokenizer.byte_lengths.tolist()
        assert [other.encode(text) for text in chosen] == expected


def test_fingerprints_differ_between_tokenizers() -> None:
    assert len({tokenizer_of(kind).fingerprint for kind in KINDS}) == len(KINDS)


def test_special_tokens_have_no_bytes(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.byte_lengths) == tokenizer.vocabulary
    for mark in (tokenizer.bos, tokenizer.eos, tokenizer.pad):
        assert tokenizer.is_special(mark)
        assert tokenizer.byte_lengths[mark] == 0
    some = tokenizer.encode("MKT")
    assert tokenizer.decode([tokenizer.bos, *some, tokenizer.eos, tokenizer.pad]) == tokenizer.decode(some)


@pytest.fixture(params=KINDS)
def released(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, Any, Path]:
    """A tokenizer, the one that transformers loads from the released folder, and the folder."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp(request.param)
    save_huggingface_tokenizer(tokenizer_of(request.param), folder, max_length=512)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return tokenizer_of(request.param), AutoTokenizer.from_pretrained(folder), folder


def test_released_its_ids_in_transformers_are_the_mark_of_begin_and_ours(
    released: tuple[Tokenizer, Any, Path],
) -> None:
    ours, theirs, folder = released
    for text in real_texts():
        ids = theirs(text)["input_ids"]
        assert ids == [ours.bos, *ours.encode(text)]
        if ours.lossless:
            assert theirs.decode(ids, skip_special_tokens=True) == text
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (ours.bos, ours.eos, ours.pad)
    assert len(theirs) == ours.vocabulary
    assert theirs.model_max_length == 512
    assert theirs(["MKT", "MKT LSP ACDE"], padding=True)["input_ids"][0][-1] == ours.pad
    assert Tokenizer.load(folder).fingerprint == ours.fingerprint
