"""How many tokens a byte of each source comes to, so that the weights of a mixture are shares of the tokens."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from raypretrain.corpus.clusters import Draw
from raypretrain.corpus.documents import is_held_out, read_documents
from raypretrain.corpus.manifest import Manifest
from raypretrain.corpus.sources import CorpusConfig
from raypretrain.tokens.tokenizer import Tokenizer

# Of each source so many fragments are read, and so many bytes; but none beyond the most.
_FRAGMENTS, _BYTES = 32, 8_000_000
_MOST_BYTES = 64_000_000
_MARKS = 2  # of begin and end
_TOKENIZED = 2_000_000  # characters of each source, spread over what is read


def is_weighted(corpus: CorpusConfig) -> bool:
    """Whether densities matter: with several sources, some of them weighted."""
    return len(corpus.sources) > 1 and any(source.weight is not None for source in corpus.sources)


def densities(
    manifest: Manifest, corpus: CorpusConfig, tokenizer: Tokenizer, seed: int, longest: int | None = None
) -> list[float]:
    """Training tokens for each byte that the manifest reckons with, source by source, measured on a sample.

    It covers what differs between sources: bytes of a token, the share of markup and of held-out text in a file,
    how well it is compressed, and what is left of it by clusters and crops. Deterministic.

    Args:
        longest: tokens that are taken of a document at most; all by default.

    Raises:
        InputError: a file that is damaged or holds something else than text.
        StorageError: a file that cannot be read.
    """
    return [
        _density(source, manifest, corpus, tokenizer, seed, longest) for source in range(len(corpus.sources))
    ]


def _sample(order: NDArray[np.int64], manifest: Manifest) -> NDArray[np.int64]:
    """The first of ``order`` that are enough."""
    sizes = np.cumsum(manifest.bytes[order])
    enough = max(_FRAGMENTS, int(np.searchsorted(sizes, _BYTES)) + 1)
    return order[: max(1, min(enough, int(np.searchsorted(sizes, _MOST_BYTES))))]


def _density(
    source: int,
    manifest: Manifest,
    corpus: CorpusConfig,
    tokenizer: Tokenizer,
    seed: int,
    longest: int | None,
) -> float:
    fragments = np.flatnonzero(manifest.source == source)
    order = _sample(np.random.default_rng([seed, 4, source]).permutation(fragments), manifest)
    size = characters = documents = 0
    sampled_tokens = sampled_characters = 0
    most = longest - _MARKS if longest else sys.maxsize
    share = min(1.0, _TOKENIZED / max(1, int(manifest.bytes[order].sum())))
    for index in order.tolist():
        for document in read_documents(manifest, manifest.fragment(index), corpus, [], Draw(seed, 0)):
            if is_held_out(document.split_by, corpus.held_out):
                continue
            documents += 1
            characters += len(document.text)
            if sampled_characters <= share * characters:
                sampled_characters += len(document.text)
                sampled_tokens += min(most, len(tokenizer.encode(document.text)))
        size += max(1, int(manifest.bytes[index]))
    marks = _MARKS * documents
    tokens = marks + (characters * sampled_tokens / sampled_characters if sampled_characters else 0)
    return max(tokens, 1) / max(size, 1)
