"""The dealer: one order of sequences, whatever the number of workers, from any cursor on."""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from raypretrain.corpus.documents import BadRecord
from raypretrain.errors import InputError
from raypretrain.tokens import dealer as dealer_module
from raypretrain.tokens.batching import BatchSizes
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.dealer import Dealer, DealtSteps, StepRows, Supply, Turn, steps_of_a_deal
from raypretrain.tokens.dealing import Part
from raypretrain.tokens.objectives import Causal
from raypretrain.tokens.packing import Sequences
from raypretrain.tokens.stream import from_table, to_table

# Sequences of a window's parts, again and again.
SIZES = [[5], [0], [1], [31, 0, 2], [12], [], [0, 0], [7], [9, 15], [3]]
LENGTH = 8
GLOBAL_BATCH = 12
WORKERS = [1, 2, 3, 4, 6, 12]
STEPS = 20
BOS = 1

Parts = Callable[..., Iterator[Part]]


def part(w: int, p: int) -> Part:
    """Part ``p`` of window ``w``: every sequence says which it is."""
    rows = SIZES[w % len(SIZES)][p]
    index = np.arange(rows, dtype=np.int32)
    same = [np.full_like(index, w), index, index * 7 + w, index + 100]
    tokens = np.stack([*same, np.full_like(index, p), index, index, index], axis=1)
    begins = np.packbits(tokens % 2 == 0, axis=1)
    filled = (LENGTH - index % 3).astype(np.int32)
    bad = [BadRecord("is no text", f"a.jsonl:{w}", p, w)] if w % 3 == 0 else []
    return Part(w, p, Sequences(tokens, begins, filled, np.stack([index, filled], axis=1)), bad)


def endless(windows: Any, cursor: Cursor, **limits: Any) -> Iterator[Part]:
    w, first = cursor.window, cursor.part
    while True:
        for p in range(first, len(SIZES[w % len(SIZES)])):
            yield part(w, p)
        w, first = w + 1, 0


@pytest.fixture(autouse=True)
def parts(monkeypatch: pytest.MonkeyPatch) -> Callable[[Parts], None]:
    """Windows without Ray; a test may replace them."""
    monkeypatch.setattr(dealer_module, "stream_parts", endless)
    return lambda other: monkeypatch.setattr(dealer_module, "stream_parts", other)


SUPPLY = Supply([None], BatchSizes.all_alike(GLOBAL_BATCH), Causal(BOS), 1.0, 1)  # type: ignore[list-item]


def dealer(cursor: Cursor = Cursor(), workers: int = 1) -> Dealer:
    made = Dealer()
    made.begin(Turn(1, cursor, workers, SUPPLY))
    return made


def global_order(sequences: int) -> Sequences:
    laid = [part(w, p).sequences for w in range(60) for p in range(len(SIZES[w % len(SIZES)]))]
    assert sum(map(len, laid)) > sequences
    return Sequences.concatenate(laid)[:sequences]


def assert_same(one: Sequences, other: Sequences) -> None:
    for name in ("tokens", "begins", "filled", "sources"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def of_all(step: StepRows) -> dict[str, Any]:
    """What is not of the rows of one worker."""
    return {**vars(step), "sequences": None, "places": None}


def read(of: Dealer, workers: int, steps: int = STEPS, deal: int = 3) -> list[StepRows]:
    """All steps, the workers' rows put together."""
    found = []
    for first in range(0, steps, deal):
        number = min(deal, steps - first)
        # The ranks come in another order each time.
        ranks = np.random.default_rng(first).permutation(workers).tolist()
        deals = {rank: of.take(1, first, number, rank) for rank in ranks}
        for i in range(number):
            whole = Sequences.concatenate([deals[rank][i].sequences for rank in range(workers)])
            places = np.concatenate([deals[rank][i].places for rank in range(workers)])
            rest = [of_all(deals[rank][i]) for rank in range(workers)]
            assert all(other == rest[0] for other in rest)
            found.append(StepRows(**{**rest[0], "sequences": whole, "places": places}))
    return found


def laid(steps: list[StepRows]) -> Sequences:
    return Sequences.concatenate([step.sequences for step in steps])


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("deal", [1, 7])
def test_the_workers_rows_together_are_the_global_order(workers: int, deal: int) -> None:
    steps = read(dealer(workers=workers), workers, deal=deal)
    assert {len(step.sequences) for step in steps} == {GLOBAL_BATCH}
    assert_same(laid(steps), global_order(STEPS * GLOBAL_BATCH))


def test_each_worker_gets_its_part_of_every_batch() -> None:
    of = dealer(workers=3)
    order = global_order(2 * GLOBAL_BATCH)
    for rank in (2, 0, 1):
        for i, step in enumerate(of.take(1, 0, 2, rank)):
            first = i * GLOBAL_BATCH + 4 * rank
            assert_same(step.sequences, order[first : first + 4])


def test_a_worker_may_be_ahead_of_the_others() -> None:
    of = dealer(workers=2)
    ahead = [step for first in (0, 2, 4) for step in of.take(1, first, 2, 1)]
    behind = [step for first in (0, 3) for step in of.take(1, first, 3, 0)]
    together = [s.sequences for pair in zip(behind, ahead, strict=True) for s in pair]
    assert_same(Sequences.concatenate(together), global_order(6 * GLOBAL_BATCH))


@pytest.mark.parametrize("step", range(STEPS))
def test_from_any_cursor_the_rest_is_identical_with_any_number_of_workers(step: int) -> None:
    whole = read(dealer(), 1, STEPS + 8)
    for workers in (1, 4):
        again = read(dealer(whole[step].cursor, workers), workers, 8)
        wanted = whole[step + 1 : step + 9]
        assert_same(laid(again), laid(wanted))
        for one, other in zip(again, wanted, strict=True):
            assert of_all(one) == of_all(other)
            np.testing.assert_array_equal(one.places, other.places)


def test_the_cursors_met_all_cases() -> None:
    """What the test above relies on: batches end inside parts, at their end, in later parts, several in one part."""
    cursors = [step.cursor for step in read(dealer(), 1)]
    at_the_end = [c.index == len(part(c.window, c.part).sequences) for c in cursors]
    assert any(at_the_end)
    assert not all(at_the_end)
    assert any(c.part for c in cursors)
    assert len({c.window for c in cursors}) < len(cursors)


def test_every_bad_record_is_told_once_and_in_the_same_step_for_any_number_of_workers() -> None:
    steps = read(dealer(), 1)
    last = steps[-1].cursor
    wanted = [
        record
        for w in range(last.window + 1)
        for p in range(len(SIZES[w % len(SIZES)]))
        if (w, p) <= (last.window, last.part)
        for record in part(w, p).bad
    ]
    assert [record for step in steps for record in step.bad] == wanted
    assert len(wanted) > 10
    assert [step.bad for step in read(dealer(workers=4), 4)] == [step.bad for step in steps]


def test_a_step_says_what_its_whole_batch_holds() -> None:
    for step in read(dealer(workers=2), 2):
        for (w, p, index), row in zip(step.places.tolist(), step.sequences.tokens, strict=True):
            np.testing.assert_array_equal(part(w, p).sequences.tokens[index], row)
        assert step.sources == step.sequences.sources.sum(axis=0).tolist()
        assert step.predicted == step.sequences.predicted(BOS).sum()


def test_what_all_workers_have_taken_is_let_go(parts: Callable[[Parts], None]) -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def watched(windows: Any, cursor: Cursor, **limits: Any) -> Iterator[Part]:
        for made in endless(windows, cursor):
            alive.append(weakref.ref(made.sequences.tokens))
            yield made
            del made

    parts(watched)
    of = dealer(workers=2)
    for first in range(0, 40, 4):
        of.take(1, first, 4, 0)
    assert len(of._steps) == 40  # worker 1 has not come yet
    for first in range(0, 40, 4):
        of.take(1, first, 4, 1)
    assert not of._steps
    assert not of._taken
    # Of the parts themselves at most the one that is being dealt is held (the generator has the last, too).
    assert len(alive) > 10
    assert sum(ref() is not None for ref in alive) <= 2


def failing(error: Exception, after: int) -> Parts:
    def generate(windows: Any, cursor: Cursor, **limits: Any) -> Iterator[Part]:
        for made in endless(windows, cursor):
            if made.window >= after:
                raise error
            yield made

    return generate


def test_an_error_reaches_every_worker_and_stays(parts: Callable[[Parts], None]) -> None:
    parts(failing(InputError("is cut off", where="a.jsonl.gz"), after=8))
    of = dealer(workers=3)
    good = 4  # 58 sequences come before window 8
    for rank in range(3):
        assert len(of.take(1, 0, good, rank)) == good
    for rank in (1, 0, 2, 1):
        with pytest.raises(InputError, match=r"a\.jsonl\.gz: is cut off"):
            of.take(1, good, 1, rank)


def test_a_corpus_that_is_used_up_says_so_to_every_worker(parts: Callable[[Parts], None]) -> None:
    parts(lambda windows, cursor, **limits: iter([part(3, 0)]))
    of = dealer(workers=2)
    for rank in (0, 1):
        assert len(of.take(1, 0, 2, rank)) == 2
    for rank in (0, 1, 1):
        with pytest.raises(InputError, match="the corpus is used up"):
            of.take(1, 2, 1, rank)


def test_the_users_error_is_taken_out_of_rays_wrapper(parts: Callable[[Parts], None]) -> None:
    from ray.exceptions import RayTaskError

    inner = InputError("is cut off", where="a.jsonl.gz")
    parts(failing(RayTaskError("read", "a\ntraceback", inner).as_instanceof_cause(), after=0))
    of = dealer(workers=2)
    for rank in range(2):
        with pytest.raises(InputError) as caught:
            of.take(1, 0, 1, rank)
        assert str(caught.value) == "a.jsonl.gz: is cut off"


def test_a_bug_is_raised_as_it_is(parts: Callable[[Parts], None]) -> None:
    parts(failing(ZeroDivisionError("a bug"), after=0))
    of = dealer(workers=2)
    for rank in range(2):
        with pytest.raises(ZeroDivisionError):
            of.take(1, 0, 1, rank)


def test_a_deal_carries_at_most_a_mebibyte_for_a_worker_and_at_least_a_step() -> None:
    assert steps_of_a_deal(12, 64) == 16
    assert steps_of_a_deal(64, 512) * 64 * 512 * 4 <= 2**20
    assert steps_of_a_deal(64, 512) == 8
    assert steps_of_a_deal(10_000, 8192) == 1


@pytest.mark.parametrize("workers", [1, 2, 8, 64, 512, 1024, 4096, 16384])
def test_many_workers_take_several_steps_at_once_and_the_dealer_holds_little(workers: int) -> None:
    steps = steps_of_a_deal(workers, 8192, workers)  # a sequence for each
    a_step = workers * 8192 * 4
    assert steps * a_step <= max(2**29, a_step)
    # More of them would be less than the dealer may hold, or more than a worker wants.
    assert steps == 16 or (steps + 1) * a_step > 2**29
    assert steps >= 8 or workers > 2048


def test_deals_grow_from_one_step() -> None:
    asked: list[tuple[int, ...]] = []

    class Method:
        def __init__(self, name: str) -> None:
            self._name = name

        def remote(self, *values: Any) -> Any:
            if self._name == "take":
                asked.append(values)
            return None if self._name == "take" else "begun"

    class Remote:
        begin, take = Method("begin"), Method("take")

    steps = DealtSteps(Remote(), Turn(7, Cursor(), 4, SUPPLY), 3, steps=20, deal_steps=4)
    while steps._ask() is None and steps._left:
        pass
    pairs = [(0, 1), (1, 2), (3, 4), (7, 4), (11, 4), (15, 4), (19, 1)]
    assert asked == [(7, first, number, 3, "begun") for first, number in pairs]


def test_another_group_takes_its_turn_and_late_calls_of_the_one_before_change_nothing() -> None:
    of = dealer(workers=2)
    of.take(1, 0, 3, 0)  # the other worker is lost
    for _ in range(3):  # as many as there are workers
        of.begin(Turn(2, Cursor(), 3, SUPPLY))
    first = of.take(2, 0, 1, 1)
    of.begin(Turn(1, Cursor(), 2, SUPPLY))
    with pytest.raises(RuntimeError, match="group 1 of workers"):
        of.take(1, 3, 1, 0)
    of.begin(Turn(2, Cursor(), 3, SUPPLY))
    order = global_order(2 * GLOBAL_BATCH)
    assert_same(first[0].sequences, order[4:8])
    assert_same(of.take(2, 0, 2, 2)[1].sequences, order[GLOBAL_BATCH + 8 : GLOBAL_BATCH + 12])


def test_the_stream_of_the_group_before_is_closed(parts: Callable[[Parts], None]) -> None:
    closed: list[Cursor] = []

    def noting(windows: Any, cursor: Cursor, **limits: Any) -> Iterator[Part]:
        try:
            yield from endless(windows, cursor)
        finally:
            closed.append(cursor)

    parts(noting)
    of = dealer()
    of.take(1, 0, 1, 0)
    of.begin(Turn(2, Cursor(1), 1, SUPPLY))
    of.take(2, 0, 1, 0)
    of.begin(Turn(3, Cursor(2), 1, SUPPLY))
    assert closed == [Cursor(), Cursor(1)]


def test_a_part_goes_through_arrow_and_back() -> None:
    for made in (part(3, 0), part(3, 1), part(9, 0)):
        table = to_table(made)
        assert table.num_rows == 1
        for same in (table, pickle.loads(pickle.dumps(table))):
            (again,) = from_table(same)
            assert_same(again.sequences, made.sequences)
            assert (again.window, again.part, again.bad) == (made.window, made.part, made.bad)
