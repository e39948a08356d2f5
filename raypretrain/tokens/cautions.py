"""What of a corpus and a recipe somebody should know before money is spent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from raypretrain.corpus.manifest import Manifest
from raypretrain.corpus.sources import CorpusConfig
from raypretrain.tokens.window import SequencesConfig

# Muennighoff et al., Scaling Data-Constrained Language Models, 2023: up to 4 epochs are nearly as good as new text.
_REPEATS = 4
_LONG = 8  # sequences
_MUCH = 0.5
_DUPLICATES, _UNCOVERED = 0.05, 0.001
_LARGEST_PARTS = 2  # windows; what is larger comes in several parts


def warnings(
    figures: dict[str, Any], manifest: Manifest, corpus: CorpusConfig, sequences: SequencesConfig
) -> Iterator[str]:
    """One line for each thing, of the ``figures`` of :func:`~raypretrain.tokens.inspect.inspect`."""
    yield from _of_files(manifest, sequences)
    yield from _of_the_mixture(figures)
    yield from _of_text(figures, corpus, sequences)
    for row in figures["sources"]:
        if row["alone"]:
            yield (
                f"{row['alone']:.1%} of the sampled documents of source {row['name']} are in none of its clusters: "
                "each is taken as one of its own, in every epoch"
            )


def _of_files(manifest: Manifest, sequences: SequencesConfig) -> Iterator[str]:
    large = np.flatnonzero(manifest.bytes > _LARGEST_PARTS * sequences.window)
    if len(large):
        most = int(large[np.argmax(manifest.bytes[large])])
        file = manifest.files[int(manifest.file[most])]
        yield (
            f"{len(large)} files or row groups cannot be cut, and hold more text than {_LARGEST_PARTS} windows of "
            f"{sequences.window / 1e6:g} MB, the largest about {manifest.bytes[most] / 1e6:,.1f} MB ({file.url}): each "
            "is read by one task, and shuffled in parts; smaller ones would be read by several, and mix better"
        )


def _of_the_mixture(figures: dict[str, Any]) -> Iterator[str]:
    for row in figures["sources"]:
        if row["epochs"] > _REPEATS:
            yield f"source {row['name']} would be repeated {row['epochs']:.1f} times: give it less weight, or 'epochs'"
    budget, available, drawn = (figures[k] for k in ("training_tokens", "available_tokens", "drawn_tokens"))
    if drawn < budget * (1 - 1e-6):
        yield (
            f"the run wants {budget:,} tokens, and the sources' 'epochs' allow about {drawn:,}: it would end before"
        )
    elif budget > available:
        yield f"the run wants {budget:,} tokens, and the corpus has about {available:,}: text would be repeated"


def _of_text(figures: dict[str, Any], corpus: CorpusConfig, sequences: SequencesConfig) -> Iterator[str]:
    tokens = sum(row["tokens"] for row in figures["lengths"])
    long = sum(row["tokens"] for row in figures["lengths"] if row["from"] >= _LONG * sequences.length)
    if long > _MUCH * tokens and not sequences.crop:
        yield (
            f"{long / tokens:.0%} of the tokens are in documents of more than {_LONG} sequences of "
            f"{sequences.length}: the model sees them in pieces; a larger sequences.length would show it more at once"
        )
    if figures["bad_records"] and corpus.on_bad_input == "error":
        yield (
            f"bad records in the sample: {figures['bad_records']}; a run would end at the first one, unless "
            "corpus.on_bad_input: quarantine leaves them out"
        )
    if (share := figures["duplicates"]["documents"]) > _DUPLICATES:
        yield f"{share:.0%} of the sampled documents are copies of others among them"
    if (share := figures["uncovered"]["share"]) > _UNCOVERED:
        yield f"{share:.1%} of the characters are no piece of the tokenizer's: it suits other text"
    if corpus.held_out and not figures["held_out"]:
        yield "no document of the sample is held out: held-out loss may not be measured; raise corpus.held_out"
