"""The dealer: one order of sequences, whatever the number of workers, from any cursor on."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from raypretrain.errors import InputError
from raypretrain.tokens import stream
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.stream import Dealer, steps_of_a_deal

SIZES = [5, 0, 1, 31, 12, 0, 0, 7, 24, 3]  # sequences of a window, again and again
LENGTH = 4
GLOBAL_BATCH = 12
WORKERS = [1, 2, 3, 4, 6, 12]
STEPS = 20

Blocks = Callable[..., Iterator[tuple[int, np.ndarray]]]


def window(w: int) -> np.ndarray:
    """Window ``w``: every sequence says which it is."""
    index = np.arange(SIZES[w % len(SIZES)], dtype=np.int32)
    return np.stack([np.full_like(index, w), index, index * 7 + w, -index], axis=1)


def endless(windows: Any, first: int, **limits: Any) -> Iterator[tuple[int, np.ndarray]]:
    w = first
    while True:
        if len(rows := window(w)):
            yield w, rows
        w += 1


@pytest.fixture(autouse=True)
def blocks(monkeypatch: pytest.MonkeyPatch) -> Callable[[Blocks], None]:
    """Windows without Ray; a test may replace them."""
    monkeypatch.setattr(stream, "window_blocks", endless)
    return lambda other: monkeypatch.setattr(stream, "window_blocks", other)


def dealer(cursor: Cursor = Cursor(), workers: int = 1) -> Dealer:
    return Dealer([None], cursor, GLOBAL_BATCH, workers, {})  # type: ignore[list-item]


def global_order(sequences: int) -> np.ndarray:
    laid = np.concatenate([window(w) for w in range(60)])
    assert len(laid) > sequences
    return laid[:sequences]


def read(of: Dealer, workers: int, steps: int = STEPS, deal: int = 3) -> tuple[np.ndarray, list[Cursor]]:
    """All steps, the workers' rows put together: int32 [steps, global batch, length]; and the cursors."""
    batches, cursors = [], []
    for first in range(0, steps, deal):
        number = min(deal, steps - first)
        # The ranks come in another order each time.
        ranks = np.random.default_rng(first).permutation(workers).tolist()
        deals = {rank: of.take(first, number, rank) for rank in ranks}
        batches.append(np.concatenate([deals[rank]["tokens"] for rank in range(workers)], axis=1))
        assert all(deals[rank]["cursors"] == deals[0]["cursors"] for rank in ranks)
        cursors += deals[0]["cursors"]
    return np.concatenate(batches), cursors


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("deal", [1, 7])
def test_the_workers_rows_together_are_the_global_order(workers: int, deal: int) -> None:
    batches, _ = read(dealer(workers=workers), workers, deal=deal)
    assert batches.dtype == np.int32
    assert batches.shape == (STEPS, GLOBAL_BATCH, LENGTH)
    np.testing.assert_array_equal(batches.reshape(-1, LENGTH), global_order(STEPS * GLOBAL_BATCH))


def test_each_worker_gets_its_part_of_every_batch() -> None:
    of = dealer(workers=3)
    order = global_order(2 * GLOBAL_BATCH).reshape(2, GLOBAL_BATCH, LENGTH)
    for rank in (2, 0, 1):
        np.testing.assert_array_equal(of.take(0, 2, rank)["tokens"], order[:, 4 * rank : 4 * rank + 4])


def test_a_worker_may_be_ahead_of_the_others() -> None:
    of = dealer(workers=2)
    ahead = [of.take(first, 2, 1)["tokens"] for first in (0, 2, 4)]
    behind = [of.take(first, 3, 0)["tokens"] for first in (0, 3)]
    together = np.concatenate([np.concatenate(behind), np.concatenate(ahead)], axis=1)
    np.testing.assert_array_equal(together.reshape(-1, LENGTH), global_order(6 * GLOBAL_BATCH))


@pytest.mark.parametrize("step", range(STEPS))
def test_from_any_cursor_the_rest_is_identical_with_any_number_of_workers(step: int) -> None:
    batches, cursors = read(dealer(), 1)
    for workers in (1, 4):
        again, rest = read(dealer(cursors[step], workers), workers, STEPS)
        np.testing.assert_array_equal(again[: STEPS - step - 1], batches[step + 1 :])
        assert rest[: STEPS - step - 1] == cursors[step + 1 :]


def test_the_cursors_met_all_cases() -> None:
    """What the test above relies on: batches end inside windows, at their end, and several in one window."""
    _, cursors = read(dealer(), 1)
    at_the_end = [c.index == len(window(c.window)) for c in cursors]
    assert any(at_the_end)
    assert not all(at_the_end)
    assert len({c.window for c in cursors}) < len(cursors)


def test_what_all_workers_have_taken_is_let_go(blocks: Callable[[Blocks], None]) -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def watched(windows: Any, first: int, **limits: Any) -> Iterator[tuple[int, np.ndarray]]:
        for w, rows in endless(windows, first):
            alive.append(weakref.ref(rows))
            yield w, rows
            del rows

    blocks(watched)
    of = dealer(workers=2)
    for first in range(0, 40, 4):
        of.take(first, 4, 0)
    assert len(of._steps) == 40  # worker 1 has not come yet
    for first in range(0, 40, 4):
        of.take(first, 4, 1)
    assert not of._steps
    assert not of._taken
    # Of the windows themselves at most the one that is being dealt is held (the generator has the last, too).
    assert len(alive) > 10
    assert sum(ref() is not None for ref in alive) <= 2


def failing(error: Exception, after: int) -> Blocks:
    def generate(windows: Any, first: int, **limits: Any) -> Iterator[tuple[int, np.ndarray]]:
        for w, rows in endless(windows, first):
            if w >= after:
                raise error
            yield w, rows

    return generate


def test_an_error_reaches_every_worker_and_stays(blocks: Callable[[Blocks], None]) -> None:
    blocks(failing(InputError("is cut off", where="a.jsonl.gz"), after=8))
    of = dealer(workers=3)
    good = 4  # 56 sequences come before window 8
    for rank in range(3):
        assert of.take(0, good, rank)["tokens"].shape == (good, 4, LENGTH)
    for rank in (1, 0, 2, 1):
        with pytest.raises(InputError, match=r"a\.jsonl\.gz: is cut off"):
            of.take(good, 1, rank)


def test_the_users_error_is_taken_out_of_rays_wrapper(blocks: Callable[[Blocks], None]) -> None:
    from ray.exceptions import RayTaskError

    inner = InputError("is cut off", where="a.jsonl.gz")
    blocks(failing(RayTaskError("read", "a\ntraceback", inner).as_instanceof_cause(), after=0))
    of = dealer(workers=2)
    for rank in range(2):
        with pytest.raises(InputError) as caught:
            of.take(0, 1, rank)
        assert str(caught.value) == "a.jsonl.gz: is cut off"


def test_a_bug_is_raised_as_it_is(blocks: Callable[[Blocks], None]) -> None:
    blocks(failing(ZeroDivisionError("a bug"), after=0))
    of = dealer(workers=2)
    for rank in range(2):
        with pytest.raises(ZeroDivisionError):
            of.take(0, 1, rank)


def test_a_deal_carries_at_most_a_mebibyte_and_at_least_a_step() -> None:
    assert steps_of_a_deal(12, 64) == 16
    assert steps_of_a_deal(64, 512) * 64 * 512 * 4 <= 2**20
    assert steps_of_a_deal(64, 512) == 8
    assert steps_of_a_deal(10_000, 8192) == 1
