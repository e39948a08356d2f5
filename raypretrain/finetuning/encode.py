"""Examples of a task as token ids, flat arrays that trials share without copying. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Encoding

    from raypretrain.finetuning.kinds.kind import Kind
    from raypretrain.finetuning.tasks import Task

Draw = tuple[int, int | None]
"""A trial's seed, and how many examples it takes; None: as many as the task says."""

NO_TARGET = -100
"""The target of a token that has none, as torch's losses want it."""
COLUMNS = 8
"""Of a batch, or a multiple: oneDNN keeps code and memory for each shape it has met, up to a gigabyte in all."""


@dataclass(frozen=True)
class Encoded:
    """Token sequences of several lengths, one after the other, with what is to be learned.

    Args:
        ids: int32 [tokens].
        starts: int64 [sequences + 1]; sequence i is ``ids[starts[i]:starts[i + 1]]``.
        targets: of each example [examples, …], or, with ``of_tokens``, of each token, int64 [tokens].
        group: sequences of one example, which stand one after the other.
        known: what a trial has computed of each example before it trains, [examples, …].
        missing: of each example, the words that have no token and so no answer: their places among its words, and
            their targets; empty if no example has any.
    """

    ids: np.ndarray
    starts: np.ndarray
    targets: np.ndarray
    of_tokens: bool = False
    group: int = 1
    known: np.ndarray | None = None
    missing: tuple[tuple[tuple[int, int], ...], ...] = ()

    def __len__(self) -> int:
        """The number of examples."""
        return (len(self.starts) - 1) // self.group

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example (of its longest sequence), int64 [examples]."""
        longest: np.ndarray = np.diff(self.starts).reshape(-1, self.group).max(axis=1, initial=0)
        return longest

    def take(self, places: np.ndarray) -> Encoded:
        """The examples at ``places``, in that order."""
        rows = self._rows(places)
        parts = [slice(self.starts[i], self.starts[i + 1]) for i in rows]

        def joined(flat: np.ndarray) -> np.ndarray:
            return np.concatenate([flat[part] for part in parts]) if parts else flat[:0]

        return replace(
            self,
            ids=joined(self.ids),
            starts=starts_of([part.stop - part.start for part in parts]),
            targets=joined(self.targets) if self.of_tokens else self.targets[places],
            known=None if self.known is None else self.known[places],
            missing=tuple(self.missing[i] for i in places) if self.missing else (),
        )

    def padded(self, places: np.ndarray, pad: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The sequences of the examples at ``places``, padded on the right.

        Returns:
            ids int64 [R, L]; lengths int64 [R]; targets [examples, …] or int64 [R, L]. L is the longest length or,
            within what any example has, the next multiple of :data:`COLUMNS`.
        """
        rows = self._rows(places)
        lengths = self.starts[rows + 1] - self.starts[rows]
        ids = np.full((len(rows), self._columns(lengths)), pad, dtype=np.int64)
        targets = np.full(ids.shape, NO_TARGET, dtype=np.int64) if self.of_tokens else self.targets[places]
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            own = slice(self.starts[row], self.starts[row] + length)
            ids[i, :length] = self.ids[own]
            if self.of_tokens:
                targets[i, :length] = self.targets[own]
        return ids, lengths, targets

    def packed(self, places: np.ndarray, pad: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The sequences of the examples at ``places`` in few rows: the longest first, each where it fits best.

        Returns:
            ids int64 [R, L]; starts int64 [R, L], the column at which each position's sequence begins; targets
            int64 [R, L]; L as of :meth:`padded`.
        """
        sequences = self._rows(places)
        lengths = self.starts[sequences + 1] - self.starts[sequences]
        longest = self._columns(lengths)
        rows: list[list[int]] = []
        room: list[int] = []
        for i in np.argsort(-lengths, kind="stable").tolist():
            fitting = [r for r, left in enumerate(room) if left >= lengths[i]]
            if not fitting:
                rows.append([])
                room.append(longest)
            best = min(fitting, key=room.__getitem__, default=len(rows) - 1)
            rows[best].append(i)
            room[best] -= int(lengths[i])
        ids = np.full((len(rows), longest), pad, dtype=np.int64)
        targets = np.full(ids.shape, NO_TARGET, dtype=np.int64)
        starts = np.zeros(ids.shape, dtype=np.int64)
        for r, row in enumerate(rows):
            column = 0
            for i in row:
                own = slice(self.starts[sequences[i]], self.starts[sequences[i] + 1])
                stop = column + int(lengths[i])
                ids[r, column:stop], targets[r, column:stop] = self.ids[own], self.targets[own]
                starts[r, column:stop] = column
                column = stop
            starts[r, column:] = column
        return ids, starts, targets

    def _columns(self, lengths: np.ndarray) -> int:
        return int(min(-(-lengths.max() // COLUMNS) * COLUMNS, np.diff(self.starts).max()))

    def _rows(self, places: np.ndarray) -> np.ndarray:
        rows: np.ndarray = (np.asarray(places)[:, None] * self.group + np.arange(self.group)).ravel()
        return rows


@dataclass(frozen=True)
class TaskTokens:
    """A task at one length: what a trial needs of it.

    Args:
        draws: seed and number of examples → places in ``train`` of those that such trials learn from.
        texts: of the test set (of the validation set where there is none), for the report.
    """

    name: str
    kind: Kind
    train: Encoded
    validation: Encoded
    test: Encoded
    draws: dict[Draw, np.ndarray]
    texts: list[str] = field(default_factory=list)

    def examples(self, seed: int, count: int | None = None) -> Encoded:
        """The training examples of a trial."""
        return self.train.take(self.draws[seed, count])

    @property
    def judged(self) -> str:
        """The split whose answers the report looks at."""
        return "test" if len(self.test) else "validation"


class Encoder:
    """A base model's tokenizer, as ``transformers.AutoTokenizer`` applies it, special tokens included.

    Args:
        length: texts are cut after so many tokens.
        causal: the model is a decoder, which has seen a word at its last token only.
    """

    def __init__(self, tokenizer: Path, length: int, causal: bool = True) -> None:
        from tokenizers import Tokenizer

        self.length, self.causal = length, causal
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        settings = tokenizer.with_name("tokenizer_config.json")
        self.settings = json.loads(settings.read_text(encoding="utf-8")) if settings.exists() else {}
        # Whether "<s>" inside a text is four characters or the special token.
        self.splits_specials = bool(self.settings.get("split_special_tokens", False))
        self._tokenizer.encode_special_tokens = self.splits_specials
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(length)

    def encode(self, texts: Sequence[str | tuple[str, str]]) -> list[list[int]]:
        """Token ids of texts, or of pairs of texts, each cut to the length."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(self._inputs(texts))]

    def aligned(self, texts: Sequence[str]) -> list[Encoding]:
        """The same with the characters that each token stands for."""
        return self._tokenizer.encode_batch(list(texts))

    def plain(self, text: str, *, specials: bool) -> list[int]:
        """Token ids of a part of a text: nothing is added to it, and it is not cut.

        Args:
            specials: names of special tokens in it are these tokens, and not characters.
        """
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = not specials
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        self._tokenizer.encode_special_tokens = self.splits_specials
        self._tokenizer.enable_truncation(self.length)
        return ids

    def _inputs(self, texts: Sequence[str | tuple[str, str]]) -> list[Any]:
        if self._parts_pairs():
            return list(texts)
        return [text if isinstance(text, str) else joined(text) for text in texts]

    def _parts_pairs(self) -> bool:
        """Whether the tokenizer puts a mark between the two texts of a pair; decoders' put none."""
        return any(self._tokenizer.encode("a", "b").special_tokens_mask[1:-1])


def joined(pair: tuple[str, str]) -> str:
    """A pair as one text, for a tokenizer without a mark to part them."""
    return f"{pair[0]}\n{pair[1]}"


def flat(rows: Sequence[Iterable[int]], dtype: Any = np.int32) -> np.ndarray:
    """The numbers of all rows, one row after the other."""
    return np.fromiter((value for row in rows for value in row), dtype=dtype)


def encode_task(task: Task, encoder: Encoder, draws_of: Sequence[Draw]) -> TaskTokens:
    """Tokenize what the trials with these draws need: examples that none of them drew are left out."""
    draws = {draw: task.draw(*draw) for draw in dict.fromkeys(draws_of)}
    needed = np.unique(np.concatenate(list(draws.values())))
    judged = task.test or task.validation
    return TaskTokens(
        name=task.name,
        kind=task.kind,
        train=task.kind.encode([task.train[i] for i in needed], encoder),
        validation=task.kind.encode(task.validation, encoder),
        test=task.kind.encode(task.test, encoder),
        draws={draw: np.searchsorted(needed, places) for draw, places in draws.items()},
        texts=[example.text for example in judged],
    )


def batches(
    lengths: np.ndarray, size: int, random: np.random.Generator | None = None, pool: int = 16
) -> Iterator[np.ndarray]:
    """Places of examples in batches of ``size`` (the last may be smaller) with little padding.

    Without ``random`` sorted by length, for evaluation. With it every call gives another order: shuffled,
    sorted within pools of ``pool`` batches, and the batches shuffled.
    """
    if random is None:
        order = np.argsort(lengths, kind="stable")
    else:
        order = random.permutation(len(lengths))
        pools = [order[i : i + size * pool] for i in range(0, len(order), size * pool)]
        order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in pools])
    cut = [order[i : i + size] for i in range(0, len(order), size)]
    places = range(len(cut)) if random is None else random.permutation(len(cut))
    yield from (cut[i] for i in places)


def starts_of(lengths: Sequence[int]) -> np.ndarray:
    """Where sequences of these lengths begin, and the end of the last: int64 [sequences + 1]."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
