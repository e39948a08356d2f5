"""Texts of a task as token ids, flat arrays that trials share without copying. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raypretrain.finetuning.tasks import Task


@dataclass(frozen=True)
class Encoded:
    """Token sequences of several lengths, one after the other, with their classes.

    Args:
        ids: int32 [tokens].
        starts: int64 [sequences + 1]; sequence i is ``ids[starts[i]:starts[i + 1]]``.
        classes: int64 [sequences].
    """

    ids: np.ndarray
    starts: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, int64 [sequences]."""
        return np.diff(self.starts)

    def take(self, places: np.ndarray) -> Encoded:
        """The sequences at ``places``, in that order."""
        parts = [self.ids[self.starts[i] : self.starts[i + 1]] for i in places]
        ids = np.concatenate(parts) if parts else self.ids[:0]
        return Encoded(ids, _starts([len(part) for part in parts]), self.classes[places])

    def padded(self, places: np.ndarray, pad: int) -> tuple[np.ndarray, np.ndarray]:
        """The sequences at ``places`` padded on the right: ids int64 [B, longest], lengths int64 [B]."""
        lengths = self.lengths[places]
        rows = np.full((len(places), int(lengths.max())), pad, dtype=np.int64)
        for row, place, length in zip(rows, places, lengths, strict=True):
            row[:length] = self.ids[self.starts[place] : self.starts[place] + length]
        return rows, lengths


@dataclass(frozen=True)
class TaskTokens:
    """A task at one length: what a trial needs of it.

    Args:
        draws: seed → places in ``train`` of the examples that trials with that seed learn from.
    """

    name: str
    labels: tuple[str, ...]
    train: Encoded
    validation: Encoded
    test: Encoded
    draws: dict[int, np.ndarray]

    def examples(self, seed: int) -> Encoded:
        """The training examples of a trial."""
        return self.train.take(self.draws[seed])


class Encoder:
    """A base model's tokenizer, as ``transformers.AutoTokenizer`` applies it, special tokens included."""

    def __init__(self, tokenizer: Path, length: int) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        settings = tokenizer.with_name("tokenizer_config.json")
        if settings.exists():  # whether "<s>" inside a text is four characters or the special token
            split = json.loads(settings.read_text(encoding="utf-8")).get("split_special_tokens", False)
            self._tokenizer.encode_special_tokens = bool(split)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(length)

    def encode(self, texts: Sequence[str], classes: np.ndarray) -> Encoded:
        """Token ids of ``texts``, each cut to the length, with their classes int64 [texts]."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        flat = np.fromiter((token for row in ids for token in row), dtype=np.int32)
        return Encoded(flat, _starts([len(row) for row in ids]), classes)


def encode_task(task: Task, tokenizer: Path, length: int, seeds: Sequence[int]) -> TaskTokens:
    """Tokenize what the trials with these ``seeds`` need: examples that none of them drew are left out."""
    encoder = Encoder(tokenizer, length)
    draws = {seed: task.draw(seed) for seed in sorted(set(seeds))}
    needed = np.unique(np.concatenate(list(draws.values())))

    def encoded(split: str, places: np.ndarray | None = None) -> Encoded:
        examples = getattr(task, split)
        if places is not None:
            examples = [examples[i] for i in places]
        return encoder.encode([example.text for example in examples], task.classes(examples))

    return TaskTokens(
        name=task.name,
        labels=task.labels,
        train=encoded("train", needed),
        validation=encoded("validation"),
        test=encoded("test"),
        draws={seed: np.searchsorted(needed, draw) for seed, draw in draws.items()},
    )


def batches(
    lengths: np.ndarray, size: int, random: np.random.Generator | None = None, pool: int = 16
) -> Iterator[np.ndarray]:
    """Places of sequences in batches of ``size`` (the last may be smaller) with little padding.

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


def _starts(lengths: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
