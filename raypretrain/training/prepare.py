"""What a run needs before it starts: manifest, tokenizer, held-out text; made once, then read from its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from raypretrain.corpus.documents import check_columns, sample_documents
from raypretrain.corpus.listing import list_corpus as list_files
from raypretrain.corpus.manifest import Footers, Manifest, build_manifest
from raypretrain.errors import InputError, RecipeError, RunError
from raypretrain.models.shape import ModelShape
from raypretrain.storage import write_atomic
from raypretrain.tokens.infilling import check_infill
from raypretrain.tokens.mixture import densities, is_weighted
from raypretrain.tokens.objectives import Objective, make_objective
from raypretrain.tokens.tokenized import TokenizedWindows, fetch_companions
from raypretrain.tokens.tokenizer import Tokenizer, train_tokenizer
from raypretrain.tokens.window import Windows
from raypretrain.training.copies import copied_manifest, open_copy
from raypretrain.training.evaluation import HeldOut, held_out_sequences
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder
from raypretrain.training.vocabulary import given_tokenizer

Say = Callable[[str], None]

_FRAGMENTS_OF_A_WINDOW = 8
# Below this many bytes for each token of a batch, the corpus is read to see whether it fills one.
_SURELY_ENOUGH = 64


@dataclass(frozen=True)
class Prepared:
    """The corpus as the run reads it, and what it is evaluated on."""

    windows: Windows | TokenizedWindows
    held_out: HeldOut


def list_corpus(recipe: PretrainRecipe, footers: Footers | None = None) -> Manifest:
    """The manifest of the recipe's corpus, its text columns checked.

    Raises:
        InputError: no file matches, or a column is not there.
        StorageError: it cannot be read.
        RunError: it is a tokenized copy, and not one for this recipe.
    """
    if recipe.corpus.tokenized:
        return copied_manifest(open_copy(recipe), recipe)
    fragment = max(64_000, recipe.sequences.window // _FRAGMENTS_OF_A_WINDOW)
    manifest = build_manifest(recipe.corpus, fragment_bytes=fragment, footers=footers)
    check_columns(manifest, recipe.corpus)
    return manifest


def prepare(recipe: PretrainRecipe, folder: RunFolder, say: Say, footers: Footers | None = None) -> Prepared:
    """Make, or read from the run's folder, all that the stream needs.

    Args:
        footers: of :func:`~raypretrain.corpus.manifest.build_manifest`.

    Raises:
        RaypretrainError: the corpus cannot be read, is too small, or does not support the tokenizer.
    """
    if recipe.corpus.tokenized:
        return _prepare_copy(recipe, recipe.corpus.tokenized, folder, say)
    say("listing the corpus")
    if folder.manifest.is_file():
        manifest = Manifest.load(folder.manifest, recipe.corpus)
        _refuse_other_files(manifest, recipe, folder)
    else:
        manifest = list_corpus(recipe, footers)
        manifest.save(folder.manifest)
    tokenizer = make_tokenizer(recipe, manifest, folder, say)
    shares = _densities(recipe, manifest, tokenizer, folder, say)
    windows = Windows(manifest, recipe.corpus, recipe.sequences, tokenizer, recipe.run.seed, shares)
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


def _prepare_copy(recipe: PretrainRecipe, url: str, folder: RunFolder, say: Say) -> Prepared:
    """As :func:`prepare`, for a run that reads a tokenized copy of its corpus."""
    say("opening the tokenized copy")
    copy, options = open_copy(recipe), recipe.corpus.tokenized_options
    if not folder.held_out.is_file():
        fetch_companions(copy.companions, url, options, folder.corpus)
    manifest, tokenizer = Manifest.load(folder.manifest), Tokenizer.load(folder.tokenizer)
    if (manifest.fingerprint, tokenizer.fingerprint) != (copy.corpus, copy.tokenizer):
        raise RunError(
            "the copy is of another corpus or tokenizer than the run was started with",
            where=url,
            fix="give the copy that it was started with, or choose another run.folder",
        )
    return Prepared(TokenizedWindows(url, options, copy, manifest, tokenizer), HeldOut.load(folder.held_out))


def _refuse_other_files(manifest: Manifest, recipe: PretrainRecipe, folder: RunFolder) -> None:
    """Refuse to go on with a corpus of other files, unless the recipe says to keep to those that were listed."""
    if recipe.corpus.on_change == "keep":
        return
    differing = manifest.compare(list_files(recipe.corpus))
    if differing:
        raise RunError(
            f"the corpus is not the one that the run was started on: {'; '.join(differing)}",
            where=str(folder.path),
            fix="choose another run.folder for a new run, or go on with the files that were listed at its start by "
            "--set corpus.on_change=keep",
        )


def read_windows(recipe: PretrainRecipe, folder: RunFolder) -> Windows:
    """The windows of a run that was begun.

    Raises:
        RunError: it was not, its files are damaged, or its recipe names no text.
    """
    if not recipe.corpus.sources:
        what = "the run reads a tokenized copy, and its recipe does not say where the text is"
        raise RunError(what, where=str(folder.path), fix="leave corpus.sources in the recipe of such a run")
    manifest, tokenizer = Manifest.load(folder.manifest, recipe.corpus), Tokenizer.load(folder.tokenizer)
    shares = _densities(recipe, manifest, tokenizer, folder, lambda line: None)
    return Windows(manifest, recipe.corpus, recipe.sequences, tokenizer, recipe.run.seed, shares)


def _densities(
    recipe: PretrainRecipe, manifest: Manifest, tokenizer: Tokenizer, folder: RunFolder, say: Say
) -> list[float] | None:
    """The tokens of a byte of each source: from the run's folder, or measured; None where no weight needs them."""
    if not is_weighted(recipe.corpus):
        return None
    if folder.mixture.is_file():
        found: list[float] = json.loads(folder.mixture.read_text(encoding="utf-8"))["tokens_per_byte"]
        return found
    say("measuring the sources of the mixture")
    measured = densities(manifest, recipe.corpus, tokenizer, recipe.run.seed, recipe.sequences.longest)
    write_atomic(folder.mixture, json.dumps({"tokens_per_byte": measured}))
    return measured


def make_tokenizer(recipe: PretrainRecipe, manifest: Manifest, folder: RunFolder, say: Say) -> Tokenizer:
    """The run's tokenizer: from its folder, as the recipe names it, or trained on a sample of the corpus."""
    if folder.tokenizer.is_file():
        kept = Tokenizer.load(folder.tokenizer)
        check_tokenizer(recipe, kept)
        return kept
    given = given_tokenizer(recipe)
    if given:
        check_tokenizer(recipe, given)
        if given.added:
            last = range(given.vocabulary - given.added, given.vocabulary)
            say(f"note: the tokenizer gets {', '.join(map(given.token_name, last))}")
        if recipe.tokenizer.path and not given.lossless:
            say("note: this tokenizer does not keep every text as it is; bits per byte count the whole text")
        given.save(folder.corpus)
        return given
    size = recipe.tokenizer.sample
    say(
        f"training the tokenizer: {recipe.tokenizer.vocabulary:,} {recipe.tokenizer.kind} pieces from {size / 1e6:g} MB"
    )
    documents = sample_documents(manifest, recipe.corpus, size, recipe.run.seed)
    texts = (document.text for document in documents)
    return train_tokenizer(
        texts,
        recipe.tokenizer,
        folder.tokenizer,
        os.cpu_count() or 1,
        controls=recipe.marks,
    )


def objective_of(recipe: PretrainRecipe, tokenizer: Tokenizer) -> Objective:
    """What is learned of the sequences.

    Raises:
        InputError: the tokenizer lacks what that needs.
    """
    return make_objective(recipe.objective, recipe.training.mask, tokenizer, recipe.run.seed)


def check_tokenizer(recipe: PretrainRecipe, tokenizer: Tokenizer) -> None:
    """See that the tokenizer has the special tokens that the recipe needs.

    Raises:
        InputError: it has not.
    """
    check_infill(recipe.sequences.infill, tokenizer)
    objective_of(recipe, tokenizer)


def _refuse_too_small(windows: Windows, recipe: PretrainRecipe) -> None:
    batch, length = recipe.training.global_batch, recipe.sequences.length
    text = int(np.sum(windows.manifest.bytes))
    if text < batch * length * _SURELY_ENOUGH and not windows.fills(batch):
        raise InputError(
            f"the corpus ({text:,} bytes) is smaller than one batch ({batch} sequences of {length} tokens)",
            where="corpus.sources",
            fix="give more text, or a smaller training.global_batch or sequences.length",
        )


def check_weight_groups(recipe: PretrainRecipe, shape: ModelShape) -> None:
    """See that every pattern of ``training.weight_groups`` fits a weight.

    Raises:
        RecipeError: one does not.
    """
    groups = recipe.training.weight_groups
    if not groups:
        return
    from raypretrain.models.layout import expected_shapes

    names = list(expected_shapes(shape))
    for number, group in enumerate(groups):
        if not any(fnmatchcase(name, group.parameters) for name in names):
            raise RecipeError(
                f"no weight's name fits '{group.parameters}'",
                where=f"training.weight_groups.{number}.parameters",
                fix=f"names are such as {', '.join(names[:3])}, {names[-1]}",
            )
