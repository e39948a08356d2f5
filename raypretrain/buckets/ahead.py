"""Beginning early: the first items of the next iterables are fetched while the present one is read."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")

_NONE = object()


def read_ahead(iterables: Iterable[Iterable[T]], depth: int) -> Iterator[Iterator[T]]:
    """Each of ``iterables`` as an iterator, in order; the ``depth`` after it have been begun in threads.

    What an iterable does until it has its first item (open a file, ask for its first bytes) is done while those
    before it are read; the rest is done by whoever reads it. An error comes up where the item would have.
    """
    begun: deque[_Begun[T]] = deque()
    for iterable in iterables:
        begun.append(_Begun(iterable))
        if len(begun) > depth:
            yield begun.popleft().items()
    while begun:
        yield begun.popleft().items()


class _Begun(Generic[T]):
    def __init__(self, iterable: Iterable[T]) -> None:
        self._iterator = iter(iterable)
        self._first: Future[object] = Future()
        threading.Thread(target=self._begin, daemon=True, name="read-ahead").start()

    def _begin(self) -> None:
        try:
            self._first.set_result(next(self._iterator, _NONE))
        except BaseException as error:
            self._first.set_exception(error)

    def items(self) -> Iterator[T]:
        first = self._first.result()
        if first is _NONE:
            return
        yield from itertools.chain([first], self._iterator)
