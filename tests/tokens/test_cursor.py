"""The fingerprint of a batch: what was read and in which order, however many workers read it."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from raypretrain.tokens.cursor import Cursor, fingerprint_rows, format_fingerprint


@pytest.fixture
def batch() -> np.ndarray:
    """A global batch of 12 sequences of 33 tokens."""
    return np.random.default_rng(0).integers(0, 2**31, (12, 33)).astype(np.int32)


def by_hand(rows: np.ndarray) -> int:
    total = 0
    for place, row in enumerate(rows.tolist()):
        data = struct.pack(f"<{len(row)}i", *row)
        digest = hashlib.blake2b(data, digest_size=8, salt=struct.pack("<Q", place)).digest()
        total += struct.unpack("<Q", digest)[0]
    return total % 2**64


def test_it_is_the_sum_of_the_sequences_hashes_with_their_places(batch: np.ndarray) -> None:
    assert fingerprint_rows(batch, 0) == by_hand(batch)


def test_it_stays_what_it_was_in_older_logs() -> None:
    rows = np.arange(24, dtype=np.int32).reshape(3, 8)
    assert format_fingerprint(fingerprint_rows(rows, 0)) == "e690b61b94828d82"


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 6, 12])
def test_the_workers_shares_add_up_to_it(batch: np.ndarray, workers: int) -> None:
    share = len(batch) // workers
    shares = [fingerprint_rows(batch[r * share : (r + 1) * share], first=r * share) for r in range(workers)]
    assert sum(shares) % 2**64 == fingerprint_rows(batch, 0)
    assert sum(reversed(shares)) % 2**64 == fingerprint_rows(batch, 0)


@given(arrays(np.int32, (4, 5), elements=st.integers(0, 50)), st.integers(0, 3), st.integers(0, 3))
def test_the_order_matters(rows: np.ndarray, one: int, other: int) -> None:
    swapped = rows.copy()
    swapped[[one, other]] = swapped[[other, one]]
    same = bool((swapped == rows).all())
    assert (fingerprint_rows(swapped, 0) == fingerprint_rows(rows, 0)) == same


def test_a_single_token_and_the_place_matter(batch: np.ndarray) -> None:
    changed = batch.copy()
    changed[7, 20] ^= 1
    assert fingerprint_rows(changed, 0) != fingerprint_rows(batch, 0)
    assert fingerprint_rows(batch, 12) != fingerprint_rows(batch, 0)


def test_two_equal_sequences_do_not_cancel_out(batch: np.ndarray) -> None:
    doubled = batch.copy()
    doubled[1] = doubled[0]
    others = batch.copy()
    others[0] = others[1]
    assert len({fingerprint_rows(rows, 0) for rows in (batch, doubled, others)}) == 3


def test_neither_the_type_nor_the_byte_order_nor_the_layout_matters(batch: np.ndarray) -> None:
    wanted = fingerprint_rows(batch, 0)
    wide = np.zeros((12, 66), np.int32)
    wide[:, ::2] = batch
    for same in (batch.astype(">i4"), batch.astype(np.int64), np.asfortranarray(batch), wide[:, ::2]):
        assert fingerprint_rows(same, 0) == wanted


def test_it_is_written_as_16_digits() -> None:
    assert format_fingerprint(0) == "0000000000000000"
    assert format_fingerprint(2**64 + 255) == "00000000000000ff"
    assert fingerprint_rows(np.empty((0, 8), np.int32), 0) == 0


def test_a_run_begins_at_the_first_sequence_of_the_first_window() -> None:
    assert Cursor() == Cursor(window=0, index=0)
