"""Infilling: nothing of a document is lost, the draws are those of the document, and trace finds every character."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_text import reviews
from tokenizer_kinds import byte_level, of_backend
from tokenizers import pre_tokenizers

from raypretrain.corpus.manifest import build_manifest
from raypretrain.corpus.sources import CorpusConfig, SourceConfig
from raypretrain.errors import InputError
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.infilling import (
    Arrangement,
    InfillConfig,
    arranged_spans,
    check_infill,
    draw_arrangements,
    encode_arranged,
)
from raypretrain.tokens.tokenizer import Tokenizer, TokenizerConfig, given_tokenizer, train_tokenizer
from raypretrain.tokens.tokenizer_specials import INFILL
from raypretrain.tokens.trace import trace_sequences
from raypretrain.tokens.window import SequencesConfig, Windows

TEXTS = reviews(80)
MARKS = (101, 102, 103)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return train_tokenizer(iter(TEXTS), TokenizerConfig(vocabulary=500), path, 1, controls=INFILL)


def split_at_marks(tokenizer: Tokenizer, ids: np.ndarray) -> list[tuple[str, str]]:
    """Each mark with the text that follows it."""
    found: list[tuple[str, list[int]]] = []
    for token in ids.tolist():
        if tokenizer.is_special(token):
            found.append((tokenizer.token_name(token), []))
        else:
            found[-1][1].append(token)
    return [(name, tokenizer.decode(tokens)) for name, tokens in found]


@given(first=st.integers(0, 20), second=st.integers(0, 20), suffix_first=st.booleans())
def test_the_sections_are_all_of_the_document_and_its_middle_is_last(
    first: int, second: int, suffix_first: bool
) -> None:
    first, second = sorted((first, second))
    sections = Arrangement(first, second, suffix_first).sections(20, MARKS)
    characters = [i for s in sections for i in range(s.start, s.stop)]
    assert sorted(characters) == list(range(20))
    assert characters[len(characters) - (second - first) :] == list(range(first, second))
    assert [s.mark for s in sections if s.mark] == list(MARKS)


def test_the_ids_are_the_parts_in_the_order_of_the_paper(tokenizer: Tokenizer) -> None:
    text = "def add(a, b):\n\treturn a + b — é\n"
    ways = [Arrangement(5, 20, False), Arrangement(5, 20, True), None]
    psm, spm, plain = encode_arranged([text] * 3, ways, tokenizer)
    assert split_at_marks(tokenizer, psm) == [
        ("<PRE>", text[:5]),
        ("<SUF>", text[20:]),
        ("<MID>", text[5:20]),
    ]
    assert split_at_marks(tokenizer, spm) == [("<PRE>", ""), ("<SUF>", text[20:]), ("<MID>", text[:20])]
    assert plain.tolist() == tokenizer.encode(text)
    # In SPM, too, the middle is encoded by itself: so it comes when a model fills in.
    assert spm.tolist()[-len(tokenizer.encode(text[5:20])) :] == tokenizer.encode(text[5:20])


@pytest.mark.parametrize("suffix_first", [False, True])
def test_the_spans_are_the_characters_of_the_tokens(tokenizer: Tokenizer, suffix_first: bool) -> None:
    text = "Ça — a 🎬 film\n\nof 1923, naïve"
    for first in range(0, len(text), 3):
        way = Arrangement(first, min(len(text), first + 7), suffix_first)
        (ids,) = encode_arranged([text], [way], tokenizer)
        spans = arranged_spans(text, way, tokenizer)
        assert len(spans) == len(ids)
        for token, (start, stop) in zip(ids.tolist(), spans.tolist(), strict=True):
            if tokenizer.is_special(token):
                assert start == stop
            elif not tokenizer.is_byte(token):  # type: ignore[attr-defined]
                assert text[start:stop] == tokenizer.decode([token])


def test_so_many_are_rearranged_cut_anywhere_and_half_with_the_suffix_first() -> None:
    config = InfillConfig(rate=0.3, suffix_first=0.25)
    drawn = draw_arrangements([9] * 20_000, config, np.random.default_rng(1))
    ways = [way for way in drawn if way]
    assert len(ways) / len(drawn) == pytest.approx(0.3, abs=0.01)
    assert np.mean([way.suffix_first for way in ways]) == pytest.approx(0.25, abs=0.02)
    pairs = np.bincount([way.first * 10 + way.second for way in ways], minlength=100).reshape(10, 10)
    assert np.tril(pairs, -1).sum() == 0
    assert (pairs[np.triu_indices(10)] > 0).all()


def test_what_a_document_gets_does_not_depend_on_the_others() -> None:
    config = InfillConfig(rate=0.5)
    one = draw_arrangements([100, 7, 50], config, np.random.default_rng(3))
    other = draw_arrangements([3, 7, 2000], config, np.random.default_rng(3))
    assert one[1] == other[1]
    assert [way is None for way in one] == [way is None for way in other]


@pytest.mark.parametrize("packing", ["concatenate", "best-fit"])
def test_trace_gives_the_text_of_every_sequence_in_its_order(
    tokenizer: Tokenizer, tmp_path: Path, packing: str
) -> None:
    lines = [json.dumps({"text": text}) + "\n" for text in [*TEXTS, "🎬 é 🎬 é — ñandú " * 9]]
    (tmp_path / "a.jsonl").write_text("".join(lines), encoding="utf-8")
    corpus = CorpusConfig(sources=[SourceConfig(path=str(tmp_path))], held_out=0)
    values = {"length": 33, "packing": packing, "window": 30_000, "infill": {"rate": 0.6}}
    windows = Windows(
        build_manifest(corpus, 4000), corpus, SequencesConfig.model_validate(values), tokenizer, 7
    )
    rows = trace_sequences(windows, Cursor(), 600)
    infilled = [piece for row in rows for piece in row.pieces if piece.infilled]
    assert 0.3 < len(infilled) / sum(len(row.pieces) for row in rows) < 0.9
    for row in rows:
        for piece in row.pieces:
            ids = row.ids[piece.column : piece.column + piece.tokens].tolist()
            ids = [token for token in ids if token not in (tokenizer.bos, tokenizer.eos)]
            if any(tokenizer.is_byte(token) for token in ids):  # type: ignore[attr-defined]
                continue  # a row may end within a character
            marked = "".join(
                tokenizer.token_name(t) if tokenizer.is_special(t) else tokenizer.decode([t]) for t in ids
            )
            assert piece.text == marked
    whole = {d.text for w in range(2) for packed in windows.packed(w) for d in packed.documents}
    assert whole <= {*TEXTS, "🎬 é 🎬 é — ñandú " * 9}


def test_without_a_rate_nothing_is_drawn_and_the_windows_are_those_of_before(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    corpus = CorpusConfig(sources=[SourceConfig(path=str(tmp_path))], held_out=0)

    def rows(rate: float) -> np.ndarray:
        config = SequencesConfig.model_validate({"length": 32, "window": 10**6, "infill": {"rate": rate}})
        (part,) = Windows(build_manifest(corpus, 4000), corpus, config, tokenizer, 7).parts(0)
        return part.sequences.tokens

    plain, infilled = rows(0.0), rows(1.0)
    assert not np.isin(plain, tokenizer.infill).any()
    assert np.isin(infilled, tokenizer.infill).sum() >= 3 * len(TEXTS) - 3
    np.testing.assert_array_equal(rows(1.0), infilled)


def test_marks_are_found_in_public_tokenizers_and_their_names_in_a_text_are_text() -> None:
    names = ("<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>")
    found = of_backend(byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), specials=names))
    assert found.infill is not None
    assert [found.token_name(i) for i in found.infill] == ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]
    check_infill(InfillConfig(rate=0.5), found)
    (ids,) = encode_arranged(["one two three"], [Arrangement(2, 9, False)], found)
    parts = [("<fim_prefix>", "on"), ("<fim_suffix>", "hree"), ("<fim_middle>", "e two t")]
    assert split_at_marks(found, ids) == parts


def test_a_tokenizer_without_marks_is_refused(tmp_path: Path) -> None:
    plain = given_tokenizer(TokenizerConfig(kind="bytes"))
    assert plain is not None
    check_infill(InfillConfig(), plain)
    with pytest.raises(InputError, match="no tokens that mark prefix, suffix and middle") as caught:
        check_infill(InfillConfig(rate=0.1), plain)
    assert caught.value.where == "sequences.infill"
    assert "set rate to 0" in str(caught.value.fix)
