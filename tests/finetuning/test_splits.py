"""Splits by hash: the same examples stay aside, strata keep their shares, groups stay together."""

from __future__ import annotations

import numpy as np

from raypretrain.finetuning.splits import hash_split


def _split(keys: list[str], labels: list[str], share: float = 0.1, **keywords: str) -> set[str]:
    aside = hash_split(keys, np.arange(len(keys)), labels, share, **keywords)
    return {key for key, out in zip(keys, aside, strict=True) if out}


KEYS = [f"text {i}" for i in range(1000)]
LABELS = ["rare" if i % 20 == 0 else "often" for i in range(1000)]


def test_each_stratum_keeps_its_share():
    aside = _split(KEYS, LABELS)
    assert len(aside) == 100
    assert sum(label == "rare" for key, label in zip(KEYS, LABELS, strict=True) if key in aside) == 5


def test_the_order_of_the_examples_plays_no_part_and_the_salt_does():
    aside = _split(KEYS, LABELS)
    assert _split(KEYS[::-1], LABELS[::-1]) == aside
    assert len(_split(KEYS, LABELS, salt="test") & aside) < 30


def test_examples_that_are_added_move_few_of_those_that_were_there():
    before = _split(KEYS, LABELS)
    after = _split([*KEYS, *(f"new {i}" for i in range(500))], [*LABELS, *["often"] * 500])
    assert len(after) == 150
    assert len(before ^ (after & set(KEYS))) <= 20


def test_a_group_is_on_one_side_and_its_first_example_decides():
    groups = np.arange(1000)
    groups[500:] = groups[:500]
    aside = hash_split(KEYS, groups, LABELS, 0.2)
    assert aside.sum() == 200
    assert (aside[:500] == aside[500:]).all()
    other = [*KEYS[:500], *(f"other {i}" for i in range(500))]
    assert (hash_split(other, groups, LABELS, 0.2) == aside).all()


def test_a_group_that_is_too_large_stays_and_a_stratum_is_never_set_aside_whole():
    groups = np.array([0] * 50 + list(range(50, 100)))
    for salt in ("a", "b", "c"):
        aside = hash_split(KEYS[:100], groups, ["x"] * 100, 0.1, salt)
        assert not aside[:50].any()
        assert aside.sum() == 10
    labels = [str(i % 100) for i in range(200)]
    aside = hash_split(KEYS[:200], np.arange(200), labels, 0.5)
    assert np.bincount(np.array(labels, int)[aside]).tolist() == [1] * 100
    assert not hash_split(KEYS[:1], np.arange(1), ["x"], 0.9).any()


def test_small_strata_give_what_they_owe_together():
    labels = [str(i % 250) for i in range(1000)]
    assert len(_split(KEYS, labels)) == 100
