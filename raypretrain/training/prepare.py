"""What a run needs before it starts: manifest, tokenizer, held-out text; made once, then read from its folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from raypretrain.corpus.documents import check_columns, sample_documents
from raypretrain.corpus.manifest import Manifest, build_manifest
from raypretrain.errors import InputError
from raypretrain.tokens.tokenizer import Tokenizer, train_tokenizer
from raypretrain.tokens.window import Windows
from raypretrain.training.evaluation import HeldOut, held_out_sequences
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder

Say = Callable[[str], None]

_FRAGMENTS_OF_A_WINDOW = 8
# Below this many bytes for each token of a batch, the corpus is read to see whether it fills one.
_SURELY_ENOUGH = 64


@dataclass(frozen=True)
class Prepared:
    """The corpus as the run reads it, and what it is evaluated on."""

    windows: Windows
    held_out: HeldOut


def list_corpus(recipe: PretrainRecipe) -> Manifest:
    """The manifest of the recipe's corpus, its text columns checked.

    Raises:
        InputError: no file matches, or a column is not there.
        StorageError: it cannot be read.
    """
    fragment = max(64_000, recipe.sequences.window // _FRAGMENTS_OF_A_WINDOW)
    manifest = build_manifest(recipe.corpus, fragment_bytes=fragment)
    check_columns(manifest, recipe.corpus)
    return manifest


def prepare(recipe: PretrainRecipe, folder: RunFolder, say: Say) -> Prepared:
    """Make, or read from the run's folder, all that the stream needs.

    Raises:
        RaypretrainError: the corpus cannot be read, is too small, or does not support the tokenizer.
    """
    say("listing the corpus")
    if folder.manifest.is_file():
        manifest = Manifest.load(folder.manifest)
    else:
        manifest = list_corpus(recipe)
        manifest.save(folder.manifest)
    tokenizer = make_tokenizer(recipe, manifest, folder, say)
    windows = Windows(manifest, recipe.corpus, recipe.sequences, tokenizer, recipe.run.seed)
    if folder.held_out.is_file():
        return Prepared(windows, HeldOut.load(folder.held_out))
    _ = windows.plan  # refuses a source without text, before a task of the stream would
    _refuse_too_small(windows, recipe)
    say("choosing the held-out text")
    held_out = held_out_sequences(windows, recipe.training.evaluation.sequences)
    if not len(held_out.tokens):
        say(
            "note: no held-out text fills a sequence, so held-out loss is not measured; raise corpus.held_out"
        )
    held_out.save(folder.held_out)
    return Prepared(windows, held_out)


def make_tokenizer(recipe: PretrainRecipe, manifest: Manifest, folder: RunFolder, say: Say) -> Tokenizer:
    """The run's tokenizer: from its folder, from ``tokenizer.path``, or trained on a sample of the corpus."""
    if folder.tokenizer.is_file():
        return Tokenizer.load(folder.tokenizer)
    if recipe.tokenizer.path:
        tokenizer = Tokenizer.load(recipe.tokenizer.path)
        if not tokenizer.lossless:
            raise InputError(
                "this tokenizer loses text (spaces, lines or rare characters)",
                where=recipe.tokenizer.path,
                fix="train one with 'raypretrain tokenizer train', or leave tokenizer.path out",
            )
        tokenizer.save(folder.corpus)
        return tokenizer
    size = recipe.tokenizer.sample
    say(
        f"training the tokenizer: {recipe.tokenizer.vocabulary:,} {recipe.tokenizer.kind} pieces from {size / 1e6:g} MB"
    )
    documents = sample_documents(manifest, recipe.corpus, size, recipe.run.seed)
    texts = (document.text for document in documents)
    return train_tokenizer(texts, recipe.tokenizer, folder.tokenizer, threads=os.cpu_count() or 1)


def _refuse_too_small(windows: Windows, recipe: PretrainRecipe) -> None:
    batch, length = recipe.training.global_batch, recipe.sequences.length
    text = int(np.sum(windows.manifest.bytes))
    if text < batch * length * _SURELY_ENOUGH and not windows.fills(batch):
        raise InputError(
            f"the corpus ({text:,} bytes) is smaller than one batch ({batch} sequences of {length} tokens)",
            where="corpus.sources",
            fix="give more text, or a smaller training.global_batch or sequences.length",
        )
