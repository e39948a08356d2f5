"""What workers agree on between two steps, and what a node that is being reclaimed asks of them."""

from __future__ import annotations

import pytest

from raypretrain.training.requests import Notice, Request, agree, save_estimate


@pytest.mark.parametrize(
    ("asked", "agreed"),
    [
        ([0, 0], Request.NOTHING), ([0, 2], Request.SAVE), ([2, 3], Request.REGROUP),
        ([1, 3], Request.STOP), ([2, 1, 0], Request.STOP), ([], Request.NOTHING),
    ],
)  # fmt: skip
def test_one_worker_that_was_asked_is_enough_and_to_stop_goes_first(
    asked: list[int], agreed: Request
) -> None:
    assert agree(asked) is agreed


def test_a_save_takes_as_long_as_the_last_one_or_what_its_size_takes() -> None:
    assert save_estimate(3.5, 10**12) == 3.5
    assert save_estimate(None, 2 * 10**9) == 20


def timeline(deadline: float, save: float, step: float) -> list[tuple[float, Request]]:
    """What is asked for, and when, by a worker that hears of a reclaim at time 100 and does what it asks for."""
    notice, now, saved_at, found = Notice(deadline, noticed=100.0), 100.0, 90.0, []
    while now < deadline:
        request, _ = notice.request(now, save, step, saved_at)
        if request:
            found.append((now, request))
            now += save
            saved_at = now
            if request is Request.REGROUP:
                break
        now += step
    return found


def test_a_checkpoint_at_once_and_another_on_leaving_at_the_latest_safe_moment() -> None:
    (first, save), (last, regroup) = timeline(deadline=160, save=4, step=0.5)
    assert (first, save, regroup) == (100, Request.SAVE, Request.REGROUP)
    assert 160 - 2 * 8 <= last <= 160 - 4 - 0.5  # trained on nearly until then, and the save has ended


def test_a_short_notice_is_for_one_checkpoint() -> None:
    assert timeline(deadline=110, save=3, step=0.5) == [(100, Request.REGROUP)]


@pytest.mark.parametrize(("save", "step"), [(30, 0.1), (2, 20)])
def test_where_no_save_fits_none_is_begun(save: float, step: float) -> None:
    notice = Notice(130, noticed=100)
    assert notice.request(100, save, step, None) == (Request.NOTHING, False)


def test_a_save_that_another_worker_asked_for_a_moment_earlier_is_not_asked_for_again() -> None:
    notice = Notice(200, noticed=100)
    assert notice.request(101, 1, 0.1, saved_at=99.5)[0] is Request.NOTHING
    assert notice.request(101, 1, 0.1, saved_at=50)[0] is Request.SAVE
    assert notice.request(101, 1, 0.1, saved_at=None)[0] is Request.SAVE


@pytest.mark.parametrize("step", [0.01, 1, 10])
def test_the_latest_safe_moment_is_not_stepped_over(step: float) -> None:
    assert [request for _, request in timeline(deadline=300, save=2, step=step)][-1] is Request.REGROUP
