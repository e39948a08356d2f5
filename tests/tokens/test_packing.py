"""Packing: every token of every document in its place, but for the tail."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_text import reviews

from raypretrain.tokens.packing import COLUMN, COUNT, DOCUMENT, FIRST, ROW, Layout, Packing, Sequences, pack

BOS, EOS, PAD = 1, 2, 0


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def packed(
    documents: list[np.ndarray], length: int, how: Packing = "concatenate", **more: object
) -> tuple[Layout, Sequences]:
    return pack(documents, length, how, bos=BOS, eos=EOS, pad=PAD, **more)  # type: ignore[arg-type]


def concatenate(documents: list[np.ndarray], length: int) -> np.ndarray:
    return packed(documents, length)[1].tokens


def begins(sequences: Sequences) -> list[list[int]]:
    length = sequences.tokens.shape[1]
    return [np.flatnonzero(row).tolist() for row in np.unpackbits(sequences.begins, axis=1, count=length)]


def test_documents_are_laid_end_to_end_between_their_marks() -> None:
    _, found = packed([ids(10, 11, 12), ids(20), ids(30, 31)], 4)
    assert found.tokens.dtype == np.int32
    assert found.tokens.tolist() == [[1, 10, 11, 12], [2, 1, 20, 2], [1, 30, 31, 2]]
    assert begins(found) == [[0], [0, 1], [0]]
    assert found.filled.tolist() == [4, 4, 4]


def test_a_tail_shorter_than_a_row_is_dropped() -> None:
    assert concatenate([ids(10, 11, 12), ids(20)], 4).tolist() == [[1, 10, 11, 12], [2, 1, 20, 2]]
    assert concatenate([ids(10, 11, 12, 13)], 5).tolist() == [[1, 10, 11, 12, 13]]


@pytest.mark.parametrize("how", ["concatenate", "best-fit"])
def test_nothing_at_all_is_no_rows(how: Packing) -> None:
    layout, found = packed([], 4, how)
    assert layout.rows == len(found) == 0
    assert found.tokens.shape == (0, 4)
    assert found.tokens.dtype == np.int32


def test_too_little_for_a_row_is_no_row() -> None:
    for documents in ([ids(10)], [ids()]):
        assert concatenate(documents, 4).shape == (0, 4)


def test_a_document_without_tokens_keeps_its_marks() -> None:
    assert concatenate([ids(), ids()], 4).tolist() == [[1, 2, 1, 2]]


def test_best_fit_keeps_documents_whole_where_they_fit_and_pads_the_rest() -> None:
    documents = [ids(10, 11, 12, 13), ids(20), ids(*range(30, 38))]
    _, found = packed(documents, 6, "best-fit")
    assert found.tokens.tolist() == [
        [1, 10, 11, 12, 13, 2],
        [1, 30, 31, 32, 33, 34],  # the first row of a document of ten
        [35, 36, 37, 2, 0, 0],  # and what is left of it
        [1, 20, 2, 0, 0, 0],
    ]
    assert begins(found) == [[0], [0], [0], [0]]
    assert found.filled.tolist() == [6, 6, 4, 3]


def test_where_whole_documents_leave_much_room_a_few_are_cut_to_fill_it() -> None:
    documents = [np.full(n - 2, 100 + i, np.int32) for i, n in enumerate([7, 7, 7, 7])]
    layout, found = packed(documents, 10, "best-fit")
    assert sorted(found.filled.tolist()) == [8, 10, 10]  # instead of 7, 7, 7, 7
    assert sorted(np.bincount(layout.pieces[:, DOCUMENT]).tolist()) == [1, 1, 1, 3]


def test_what_is_put_into_a_row_is_what_fits_best() -> None:
    lengths = [7, 6, 4, 3]  # 3 fits beside 7 exactly, and beside 6 with a token to spare; 4 beside 6
    _, found = packed([ids(*[9] * (n - 2)) for n in lengths], 10, "best-fit")
    assert found.filled.tolist() == [10, 10]
    assert begins(found) == [[0, 7], [0, 6]]


@given(
    st.lists(st.integers(0, 40), max_size=20),
    st.integers(2, 24),
    st.sampled_from(["concatenate", "best-fit"]),
    st.booleans(),
)
def test_every_token_is_where_the_layout_says(
    lengths: list[int], length: int, how: Packing, shuffled: bool
) -> None:
    rng = np.random.default_rng(3) if shuffled else None
    documents = [np.arange(n, dtype=np.int32) + 100 * (d + 1) for d, n in enumerate(lengths)]
    sources = np.arange(len(documents)) % 3
    layout, found = packed(documents, length, how, sources=sources, number_of_sources=3, rng=rng)
    whole = [np.concatenate([ids(BOS), document, ids(EOS)]) for document in documents]
    seen = [np.zeros(len(document), int) for document in whole]
    covered = np.zeros(found.tokens.shape, bool)
    by_source = np.zeros((layout.rows, 3), int)
    for piece in layout.pieces:
        row, column, d, first, count = (piece[i] for i in (ROW, COLUMN, DOCUMENT, FIRST, COUNT))
        assert count > 0
        assert found.tokens[row, column : column + count].tolist() == whole[d][first : first + count].tolist()
        seen[d][first : first + count] += 1
        covered[row, column : column + count] = True
        by_source[row, d % 3] += count
        assert column in begins(found)[row]
    assert (found.tokens[~covered] == PAD).all()
    assert found.filled.tolist() == covered.sum(axis=1).tolist()
    assert all(row[:filled].all() for row, filled in zip(covered, found.filled, strict=True))
    assert found.sources.tolist() == by_source.tolist()
    flat = np.concatenate(seen) if seen else np.empty(0)
    if how == "best-fit":
        assert (flat == 1).all()
        assert found.tokens.size - found.filled.sum() < length + 0.001 * found.tokens.size
    else:
        assert flat.sum() == len(flat) // length * length
        assert (flat[: int(flat.sum())] == 1).all()


def test_real_text_packed_best_is_padded_by_less_than_two_in_a_thousand() -> None:
    rng = np.random.default_rng(0)
    # About as many tokens as bytes/4, a window's worth.
    documents = [np.full(max(1, len(text) // 4), 9, np.int32) for text in reviews(4000)]
    _, found = packed(documents, 512, "best-fit", rng=rng)
    padding = 1 - found.filled.sum() / found.tokens.size
    assert padding < 0.002, padding


def test_what_is_predicted() -> None:
    _, found = packed([ids(*range(30, 38)), ids(20)], 6, "best-fit")
    assert found.tokens.tolist() == [[1, 30, 31, 32, 33, 34], [35, 36, 37, 2, 0, 0], [1, 20, 2, 0, 0, 0]]
    assert found.predicted(BOS).astype(int).tolist() == [
        [0, 1, 1, 1, 1, 1],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 0, 0, 0],
    ]
    # In the middle of a row: the begin of a document is predicted, the rest of another row's document is not.
    _, together = packed([ids(*range(30, 39)), ids(20)], 8, "best-fit")
    assert together.tokens.tolist() == [[1, 30, 31, 32, 33, 34, 35, 36], [37, 38, 2, 1, 20, 2, 0, 0]]
    assert together.predicted(BOS)[1].astype(int).tolist() == [0, 1, 1, 1, 1, 1, 0, 0]
    _, other = packed([ids(*range(30, 38)), ids(20, 21)], 8, "best-fit")
    assert other.tokens.tolist() == [[1, 30, 31, 32, 33, 34, 35, 36], [1, 20, 21, 2, 37, 2, 0, 0]]
    assert other.predicted(BOS)[1].astype(int).tolist() == [0, 1, 1, 1, 0, 1, 0, 0]


def test_slices_and_joins_keep_the_rows_together() -> None:
    _, found = packed([ids(*range(10, 30)), ids(40), ids(50, 51)], 5, "best-fit")
    again = Sequences.concatenate([found[:2], found[2:3], found[3:]])
    for name in ("tokens", "begins", "filled", "sources"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))


@pytest.mark.parametrize("how", ["concatenate", "best-fit"])
def test_each_token_knows_where_the_piece_of_its_document_begins(how: Packing) -> None:
    """Padding is a piece of its own."""
    rng = np.random.default_rng(3)
    documents = [rng.integers(10, 99, size).astype(np.int32) for size in rng.integers(1, 40, 60)]
    layout, sequences = pack(documents, 24, how, bos=1, eos=2, pad=0)
    expected = np.full(sequences.tokens.shape, -1)
    for row, column, _, _, count in layout.pieces.tolist():
        expected[row, column : column + count] = column
    for row, filled in enumerate(sequences.filled.tolist()):
        expected[row, filled:] = filled
    np.testing.assert_array_equal(sequences.starts(), expected)
