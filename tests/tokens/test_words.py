"""Texts to ids by words: where they are cut, and that a batch has the ids of its texts."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypretrain.tokens import words as words_module
from raypretrain.tokens.words import KINDS, Cut, Words

BEFORE_SPACE = Cut(("a5.é—", " "))
LETTERS = Cut(("a", "5. "), ("5.", "a"), ("é", " "))


def lengths(words: list[str]) -> list[bytes]:
    """Two ids for each word, or none for ``!``: its characters, and the first one."""
    return [np.array([len(w), ord(w[0])] if w != "!" else [], np.int32).tobytes() for w in words]


def expected(cut: Cut, text: str) -> list[int]:
    return [i for word in cut.words(text) if word != "!" for i in (len(word), ord(word[0]))]


def test_a_place_is_cut_by_the_kinds_of_the_characters_beside_it():
    assert BEFORE_SPACE.words("ab c  d\n e é ) \xa0 x") == ["ab", " c", "  d\n e", " é", " )", " \xa0 x"]
    assert LETTERS.words("ab1c é漢 d\u0301 —") == ["ab", "1", "c", " é漢", " d\u0301 —"]
    assert LETTERS.words("") == []


@pytest.mark.parametrize(
    ("characters", "kind"),
    [
        ("zZ", "a"),
        ("09", "5"),
        ("!~_", "."),
        ("\x01\x7f", "\0"),
        ("\x0c", "\v"),
        ("ßд漢²𝟘", "é"),
        ("\u0301、😀", "—"),
        ("\u2028\u3000", "\xa0"),
    ],
)
def test_characters_of_a_kind(characters: str, kind: str):
    for character in characters:
        cuts = [Cut((example, "a")).words(f"{character}a") for example in KINDS]
        assert [len(words) - 1 for words in cuts] == [int(example == kind) for example in KINDS], character


@settings(max_examples=200)
@given(st.lists(st.text(alphabet=" \n\xa0\u2028a5.'é\u0301漢😀!", max_size=12), max_size=8))
def test_a_batch_has_the_ids_of_its_texts(texts: list[str]):
    for cut in (BEFORE_SPACE, LETTERS):
        words = Words(cut, lengths)
        for _ in range(2):  # words that are new, and words that are known
            found = words.ids(texts)
            assert [ids.dtype for ids in found] == [np.int32] * len(texts)
            assert [ids.tolist() for ids in found] == [expected(cut, text) for text in texts]
        assert all("".join(cut.words(text)) == text for text in texts)


def test_batches_of_any_size_have_the_same_ids(monkeypatch: pytest.MonkeyPatch):
    texts = ["one two", "", "three" * 10, " four  five é x", "six"] * 3
    once = [ids.tolist() for ids in Words(LETTERS, lengths).ids(texts)]
    monkeypatch.setattr(words_module, "_BATCH", 9)
    assert [ids.tolist() for ids in Words(LETTERS, lengths).ids(texts)] == once
    assert once == [expected(LETTERS, text) for text in texts]


def test_what_is_a_word_by_itself_is_not_cut_nor_found_across_texts():
    seen: list[str] = []
    words = Words(LETTERS, lambda new: seen.extend(new) or lengths(new), re.compile("<x 1>|é".encode()))
    words.ids(["a<x 1>b é1<x", " 1>"])
    assert seen == ["a", "<x 1>", "b", " ", "é", "1<", "x", " 1>"]


def test_every_word_is_encoded_once_and_those_that_are_kept_are_few(monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []
    words = Words(BEFORE_SPACE, lambda new: seen.extend(new) or lengths(new))
    long = "y" * 100
    words.ids([f"a a a {long}", f"a {long}"])
    assert sorted(seen) == [" a", " " + long, "a"]
    words.ids([f"a {long}"])
    assert seen.count(" a") == 1
    assert seen.count(" " + long) == 2
    monkeypatch.setattr(words_module, "_MOST_WORDS", 1)
    words.ids(["b"])
    assert set(words) == {b"b"}
