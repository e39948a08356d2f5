"""The sequences of each step: doublings over the first steps."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypretrain.tokens.batching import BatchSizes

SIZES = st.builds(
    lambda first, doublings, warmup: BatchSizes(first << doublings, first, warmup if doublings else 0),
    st.integers(1, 9),
    st.integers(0, 5),
    st.integers(1, 60),
)


def test_batches_double_evenly_over_the_warm_up() -> None:
    sizes = BatchSizes(64, 8, 9)
    assert list(islice(sizes.after(0), 12)) == [8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    assert list(islice(sizes.after(5), 3)) == [16, 32, 32]
    assert list(islice(BatchSizes.all_alike(5).after(3), 3)) == [5, 5, 5]


@given(SIZES)
def test_every_size_is_a_divisor_of_the_next_one(sizes: BatchSizes) -> None:
    found = list(islice(sizes.after(0), sizes.warmup + 3))
    assert found[0] == sizes.first
    assert found[-1] == sizes.full
    assert all(after % before == 0 for before, after in pairwise(found))


@given(SIZES, st.integers(0, 100), st.integers(0, 5000))
def test_steps_and_sequences_are_two_ways_to_say_one_thing(
    sizes: BatchSizes, steps: int, sequences: int
) -> None:
    assert sizes.total(steps) == sum(islice(sizes.after(0), steps))
    assert sizes.steps_of(sizes.total(steps)) == sizes.whole_steps(sizes.total(steps)) == steps
    needed, enough = sizes.steps_of(sequences), sizes.whole_steps(sequences)
    assert sizes.total(enough) <= sequences <= sizes.total(needed)
    assert needed - enough in (0, 1)
    assert needed == 0 or sizes.total(needed - 1) < sequences


@pytest.mark.parametrize("first", [3, 12, 65, 128])
def test_a_first_batch_that_does_not_become_the_full_one_is_refused(first: int) -> None:
    from pydantic import ValidationError

    from raypretrain.training.training_config import TrainingConfig

    with pytest.raises(ValidationError, match="take one of 64, 32, 16, 8, 4, 2, 1"):
        TrainingConfig.model_validate({"global_batch": 64, "batch_warmup": {"first": first, "steps": 5}})
    with pytest.raises(ValidationError, match="give both"):
        TrainingConfig.model_validate({"batch_warmup": {"first": 8}})
