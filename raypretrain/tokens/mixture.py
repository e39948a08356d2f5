"""How many tokens a byte of each source comes to, so that the weights of a mixture are shares of the tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raypretrain.corpus.documents import is_held_out, read_documents
from raypretrain.corpus.manifest import Manifest
from raypretrain.corpus.sources import CorpusConfig
from raypretrain.tokens.tokenizer import Tokenizer

# Of each source so many fragments are read, and so many bytes; but none beyond the most.
_FRAGMENTS, _BYTES = 32, 8_000_000
_MOST_BYTES = 64_000_000
_TOKENIZED = 2_000_000  # characters of each source, spread over what is read


def is_weighted(corpus: CorpusConfig) -> bool:
    """Whether densities matter: with several sources, some of them weighted."""
    return len(corpus.sources) > 1 and any(source.weight is not None for source in corpus.sources)


def densities(manifest: Manifest, corpus: CorpusConfig, tokenizer: Tokenizer, seed: int) -> list[float]:
    """Training tokens for each byte that the manifest reckons with, source by source, measured on a sample.

    It covers what differs between sources: bytes of a token, the share of markup and of held-out text in a file,
    and how well it is compressed. Deterministic.

    Raises:
        InputError: a file that is damaged or holds something else than text.
        StorageError: a file that cannot be read.
    """
    return [_density(source, manifest, corpus, tokenizer, seed) for source in range(len(corpus.sources))]


def _sample(order: NDArray[np.int64], manifest: Manifest) -> NDArray[np.int64]:
    """The first of ``order`` that are enough."""
    sizes = np.cumsum(manifest.bytes[order])
    enough = max(_FRAGMENTS, int(np.searchsorted(sizes, _BYTES)) + 1)
    return order[: max(1, min(enough, int(np.searchsorted(sizes, _MOST_BYTES))))]


def _density(source: int, manifest: Manifest, corpus: CorpusConfig, tokenizer: Tokenizer, seed: int) -> float:
    fragments = np.flatnonzero(manifest.source == source)
    order = _sample(np.random.default_rng([seed, 4, source]).permutation(fragments), manifest)
    size = characters = documents = 0
    sampled_tokens = sampled_characters = 0
    share = min(1.0, _TOKENIZED / max(1, int(manifest.bytes[order].sum())))
    for index in order.tolist():
        for document in read_documents(manifest, manifest.fragment(index), corpus, bad=[]):
            if is_held_out(document.text, corpus.held_out):
                continue
            documents += 1
            characters += len(document.text)
            if sampled_characters <= share * characters:
                sampled_characters += len(document.text)
                sampled_tokens += len(tokenizer.encode(document.text))
        size += max(1, int(manifest.bytes[index]))
    marks = 2 * documents  # of begin and end
    tokens = marks + (characters * sampled_tokens / sampled_characters if sampled_characters else 0)
    return max(tokens, 1) / max(size, 1)
