"""The windows' sequences laid end to end, and cut into global batches. Imports no Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from raypretrain.corpus.documents import BadRecord
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.packing import Sequences


@dataclass(frozen=True)
class Part:
    """A window, or one part of a window that is too large for one.

    Args:
        window, part: which; a window's parts are numbered from 0.
        sequences: may be none.
        bad: records of its fragments that were left out because they hold no text.
        storage: what was asked of object storage to make it, e.g. ``{"requests": 3, "retries": 1}``.
    """

    window: int
    part: int
    sequences: Sequences
    bad: list[BadRecord] = field(default_factory=list)
    storage: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """The global batch of a step.

    Args:
        sequences: of the step.
        places: int64 [sequences, 3], each one's window, part and index.
        cursor: the first sequence after it.
        bad, storage: of the parts of which it takes the first sequence.
    """

    sequences: Sequences
    places: NDArray[np.int64]
    cursor: Cursor
    bad: list[BadRecord]
    storage: dict[str, float]


class Batches:
    """The global batches from ``cursor`` on: a pure function of the parts.

    Args:
        parts: in order, from the cursor's own on.
        cursor: the first sequence.
        sizes: sequences of each batch, without end.
    """

    def __init__(self, parts: Iterator[Part], cursor: Cursor, sizes: Iterator[int]) -> None:
        self._parts, self._cursor, self._sizes = parts, cursor, sizes
        self._rest: Sequences | None = None  # of the part in which the cursor stands

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        taken: list[Sequences] = []
        places: list[NDArray[np.int64]] = []
        bad: list[BadRecord] = []
        storage: Counter[str] = Counter()
        missing = next(self._sizes)
        while missing:
            if not self._rest:
                part = self._next_part()
                if self._cursor.index == 0:  # otherwise an earlier batch has them
                    bad += part.bad
                storage.update(part.storage)
                continue
            taken.append(self._rest[:missing])
            self._rest = self._rest[missing:]
            missing -= len(taken[-1])
            at, count = self._cursor, len(taken[-1])
            rows = np.full((count, 3), [at.window, at.part, at.index])
            rows[:, 2] += np.arange(count)
            places.append(rows)
            self._cursor = Cursor(at.window, at.part, at.index + count)
        return Batch(Sequences.concatenate(taken), np.concatenate(places), self._cursor, bad, dict(storage))

    def _next_part(self) -> Part:
        part = next(self._parts)
        here = (part.window, part.part) == (self._cursor.window, self._cursor.part)
        self._cursor = Cursor(part.window, part.part, self._cursor.index if here else 0)
        self._rest = part.sequences[self._cursor.index :]
        return part
