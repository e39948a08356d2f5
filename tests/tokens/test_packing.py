"""Packing: every token of every document in its place, but for the tail."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raypretrain.tokens.packing import concatenate

BOS, EOS = 1, 2


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_documents_are_laid_end_to_end_between_their_marks() -> None:
    rows = concatenate([ids(10, 11, 12), ids(20), ids(30, 31)], 4, bos=BOS, eos=EOS)
    assert rows.dtype == np.int32
    assert rows.tolist() == [[1, 10, 11, 12], [2, 1, 20, 2], [1, 30, 31, 2]]


def test_a_tail_shorter_than_a_row_is_dropped() -> None:
    assert concatenate([ids(10, 11, 12), ids(20)], 4, bos=BOS, eos=EOS).tolist() == [
        [1, 10, 11, 12],
        [2, 1, 20, 2],
    ]
    assert concatenate([ids(10, 11, 12, 13)], 5, bos=BOS, eos=EOS).tolist() == [[1, 10, 11, 12, 13]]


def test_too_little_for_a_row_and_nothing_at_all_are_no_rows() -> None:
    for documents in ([], [ids(10)], [ids()]):
        rows = concatenate(documents, 4, bos=BOS, eos=EOS)
        assert rows.shape == (0, 4)
        assert rows.dtype == np.int32


def test_a_document_without_tokens_keeps_its_marks() -> None:
    assert concatenate([ids(), ids()], 4, bos=BOS, eos=EOS).tolist() == [[1, 2, 1, 2]]


@given(st.lists(st.lists(st.integers(3, 2**31 - 1), max_size=20), max_size=12), st.integers(1, 30))
def test_nothing_else_is_lost_and_nothing_is_added(documents: list[list[int]], length: int) -> None:
    rows = concatenate([ids(*document) for document in documents], length, bos=BOS, eos=EOS)
    flat = [token for document in documents for token in (BOS, *document, EOS)]
    assert rows.shape == (len(flat) // length, length)
    assert rows.reshape(-1).tolist() == flat[: len(flat) // length * length]
