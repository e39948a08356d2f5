"""Infilling: documents rearranged so that a model that reads from left to right learns to fill in a middle.

A document is cut at two characters into prefix, middle and suffix; its middle comes last, behind marks. Bavarian et
al., Efficient Training of Language Models to Fill in the Middle, 2022 (arXiv:2207.14255): cut by characters, before
tokenizing, one half with the prefix first (PSM), one with the suffix first (SPM).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from raypretrain.config import Config
from raypretrain.errors import InputError
from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.tokens.tokenizer_base import spans_of_lengths


class InfillConfig(Config):
    """Which documents are rearranged. The held-out loss is that of documents as they are."""

    rate: float = Field(default=0.0, ge=0, le=1, description="share of the documents that are rearranged")
    suffix_first: float = Field(
        default=0.5, ge=0, le=1, description="share of these with the suffix first (SPM)"
    )


class Section(NamedTuple):
    """A run of a document's characters, and the token in front of it: none where it goes on with the one before."""

    mark: int | None
    start: int
    stop: int


@dataclass(frozen=True)
class Arrangement:
    """Where a document is cut, in characters, and whether its suffix comes before its prefix."""

    first: int
    second: int
    suffix_first: bool

    def sections(self, length: int, marks: Sequence[int]) -> list[Section]:
        """The document of so many characters in its new order; ``marks`` are those of prefix, suffix and middle."""
        prefix, suffix, middle = marks
        if self.suffix_first:
            return [
                Section(prefix, 0, 0),
                Section(suffix, self.second, length),
                Section(middle, 0, self.first),
                Section(None, self.first, self.second),
            ]
        return [
            Section(prefix, 0, self.first),
            Section(suffix, self.second, length),
            Section(middle, self.first, self.second),
        ]


_PARTS = ["x", " x ", "\n\tX", "x.\n\n"]
"""What a tokenizer must keep as it is, for a document whose parts are put together again to be the same text."""


def check_infill(config: InfillConfig, tokenizer: Tokenizer) -> None:
    """See that documents can be rearranged for this tokenizer.

    Raises:
        InputError: it has no marks for it, or does not keep parts of a text as they are.
    """
    if not config.rate:
        return
    where = "sequences.infill"
    if tokenizer.infill is None:
        what = "the tokenizer has no tokens that mark prefix, suffix and middle"
        fix = "have one trained in another run.folder (kind: bpe or unigram), give a code model's, or set rate to 0"
        raise InputError(what, where=where, fix=fix)
    parts = zip(_PARTS, tokenizer.encode_on(_PARTS), strict=True)
    if not tokenizer.lossless and any(tokenizer.decode(ids) != part for part, ids in parts):
        what = "the tokenizer does not keep a part of a text as it is"
        raise InputError(what, where=where, fix="take one that leaves letters and white space as they are")


def draw_arrangements(
    lengths: Sequence[int], config: InfillConfig, rng: np.random.Generator
) -> list[Arrangement | None]:
    """For each document of so many characters how it is rearranged, if it is.

    What a document gets depends on its number and on nothing that was drawn for those before it.
    """
    number = len(lengths)
    chosen = rng.random(number) < config.rate
    cuts = np.sort(rng.random((number, 2)), axis=1)
    suffix_first = rng.random(number) < config.suffix_first
    places = (cuts * (np.asarray(lengths)[:, None] + 1)).astype(np.int64)  # 0 … length, each as likely
    return [
        Arrangement(int(first), int(second), bool(swapped)) if arranged else None
        for arranged, (first, second), swapped in zip(chosen, places, suffix_first, strict=True)
    ]


def encode_arranged(
    texts: Sequence[str], arrangements: Sequence[Arrangement | None], tokenizer: Tokenizer
) -> list[NDArray[np.int32]]:
    """The ids of each text in its new order, marks among them: int32 [tokens]."""
    encoded = _encoded(texts, arrangements, tokenizer)
    return [np.concatenate([ids for _, ids in one]) if len(one) > 1 else one[0][1] for one in encoded]


def arranged_spans(text: str, way: Arrangement, tokenizer: Tokenizer) -> NDArray[np.int64]:
    """As :meth:`Tokenizer.spans`, for the ids of :func:`encode_arranged`; a mark has no characters."""
    spans = []
    for section, ids in _encoded([text], [way], tokenizer)[0]:
        if section.mark is not None:
            spans.append(np.full((1, 2), section.start))
            ids = ids[1:]
        part = text[section.start : section.stop]
        if tokenizer.lossless:
            lengths = tokenizer.byte_lengths[ids].astype(np.int64)
            lengths[:1] -= lengths.sum() - len(part.encode())  # what the model wants in front of a text
            spans.append(spans_of_lengths(part, lengths) + section.start)
        else:
            spans.append(tokenizer.spans(part) + section.start)
    return np.concatenate(spans)


def _encoded(
    texts: Sequence[str], arrangements: Sequence[Arrangement | None], tokenizer: Tokenizer
) -> list[list[tuple[Section, NDArray[np.int32]]]]:
    """The sections of each text and their ids, with the mark before them."""
    orders = [
        [Section(None, 0, len(text))] if way is None else way.sections(len(text), tokenizer.infill or ())
        for text, way in zip(texts, arrangements, strict=True)
    ]
    begin: list[str] = []
    go_on: list[str] = []
    for text, sections in zip(texts, orders, strict=True):
        for section in sections:
            (go_on if section.start else begin).append(text[section.start : section.stop])
    of_begin, of_go_on = iter(tokenizer.encode_batch(begin)), iter(tokenizer.encode_on(go_on))

    def ids(section: Section) -> NDArray[np.int32]:
        found = next(of_go_on if section.start else of_begin)
        return found if section.mark is None else np.concatenate([np.array([section.mark], np.int32), found])

    return [[(section, ids(section)) for section in sections] for sections in orders]
