"""Asking a store: again after a pause where it fails, a second time beside a request that is late; all counted.

Everything here runs on fsspec's event loop, in its one thread; only the counters are read from others.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeVar

from raypretrain.buckets import refusals

T = TypeVar("T")

CONNECT_SECONDS = 4
READ_SECONDS = 30
"""A connection that is silent for so long is given up."""

_ATTEMPTS = 15  # with the pauses between them about a minute
_ATTEMPTS_AT_FIRST = 4  # of a store that has never answered: most likely it is named wrongly
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 10.0
_SLOWEST = 100_000  # bytes a second that a request must come to

_LATE = 3.0  # times the median of its like
_SOONEST = 1.0
_ENOUGH = 8  # requests of a size, to know what is usual
_UNKNOWN = 5.0
_UNKNOWN_SPEED = 1_000_000
_RECENT = 64
_MOST_HEDGES = 0.1  # of the requests: a store that is slow as a whole is not asked twice as much
_FREE_HEDGES = 8

Counts = dict[str, float]
"""``requests``; ``bytes`` of their bodies; ``retries`` after a failure; ``hedges``, second requests beside a late
one; ``hedges_won``, those that were the first to answer; ``seconds`` that the requests took, added up."""

_total: Counts = dict.fromkeys(("requests", "bytes", "retries", "hedges", "hedges_won", "seconds"), 0)
_taken: Counts = dict(_total)


def counters() -> Counts:
    """What this process has asked of stores since its start."""
    return dict(_total)


def take_counts() -> Counts:
    """What this process has asked of stores since the last call of this; empty where it was nothing."""
    global _taken
    before, _taken = _taken, counters()
    new = {name: _taken[name] - before[name] for name in before}
    return new if any(new.values()) else {}


@dataclass
class Link:
    """What is known of a store: whether it has ever answered, and how long requests took lately, by size.

    ``at_first`` is how often a store is asked that has never answered.
    """

    at_first: int = _ATTEMPTS_AT_FIRST
    answered: bool = False
    asked: int = 0
    hedged: int = 0
    _recent: dict[int, deque[float]] = field(default_factory=dict)

    def took(self, size: int, seconds: float) -> None:
        """Remember that a request for ``size`` bytes took so long."""
        self._recent.setdefault(size.bit_length(), deque(maxlen=_RECENT)).append(seconds)

    def late_after(self, size: int) -> float:
        """After how many seconds a request for ``size`` bytes is late."""
        recent = self._recent.get(size.bit_length(), ())
        if len(recent) < _ENOUGH:
            return _UNKNOWN + size / _UNKNOWN_SPEED
        return max(_SOONEST, _LATE * median(recent))

    def may_hedge(self) -> bool:
        """Whether another second request is within bounds."""
        return self.hedged < _FREE_HEDGES + _MOST_HEDGES * self.asked


async def request(link: Link, make: Callable[[], Awaitable[T]], size: int = 0, hedge: bool = False) -> T:
    """What ``make()`` gives; made again after a failure that may pass, with growing random pauses between.

    Args:
        make: sends one request of a body of ``size`` bytes, and reads the answer whole.
        hedge: whether a second one may be sent beside one that is late.

    Raises:
        Exception: the last failure, as the store's library raises it.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            sent = _hedged(link, make, size) if hedge else _once(link, make, size)
            result = await sent
            link.answered = True
            return result
        except Exception as error:
            link.answered = link.answered or refusals.answered(error)
            most = _ATTEMPTS if link.answered else link.at_first
            if attempt >= most or not refusals.may_pass(error):
                raise
        _total["retries"] += 1
        await asyncio.sleep(_random.uniform(0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt)))


_random = (
    random.Random()
)  # not the module's own: a seed for training must not make all wait for the same time


async def _once(link: Link, make: Callable[[], Awaitable[T]], size: int) -> T:
    begin = time.monotonic()
    link.asked += 1
    _total["requests"] += 1
    try:
        async with asyncio.timeout(CONNECT_SECONDS + READ_SECONDS + size / _SLOWEST):
            result = await make()
    finally:
        seconds = time.monotonic() - begin
        _total["seconds"] += seconds
    _total["bytes"] += size
    link.took(size, seconds)
    return result


async def _hedged(link: Link, make: Callable[[], Awaitable[T]], size: int) -> T:
    """The first answer of one request or, if it is late, of two."""
    first = _task(_once(link, make, size))
    running = {first}
    try:
        await asyncio.wait(running, timeout=link.late_after(size))
        if not first.done() and link.may_hedge():
            link.hedged += 1
            _total["hedges"] += 1
            running.add(_task(_once(link, make, size)))
        while True:
            done, rest = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            won = next((task for task in done if not task.exception()), None)
            if won is not None or not rest:
                chosen = won or done.pop()
                _total["hedges_won"] += won is not None and chosen is not first
                return chosen.result()
            running = rest
    finally:
        for task in running:
            task.cancel()


def _task(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task whose failure nobody has to ask for."""
    task = asyncio.ensure_future(coroutine)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
