"""The plan: every fragment once an epoch, the weights kept, any window found without the ones before."""

from __future__ import annotations

import time
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypretrain.errors import InputError
from raypretrain.tokens.plan import Plan


def plan(
    sizes: list[list[int]], weights: list[float | None] | None = None, window: int = 1000, seed: int = 0
) -> Plan:
    """A plan of sources with fragments of these sizes, numbered through."""
    flat = np.array([size for source in sizes for size in source], dtype=np.int64)
    sources = np.repeat(np.arange(len(sizes), dtype=np.int32), [len(source) for source in sizes])
    return Plan(flat, sources, weights or [None] * len(sizes), window, seed)


def numbers(sizes: list[list[int]]) -> list[range]:
    """The numbers of each source's fragments."""
    ends = np.cumsum([0] + [len(source) for source in sizes]).tolist()
    return [range(start, stop) for start, stop in pairwise(ends)]


def sequences(of: Plan, sizes: list[list[int]], windows: int) -> list[list[int]]:
    """Each source's fragments in the order of the windows ``0 .. windows - 1``."""
    laid = [f for w in range(windows) for f in of.window(w)]
    return [[f for f in laid if f in mine] for mine in numbers(sizes)]


corpora = st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=8), min_size=1, max_size=3)


@settings(max_examples=150)
@given(
    sizes=corpora,
    weights=st.lists(st.one_of(st.none(), st.floats(0.2, 5)), min_size=3, max_size=3),
    window=st.integers(1, 200),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_every_epoch_of_every_source_has_every_fragment_exactly_once(
    sizes: list[list[int]], weights: list[float | None], window: int, seed: int, data: st.DataObject
) -> None:
    made = plan(sizes, weights[: len(sizes)], window, seed)
    windows = 2 * made.windows_of_an_epoch
    found = sequences(made, sizes, windows)
    for mine, order in zip(numbers(sizes), found, strict=True):
        epochs = [order[i : i + len(mine)] for i in range(0, len(order), len(mine))]
        assert len(order) >= 2 * len(mine)  # twice as many windows as an epoch of any source has
        assert all(sorted(epoch) == list(mine) for epoch in epochs[:-1])
        assert len(set(epochs[-1])) == len(epochs[-1])
    # Windows asked for alone and out of order, of a plan made anew, are those found one after the other.
    again = plan(sizes, weights[: len(sizes)], window, seed)
    for w in data.draw(st.lists(st.integers(0, windows - 1), min_size=1, max_size=5)):
        assert again.window(w) == made.window(w)


def test_a_window_holds_as_much_as_was_asked_for() -> None:
    made = plan([[100] * 50], window=1000)
    assert {len(made.window(w)) for w in range(100)} == {10}
    assert made.windows_of_an_epoch == 5


def test_the_weights_are_kept_within_one_percent() -> None:
    rng = np.random.default_rng(0)
    sizes = [rng.integers(500, 1500, n).tolist() for n in (400, 100, 3000)]
    flat = [size for source in sizes for size in source]
    made = plan(sizes, weights=[1, 2, 5], window=50_000)
    seen = np.zeros(3)
    for w in range(1000):
        for f in made.window(w):
            seen[next(s for s, mine in enumerate(numbers(sizes)) if f in mine)] += flat[f]
    np.testing.assert_allclose(seen / seen.sum(), [1 / 8, 2 / 8, 5 / 8], rtol=0.01)
    assert seen.sum() == pytest.approx(1000 * 50_000, rel=0.01)


def test_without_weights_sources_share_by_their_size_and_end_their_epochs_together() -> None:
    sizes = [[100] * 10, [100] * 30]
    made = plan(sizes, window=400)
    for w in range(10):
        found = made.window(w)
        assert (sum(f < 10 for f in found), sum(f >= 10 for f in found)) == (1, 3)
    assert made.windows_of_an_epoch == 10


def test_a_source_without_a_weight_counts_by_its_share_of_the_bytes() -> None:
    made = plan([[100] * 100, [100] * 300], weights=[0.25, None], window=4000)
    found = [f for w in range(100) for f in made.window(w)]
    assert sum(f < 100 for f in found) / len(found) == pytest.approx(0.25, rel=0.01)


def test_each_epoch_each_source_and_each_seed_has_an_order_of_its_own() -> None:
    sizes = [[10] * 20, [10] * 20]
    one, other = sequences(plan(sizes, window=40, seed=7), sizes, 30)
    epochs = [one[:20], one[20:40], one[40:60], [f - 20 for f in other[:20]]]
    epochs.append(sequences(plan(sizes, window=40, seed=8), sizes, 10)[0][:20])
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
    assert all(epoch != sorted(epoch) for epoch in epochs)


def test_the_plan_is_a_function_of_its_seed() -> None:
    sizes = [[10, 20, 30] * 10, [5] * 7]
    made = [[plan(sizes, [1, 3], 50, seed=11).window(w) for w in range(40)] for _ in range(2)]
    assert made[0] == made[1]


def test_a_window_larger_than_the_corpus_is_one_epoch() -> None:
    made = plan([[10] * 20], window=10**9)
    assert made.windows_of_an_epoch == 1
    assert [sorted(made.window(w)) for w in range(3)] == [list(range(20))] * 3


def test_a_window_holds_no_more_than_an_epoch_of_a_small_source_with_a_large_weight() -> None:
    made = plan([[100_000] * 4, [100_000] * 1000], weights=[1, 1], window=10**9)
    for w in range(20):
        small = [f for f in made.window(w) if f < 4]
        assert sorted(small) == [0, 1, 2, 3]


def test_a_window_far_out_is_found_at_once() -> None:
    made = plan([[1000] * 5000, [1000] * 100], window=100_000)
    begun = time.perf_counter()
    assert made.window(10**7)
    assert time.perf_counter() - begun < 0.2


def test_fragments_without_bytes_have_their_place() -> None:
    sizes = [[0, 0, 0]]
    assert sorted(sequences(plan(sizes, window=1), sizes, 3)[0]) == [0, 1, 2]


def test_a_source_without_text_is_refused() -> None:
    with pytest.raises(InputError, match=r"corpus\.sources: source 1 of the corpus has no text"):
        plan([[10], [], [10]])


def test_a_small_source_with_a_large_weight_does_not_make_tiny_windows() -> None:
    made = plan([[10] * 4, [1000] * 10_000], weights=[1, 1], window=10**6)
    assert sum(f >= 4 for f in made.window(3)) > 100


def test_weights_are_shares_of_tokens_where_the_sources_differ_in_density() -> None:
    flat = np.array([1000] * 1000)
    made = Plan(flat, np.repeat([0, 1], 500), [1, 3], 50_000, 0, densities=[0.5, 0.25])
    tokens = np.zeros(2)
    for w in range(1000):
        for f in made.window(w):
            tokens[f // 500] += 1000 * (0.5 if f < 500 else 0.25)
    np.testing.assert_allclose(tokens / tokens.sum(), [1 / 4, 3 / 4], rtol=0.01)


@settings(max_examples=100)
@given(
    sizes=corpora,
    window=st.integers(1, 200),
    seed=st.integers(0, 99),
    epochs=st.lists(st.one_of(st.none(), st.sampled_from([0.5, 1.0, 2.0, 3.0])), min_size=3, max_size=3),
)
def test_a_source_comes_as_often_as_its_epochs_allow_and_then_the_others_fill_the_windows(
    sizes: list[list[int]], window: int, seed: int, epochs: list[float | None]
) -> None:
    allowed = epochs[: len(sizes)]
    flat = np.array([size for source in sizes for size in source], dtype=np.int64)
    owner = np.repeat(np.arange(len(sizes)), [len(source) for source in sizes])
    made = Plan(flat, owner, [None] * len(sizes), window, seed, epochs=allowed)
    assert (made.end is None) == (None in allowed)
    last = made.end if made.end is not None else 6 * made.windows_of_an_epoch
    found = sequences(made, sizes, last)
    for mine, order, most in zip(numbers(sizes), found, allowed, strict=True):
        if most is not None and most >= 1 and made.end is not None:
            assert sorted(order) == sorted(list(mine) * int(most))
        if most == 0.5:
            assert len(order) == len(set(order))
    if made.end is not None:
        assert made.window(made.end) == []
        assert list(made.windows_from(made.end)) == []


@settings(max_examples=100)
@given(
    sizes=corpora,
    window=st.integers(1, 200),
    seed=st.integers(0, 99),
    epochs=st.lists(st.one_of(st.none(), st.sampled_from([1.0, 2.0])), min_size=3, max_size=3),
)
def test_the_windows_of_a_fragment_are_those_that_hold_it(
    sizes: list[list[int]], window: int, seed: int, epochs: list[float | None]
) -> None:
    flat = np.array([size for source in sizes for size in source], dtype=np.int64)
    owner = np.repeat(np.arange(len(sizes)), [len(source) for source in sizes])
    made = Plan(flat, owner, [None] * len(sizes), window, seed, epochs=epochs[: len(sizes)])
    last = made.end if made.end is not None else 4 * made.windows_of_an_epoch
    holding = [(f, w) for w in range(last) for f in made.window(w)]
    for fragment in range(len(flat)):
        wanted = [w for f, w in holding if f == fragment]
        assert list(islice(made.windows_of(fragment), len(wanted))) == wanted


def test_windows_without_a_fragment_are_passed_over() -> None:
    made = plan([[10_000_000, 10]], window=1000)
    found = list(islice(made.windows_from(0), 4))
    assert [f for w in found for f in made.window(w)][:2] in ([0, 1], [1, 0])
    assert found[-1] > 10_000
