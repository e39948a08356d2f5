"""Near-duplicates: those that are found, and those that are none."""

from __future__ import annotations

import random

import numpy as np
import pytest
from proteins import proteins
from real_text import reviews

from raypretrain.finetuning.near_duplicates import near_duplicate_groups
from raypretrain.finetuning.shingles import shingles, unit_hashes, units


def _changed(text: str, words: int, seed: int = 0) -> str:
    """With so many of its words replaced."""
    chance = random.Random(seed)
    parts = text.split()
    for at in chance.sample(range(len(parts)), words):
        parts[at] = "something"
    return " ".join(parts)


def test_texts_that_differ_in_a_word_or_in_punctuation_are_a_group():
    texts = [text for text in reviews(60) if len(text.split()) > 120]
    copies = [_changed(text, 1).upper().replace(".", " ;") for text in texts]
    groups = near_duplicate_groups([*texts, *copies])
    assert groups.tolist() == list(range(len(texts))) * 2


def test_texts_that_share_half_of_their_words_are_none():
    texts = [text for text in reviews(60) if len(text.split()) > 120]
    halves = [" ".join(text.split()[: len(text.split()) // 2] + ["other"] * 100) for text in texts]
    assert near_duplicate_groups([*texts, *halves]).tolist() == list(range(2 * len(texts)))


def test_short_texts_are_compared_by_their_letters():
    text = "the director never quite decides whether this film should be a comedy or a tragedy"
    texts = [
        text,
        f"{text}!",
        text.replace("never quite", "never"),
        "a quite different film",
        "good",
        "Good.",
        "god",
    ]
    assert near_duplicate_groups(texts).tolist() == [0, 0, 0, 3, 4, 4, 6]


@pytest.mark.parametrize("words", [47, 48, 63, 64, 65])
def test_no_pair_is_missed_at_the_bound_between_letters_and_words(words):
    chance = random.Random(words)
    vocabulary = sorted({word for text in reviews(20) for word in text.split() if word.isalpha()})
    text = [chance.choice(vocabulary) for _ in range(words)]
    assert near_duplicate_groups([" ".join(text), " ".join(text[:-2])]).tolist() == [0, 0]


def test_scripts_without_spaces_and_proteins_are_compared_by_characters():
    chinese = "".join(chr(0x4E00 + i * 37 % 5000) for i in range(200))
    sequences = proteins(20, shortest=150)
    texts = [chinese, chinese[:-3], chinese[100:], *sequences, *(s[:70] + "W" + s[71:] for s in sequences)]
    groups = near_duplicate_groups(texts).tolist()
    assert groups[:3] == [0, 0, 2]
    assert groups[3:] == list(range(3, 23)) * 2


def test_a_group_holds_who_is_linked_and_is_called_by_its_first():
    words = [f"w{i}" for i in range(120)]
    texts = ["unlike", *(" ".join(words[i : i + 100]) for i in (0, 9, 18))]
    assert near_duplicate_groups(texts).tolist() == [0, 1, 1, 1]
    assert near_duplicate_groups(texts[:2] + texts[3:]).tolist() == [0, 1, 2]


def test_many_copies_cost_little_and_empty_texts_are_unlike():
    texts = ["the same short text"] * 5000 + ["", "", "!?", "!?", "??"]
    assert near_duplicate_groups(texts).tolist() == [0] * 5000 + [5000, 5001, 5002, 5002, 5004]
    assert near_duplicate_groups([]).tolist() == []


def test_pairs_above_the_bound_are_found_and_those_below_are_not():
    chance = random.Random(3)
    texts, similar = [], []
    for text in reviews(400):
        if len(text.split()) < 150:
            continue
        other = _changed(text, chance.choice([1, 2, 4, 6, 9]), seed=len(texts))
        one, two = (set(shingles(unit_hashes(units(t)), 5).tolist()) for t in (text, other))
        texts += [text, other]
        similar.append(len(one & two) / len(one | two) >= 0.8)
    groups = near_duplicate_groups(texts)
    assert (groups[::2] == groups[1::2]).tolist() == similar
    assert 10 < sum(similar) < len(similar) - 10


def test_shingles_of_several_lengths_are_those_of_each():
    hashes = unit_hashes([*"abcdeabc"])
    both = shingles(hashes, 3, 5)
    assert both.tolist() == [*shingles(hashes, 3).tolist(), *shingles(hashes, 5).tolist()]
    assert len(both) == 6 + 4
    assert both[0] == both[5]
    assert len(np.unique(both)) == 9
    assert len(shingles(hashes, 9)) == 0


def test_hashes_are_the_same_on_every_machine():
    found = shingles(unit_hashes(units("Once upon a time, there was")), 5)
    assert found.tolist() == [11156982126003675166, 2446054613163994623]
