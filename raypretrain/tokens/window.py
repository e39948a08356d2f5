"""A window of the corpus as sequences: read, split off, shuffle, tokenize, pack. A function of the window alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from raypretrain.config import Config, Count
from raypretrain.corpus.documents import is_held_out, read_documents
from raypretrain.corpus.manifest import Manifest
from raypretrain.corpus.sources import CorpusConfig
from raypretrain.tokens.packing import concatenate
from raypretrain.tokens.plan import Plan
from raypretrain.tokens.tokenizer import Tokenizer

_SHUFFLE = 1  # keeps the draws of this file apart from those of the plan


class SequencesConfig(Config):
    """How documents become the sequences of tokens that the model is trained on."""

    length: Count = Field(default=512, ge=8, description="tokens of a sequence")
    packing: Literal["concatenate"] = Field(default="concatenate", description="how documents fill sequences")
    window: Count = Field(
        default=4_000_000, ge=1024, description="bytes of text that are shuffled and packed together"
    )
    shuffle: bool = Field(default=True, description="shuffle the documents of a window")


@dataclass
class Windows:
    """All windows of a run: everything that turns a window's number into its sequences.

    It is pickled to the tasks of the stream.
    """

    manifest: Manifest
    corpus: CorpusConfig
    sequences: SequencesConfig
    tokenizer: Tokenizer
    seed: int
    _plan: Plan | None = field(default=None, init=False, repr=False)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_plan": None}

    @property
    def plan(self) -> Plan:
        """Which fragments each window has."""
        if self._plan is None:
            weights = [source.weight for source in self.corpus.sources]
            self._plan = Plan(
                self.manifest.bytes, self.manifest.source, weights, self.sequences.window, self.seed
            )
        return self._plan

    def read(self, w: int) -> NDArray[np.int32]:
        """The sequences of window ``w``: int32 [sequences, length]; the same each time, wherever it is called.

        Raises:
            InputError: a file that is damaged or holds something else than text.
            StorageError: a file that cannot be read.
        """
        texts = self._texts(w)
        if self.sequences.shuffle:
            order = np.random.default_rng([self.seed, _SHUFFLE, w]).permutation(len(texts))
            texts = [texts[i] for i in order]
        tokenizer = self.tokenizer
        ids = tokenizer.encode_batch(texts)
        return concatenate(ids, self.sequences.length, bos=tokenizer.bos, eos=tokenizer.eos)

    def fills(self, sequences: int) -> bool:
        """Whether one epoch of the corpus holds that many sequences. Reads no more of it than it must."""
        found, w, stop = 0, 0, self.plan.windows_of_an_epoch
        while found < sequences and w < stop:
            found += len(self.read(w))
            w += 1
        return found >= sequences

    def _texts(self, w: int) -> list[str]:
        return [
            document.text
            for index in self.plan.window(w)
            for document in read_documents(self.manifest, self.manifest.fragment(index), self.corpus)
            if not is_held_out(document.text, self.corpus.held_out)
        ]
