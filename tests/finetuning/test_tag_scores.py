"""Words that do not fit into the length are not learned, and count as missed."""

from __future__ import annotations

import numpy as np
import pytest

from raypretrain.finetuning.encode import NO_TARGET, Encoded
from raypretrain.finetuning.kinds.tag import Tag

NAMES = ("O", "B-PER", "I-PER")


def sentences(missing: tuple[tuple[tuple[int, int], ...], ...]) -> Encoded:
    """Two of three and two words that have tokens: PER O PER, and O O."""
    targets = np.array([1, NO_TARGET, 0, 1, 0, 0])
    return Encoded(np.arange(6), np.array([0, 4, 6]), targets, of_tokens=True, missing=missing)


def all_right(data: Encoded) -> list[np.ndarray]:
    rows = [np.array([1, 0, 1]), np.array([0, 0])]
    return [np.eye(3)[row] * 20 for row in rows]


def test_all_words_are_there_and_right() -> None:
    data = sentences(())
    found = Tag(NAMES, iob2=True).scores(all_right(data), data)
    assert (found["f1"], found["accuracy"]) == (1.0, 1.0)
    assert "unseen" not in found


def test_an_entity_beyond_the_length_is_missed() -> None:
    data = sentences((((3, 1), (4, 2)), ()))
    found = Tag(NAMES, iob2=True).scores(all_right(data), data)
    assert (found["precision"], found["recall"]) == (1.0, pytest.approx(2 / 3))
    assert found["accuracy"] == pytest.approx(5 / 7)
    assert found["unseen"] == pytest.approx(2 / 7)
    details = Tag(NAMES, iob2=True).details(all_right(data), data)
    assert details.truth[0] == "B-PER O B-PER B-PER I-PER"
    assert details.predicted[0] == "B-PER O B-PER O O"
    assert details.losses[0] == pytest.approx(0, abs=1e-6)


def test_a_word_without_a_token_in_the_middle_keeps_the_others_in_place() -> None:
    data = sentences((((1, 2),), ()))
    details = Tag(NAMES, iob2=True).details(all_right(data), data)
    assert details.truth[0] == "B-PER I-PER O B-PER"
    assert details.predicted[0] == "B-PER O O B-PER"


def test_of_parts_of_speech_each_word_counts() -> None:
    data = sentences((((3, 2), (4, 2)), ()))
    found = Tag(("NOUN", "VERB", "DET"), iob2=False).scores(all_right(data), data)
    assert found["accuracy"] == pytest.approx(5 / 7)
    assert found["f1"] == pytest.approx(2 / 3)  # of NOUN and VERB 1, of DET 0


def test_examples_that_are_taken_keep_what_they_miss() -> None:
    data = sentences((((3, 1),), ())).take(np.array([1, 0]))
    assert data.missing == ((), ((3, 1),))
