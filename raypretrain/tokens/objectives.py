"""What the model learns to predict: sequences of tokens → what it is given, and the targets. Imports no torch.

``causal``: the next token. ``masked``: tokens that are hidden, from those on both sides (Devlin et al., BERT, 2018,
arXiv:1810.04805, section 3.1). Which ones follows from the seed and the sequence's place, ``(window, part, index)``, so
it is the same for any number of workers, and after a restart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from raypretrain.config import Config
from raypretrain.errors import InputError
from raypretrain.tokens.packing import Sequences
from raypretrain.tokens.tokenizer import Tokenizer

IGNORED = -100
"""The target where nothing is to be predicted."""

# Keep these draws apart from those of the windows, which are of (seed, what, window, part).
_TRAINING, _HELD_OUT = 5, 6
# Of spans of 1 to 10 tokens, how likely each is: SpanBERT (arXiv:1907.10529), section 3.1. 3.8 tokens on average.
_SPANS = 0.8 ** np.arange(10) / np.sum(0.8 ** np.arange(10))


class MaskConfig(Config):
    """Which tokens the masked objective hides, and how."""

    rate: float = Field(default=0.15, gt=0, lt=1, description="share of the tokens that are to be predicted")
    masked: float = Field(default=0.8, ge=0, le=1, description="share of these that the mask stands for")
    random: float = Field(default=0.1, ge=0, le=1, description="share that a random token stands for")
    unit: Literal["token", "word", "span"] = Field(default="token", description="what is chosen together")

    @model_validator(mode="after")
    def _shares(self) -> MaskConfig:
        if self.masked + self.random > 1:
            raise ValueError(
                f"masked ({self.masked:g}) and random ({self.random:g}) are more than 1 together"
            )
        return self


class Objective(Protocol):
    """How sequences become examples."""

    def counts(self, sequences: Sequences) -> NDArray[np.int64]:
        """The number of targets in each sequence: int64 [n]."""
        ...

    def examples(
        self, sequences: Sequences, places: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What the model is given and what it is to predict: both int64 [n, length], the second with :data:`IGNORED`.

        Args:
            places: int64 [n, 3], each sequence's window, part and index.
        """
        ...

    def held_out(self) -> Objective:
        """The same for held-out text, whose places are not those of windows."""
        ...


@dataclass(frozen=True)
class Causal:
    """The next token; ``bos`` is the one that begins a document."""

    bos: int

    def counts(self, sequences: Sequences) -> NDArray[np.int64]:
        return sequences.predicted(self.bos).sum(axis=1)

    def examples(
        self, sequences: Sequences, places: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        inputs = sequences.tokens.astype(np.int64)
        targets = np.full_like(inputs, IGNORED)
        predicted = sequences.predicted(self.bos)[:, 1:]
        np.copyto(targets[:, :-1], inputs[:, 1:], where=predicted)
        return inputs, targets

    def held_out(self) -> Causal:
        return self


@dataclass(frozen=True)
class Masked:
    """Hidden tokens.

    Of every sequence the same share is hidden, at least one; never a special token. Where words or spans are chosen,
    the last one is cut to keep to the share.

    Args:
        mask: the token that stands for a hidden one.
        ordinary: int32 [n], the tokens that are not special.
        joins: bool [2, vocabulary], as of :meth:`Tokenizer.joins`.
    """

    config: MaskConfig
    seed: int
    mask: int
    ordinary: NDArray[np.int32]
    joins: NDArray[np.bool_]
    stream: int = _TRAINING

    def counts(self, sequences: Sequences) -> NDArray[np.int64]:
        return self._counts(self._candidates(sequences))

    def examples(
        self, sequences: Sequences, places: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        inputs = sequences.tokens.astype(np.int64)
        targets = np.full_like(inputs, IGNORED)
        candidates = self._candidates(sequences)
        for row, (hidden, place) in enumerate(zip(self._counts(candidates), places.tolist(), strict=True)):
            rng = np.random.default_rng([self.seed, self.stream, *place])
            columns = np.flatnonzero(candidates[row])
            chosen = columns[self._chosen(columns, inputs[row], rng)[:hidden]]
            targets[row, chosen] = inputs[row, chosen]
            fate = rng.random(len(chosen))
            drawn = self.ordinary[rng.integers(len(self.ordinary), size=len(chosen))]
            inputs[row, chosen] = np.where(
                fate < self.config.masked,
                self.mask,
                np.where(fate < self.config.masked + self.config.random, drawn, inputs[row, chosen]),
            )
        return inputs, targets

    def held_out(self) -> Masked:
        return replace(self, stream=_HELD_OUT)

    def _candidates(self, sequences: Sequences) -> NDArray[np.bool_]:
        ordinary = np.zeros(self.joins.shape[1], bool)
        ordinary[self.ordinary] = True
        return ordinary[sequences.tokens] & (np.arange(sequences.tokens.shape[1]) < sequences.filled[:, None])

    def _counts(self, candidates: NDArray[np.bool_]) -> NDArray[np.int64]:
        number = candidates.sum(axis=1)
        return np.minimum(number, np.maximum(1, np.rint(self.config.rate * number).astype(np.int64)))

    def _chosen(
        self, columns: NDArray[np.int64], row: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """The candidates in the order in which they are hidden: unit after unit, the tokens of each as they stand."""
        unit = np.arange(len(columns))
        if self.config.unit == "word":
            after = (columns[1:] == columns[:-1] + 1) & self.joins[0, row[columns[1:]]]
            unit = np.cumsum(~(after & self.joins[1, row[columns[:-1]]]))
            unit = np.concatenate([[0], unit])[: len(columns)]
        elif self.config.unit == "span":
            lengths = 1 + rng.choice(len(_SPANS), size=len(columns), p=_SPANS)
            unit = np.searchsorted(np.cumsum(lengths), np.arange(len(columns)), side="right")
        return np.argsort(rng.random(len(columns))[unit], kind="stable")


def whole_sequences(tokens: NDArray[np.int32]) -> Sequences:
    """Rows of tokens, int32 [n, length], as sequences without padding that go on with what stands before them."""
    number, length = tokens.shape
    begins = np.zeros((number, -(-length // 8)), np.uint8)
    filled = np.full(number, length, np.int32)
    return Sequences(tokens, begins, filled, filled[:, None])


def make_objective(
    name: Literal["causal", "masked"], mask: MaskConfig, tokenizer: Tokenizer, seed: int
) -> Objective:
    """The objective of that name.

    Raises:
        InputError: the tokenizer has no mask.
    """
    if name == "causal":
        return Causal(tokenizer.bos)
    if tokenizer.mask is None:
        what = "the tokenizer has no token that stands for a hidden one"
        fix = "give one with a mask token, or have one trained in another run.folder (tokenizer.kind: bpe)"
        raise InputError(what, where="training.objective", fix=fix)
    special: Any = [tokenizer.is_special(token) for token in range(tokenizer.vocabulary)]
    ordinary = np.flatnonzero(~np.array(special, bool)).astype(np.int32)
    return Masked(mask, seed, tokenizer.mask, ordinary, tokenizer.joins())
