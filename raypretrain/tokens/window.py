"""A window of the corpus as sequences: read, split off, shuffle, tokenize, pack. A function of the window alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from raypretrain import storage
from raypretrain.config import Config, Count
from raypretrain.corpus.clusters import Draw
from raypretrain.corpus.documents import BadRecord, Document, is_held_out, read_documents
from raypretrain.corpus.manifest import Manifest
from raypretrain.corpus.sources import CorpusConfig
from raypretrain.tokens.cropping import draw_crops
from raypretrain.tokens.dealing import Part
from raypretrain.tokens.infilling import Arrangement, InfillConfig, draw_arrangements, encode_arranged
from raypretrain.tokens.packing import Layout, Packing, Sequences, pack
from raypretrain.tokens.plan import Plan
from raypretrain.tokens.tokenizer import Tokenizer

# Keep the draws of this file apart from each other and from those of the plan.
_SHUFFLE, _ROWS, _INFILL = 1, 3, 4
_LARGEST_PART = 2  # windows
_AHEAD = 4  # fragments


Fragment = tuple[Iterator[Document], list[BadRecord]]
"""The documents of a fragment, and where those are put that are left out while it is read."""


class SequencesConfig(Config):
    """How documents become the sequences of tokens that the model is trained on."""

    length: Count = Field(default=512, ge=8, description="tokens of a sequence")
    packing: Packing = Field(default="concatenate", description="how documents fill sequences")
    window: Count = Field(
        default=4_000_000, ge=1024, description="bytes of text that are shuffled and packed together"
    )
    shuffle: bool = Field(default=True, description="shuffle the documents of a window")
    boundaries: bool = Field(
        default=True, description="attention and positions stop at the edges of a document within a sequence"
    )
    crop: Literal["random"] | None = Field(
        default=None,
        description="of a document longer than a sequence one window is taken, another in each epoch",
    )
    infill: InfillConfig = InfillConfig()

    @model_validator(mode="after")
    def _crops_are_in_order(self) -> SequencesConfig:
        if self.crop and self.infill.rate:
            raise ValueError(
                "crop would cut off what infill rearranges; leave it out, or set infill's rate to 0"
            )
        return self

    @property
    def longest(self) -> int | None:
        """Tokens of a document that an epoch takes at most; None where it takes all of them."""
        return self.length if self.crop else None


@dataclass
class Packed:
    """A part of a window, and what it is made of.

    Args:
        bad: records that were left out.
        documents: in the order in which they were packed.
        arrangements: how each of them was rearranged for infilling, if it was.
        layout: which of their tokens lie where.
    """

    part: int
    bad: list[BadRecord]
    documents: list[Document]
    arrangements: list[Arrangement | None]
    layout: Layout
    sequences: Sequences


@dataclass
class Windows:
    """All windows of a run: everything that turns a window's number into its sequences.

    It is pickled to the tasks of the stream.

    Args:
        densities: tokens that a byte of each source comes to; needed only where sources have weights.
    """

    manifest: Manifest
    corpus: CorpusConfig
    sequences: SequencesConfig
    tokenizer: Tokenizer
    seed: int
    densities: list[float] | None = None
    _plan: Plan | None = field(default=None, init=False, repr=False)
    _begun: dict[int, Iterator[Fragment]] = field(default_factory=dict, init=False, repr=False)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_plan": None, "_begun": {}}

    @property
    def plan(self) -> Plan:
        """Which fragments each window has."""
        if self._plan is None:
            self._plan = Plan(
                self.manifest.bytes,
                self.manifest.source,
                [source.weight for source in self.corpus.sources],
                self.sequences.window,
                self.seed,
                self.densities,
                [source.epochs for source in self.corpus.sources],
            )
        return self._plan

    def windows_from(self, first: int) -> Iterator[int]:
        """The windows from ``first`` on that hold anything."""
        return self.plan.windows_from(first)

    def begin(self, w: int) -> None:
        """Ask for the first bytes of window ``w``, which come while others are tokenized; :meth:`parts` takes them."""
        fragments = self._fragments(w)
        first = next(fragments, None)
        if first is not None:
            self._begun[w] = itertools.chain([first], fragments)

    def parts(self, w: int, first: int = 0) -> Iterator[Part]:
        """Window ``w`` from part ``first`` on; the same each time, wherever it is called.

        A window has several parts only where a file or a row group that cannot be cut makes it much larger
        than ``sequences.window``; each part is shuffled and packed by itself.

        Raises:
            InputError: a file that is damaged or holds something else than text.
            StorageError: a file that cannot be read.
        """
        storage.take_counts()
        for packed in self.packed(w, first):
            yield Part(w, packed.part, packed.sequences, packed.bad, storage.take_counts())

    def packed(self, w: int, first: int = 0) -> Iterator[Packed]:
        """As :meth:`parts`, with the documents that they are made of."""
        for part, (documents, bad) in enumerate(self._groups(w)):
            if part >= first:
                yield self._pack(documents, bad, w, part)

    def fills(self, sequences: int) -> bool:
        """Whether one epoch of the corpus holds that many sequences. Reads no more of it than it must."""
        found, w, stop = 0, 0, self.plan.windows_of_an_epoch
        while found < sequences and w < stop:
            found += sum(len(part.sequences) for part in self.parts(w))
            w += 1
        return found >= sequences

    def _groups(self, w: int) -> Iterator[tuple[list[Document], list[BadRecord]]]:
        """The training documents of window ``w`` as they are read, part by part, and the records left out."""
        documents: list[Document] = []
        bad: list[BadRecord] = []
        size = told = 0
        for fragment, left_out in self._begun.pop(w, None) or self._fragments(w):
            for document in fragment:
                if left_out:
                    bad += _taken(left_out)
                if size >= _LARGEST_PART * self.sequences.window:
                    yield documents, bad[told:]
                    documents, size, told = [], 0, len(bad)
                if not is_held_out(document.split_by, self.corpus.held_out):
                    documents.append(document)
                    size += len(document.text)
            bad += _taken(left_out)
        yield documents, bad[told:]

    def _fragments(self, w: int) -> Iterator[Fragment]:
        """The documents of each fragment of window ``w``, and where those that are left out are put.

        While one is read the next ones are asked for, or a task would wait for the storage once for each. Not where
        they are larger than they should be: they would be in memory at once.
        """
        planned = self.plan.window_by_epoch(w)
        fragments = [self.manifest.fragment(index) for index, _ in planned]
        left_out: list[list[BadRecord]] = [[] for _ in fragments]
        small = sum(fragment.bytes for fragment in fragments) <= _LARGEST_PART * self.sequences.window
        documents = (
            read_documents(self.manifest, fragment, self.corpus, bad, Draw(self.seed, epoch))
            for fragment, (_, epoch), bad in zip(fragments, planned, left_out, strict=True)
        )
        return zip(storage.read_ahead(documents, _AHEAD if small else 0), left_out, strict=True)

    def _pack(self, documents: list[Document], bad: list[BadRecord], w: int, part: int) -> Packed:
        if self.sequences.shuffle:
            order = self._draw(_SHUFFLE, w, part).permutation(len(documents))
            documents = [documents[i] for i in order]
        tokenizer, texts = self.tokenizer, [document.text for document in documents]
        arrangements: list[Arrangement | None] = [None] * len(texts)
        if self.sequences.infill.rate:
            rng = self._draw(_INFILL, w, part)
            arrangements = draw_arrangements(list(map(len, texts)), self.sequences.infill, rng)
        layout, sequences = pack(
            encode_arranged(texts, arrangements, tokenizer),
            self.sequences.length,
            self.sequences.packing,
            bos=tokenizer.bos,
            eos=tokenizer.eos,
            pad=tokenizer.pad,
            sources=self._sources(documents),
            number_of_sources=len(self.corpus.sources),
            rng=self._draw(_ROWS, w, part) if self.sequences.shuffle else None,
            crop=partial(draw_crops, documents, self.sequences.length, self.seed)
            if self.sequences.crop
            else None,
        )
        return Packed(part, bad, documents, arrangements, layout, sequences)

    def _sources(self, documents: list[Document]) -> NDArray[np.int64]:
        files = self.manifest.files
        return np.fromiter((files[d.file].source for d in documents), np.int64, len(documents))

    def _draw(self, what: int, w: int, part: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, what, w, part])


def _taken(records: list[BadRecord]) -> list[BadRecord]:
    """What is in the list; it is empty then."""
    found = records[:]
    records.clear()
    return found
