"""The text of a base model: what shows how much a trial forgot, and what is replayed against it. Imports no torch.

It is that of the run that pretrained the base, held-out sequences and training text, or files that stand for it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, model_validator

from raypretrain.config import Config, Count, Location
from raypretrain.corpus.documents import check_columns
from raypretrain.corpus.manifest import build_manifest
from raypretrain.corpus.sources import CorpusConfig, SourceConfig
from raypretrain.errors import InputError, RecipeError, RunError
from raypretrain.models.shape import ModelShape
from raypretrain.tokens.mixture import densities, is_weighted
from raypretrain.tokens.objectives import MaskConfig, Objective, make_objective
from raypretrain.tokens.packing import Sequences
from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.tokens.window import SequencesConfig, Windows

if TYPE_CHECKING:  # they import torch
    from raypretrain.training.evaluation import HeldOut

SEQUENCES, LENGTH, HELD_OUT = 256, 512, 0.05
_SEED = 0  # of the held-out text of files, and of the tokens that are hidden in it: the same in every search
_REPLAY = 9  # keeps the order of the windows that are replayed apart from other draws
_COMPARED = 16  # sequences from which two tokenizers are told apart
_FRAGMENT = 500_000  # bytes


class BaseTextConfig(Config):
    """Where the text is: one of ``run``, ``path`` and ``sources``.

    Args:
        run: the folder of the run that pretrained the base. What it was evaluated on measures, as many sequences and
            as long as there; what it was trained on is replayed.
        path: files of text, of any format that a corpus has, that stand for what the base learned from.
        sources: the same in full, as of a corpus.
        held_out: the share of their documents that measures and is never replayed, by a hash; a run has its own.
        sequences: so many held-out ones, evenly over the sources; a run has its own.
        overlap: with ``run``, count the test texts of each task that stand in its corpus, which is read once for it.
        length: tokens of a sequence, otherwise 512, or what the base has positions for; a run has its own.
    """

    run: Location | None = None
    path: Location | None = None
    sources: list[SourceConfig] = Field(default=[])
    held_out: float | None = Field(default=None, gt=0, lt=0.5)
    sequences: Count | None = Field(default=None, ge=1)
    length: Count | None = Field(default=None, ge=8)
    overlap: bool = True

    @model_validator(mode="after")
    def _names_one_text(self) -> BaseTextConfig:
        given = [name for name in ("run", "path", "sources") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"give one of run, path and sources, not {' and '.join(given) or 'none'}")
        own = [name for name in ("held_out", "sequences", "length") if getattr(self, name) is not None]
        if self.run and own:
            raise ValueError(f"a run has its own '{own[0]}'; take it out")
        return self

    def corpus(self) -> CorpusConfig:
        """The files as a corpus."""
        sources = self.sources or [SourceConfig(path=self.path or "")]
        return CorpusConfig(sources=sources, held_out=self.held_out or HELD_OUT)


@dataclass(frozen=True)
class BaseText:
    """Text as sequences: NumPy arrays alone, which trials share without a copy.

    Args:
        held_out: to measure on; at least one sequence.
        names: of the sources, all different, by their place.
        objective: what the base learned to predict of it.
        boundaries: whether a token sees its own document alone.
        replay: training sequences, none of a held-out document. So many as were asked for, or as there are; a larger
            number begins with the same ones.
        replayed: what these follow from.
    """

    held_out: HeldOut
    names: tuple[str, ...]
    objective: Objective
    boundaries: bool
    replay: Sequences | None = None
    replayed: str = ""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what is measured on it, and of what is replayed, however much of it."""
        from raypretrain.training.evaluation import examples

        digest = hashlib.sha256(f"{self.boundaries} {self.replayed}".encode())
        for values in examples(self.held_out, self.objective):
            digest.update(np.ascontiguousarray(values, "<i8").tobytes())
        return digest.hexdigest()


def read_base_text(
    config: BaseTextConfig, folder: Path, shape: ModelShape, *, replay: int = 0, seed: int = 0
) -> BaseText:
    """Read the text, the training text only where any is to be replayed.

    Args:
        folder: of the base model, with its tokenizer.
        shape: of the base model.
        replay: so many sequences to replay, at most; no more of the text is read than that takes.
        seed: of which these are.

    Raises:
        RunError: there is no such run, or it has no held-out text.
        InputError: files that cannot be used; a run of another objective or tokenizer; too little text.
        RecipeError: sequences that are longer than the base has positions.
        StorageError: files that cannot be read.
    """
    where = config.run or config.path or config.sources[0].path
    text, windows = _of_run(Path(where), folder, shape) if config.run else _of_files(config, folder, shape)
    if not replay:
        return text
    found = windows()
    drawn = list(_draw(found, replay, seed))
    if not drawn:
        what = f"no text to replay: nothing fills a sequence of {found.sequences.length} tokens"
        raise InputError(what, where=where, fix="give more text")
    origin = f"{found.manifest.fingerprint} {found.tokenizer.fingerprint} {found.seed} {seed} "
    origin += found.sequences.model_dump_json()
    return replace(text, replay=Sequences.concatenate(drawn), replayed=origin)


def _of_run(path: Path, base: Path, shape: ModelShape) -> tuple[BaseText, Callable[[], Windows]]:
    from raypretrain.training.evaluation import HeldOut
    from raypretrain.training.prepare import objective_of, read_windows
    from raypretrain.training.runfolder import RunFolder

    folder = RunFolder(path)
    recipe = folder.read_recipe()
    held_out = HeldOut.load(folder.held_out) if folder.held_out.is_file() else None
    if held_out is None or not len(held_out.tokens):
        fix = "give another run, or files that stand for its text by path"
        raise RunError("the run has no held-out text", where=str(path), fix=fix)
    tokenizer = Tokenizer.load(folder.tokenizer)
    if recipe.objective != shape.objective:
        what = f"the run's model learned the {recipe.objective} objective, and the base model the {shape.objective} one"
        raise InputError(what, where=str(path), fix="give the run that the base model is of")
    _refuse_other_tokenizer(tokenizer, Tokenizer.load(base), held_out, str(path))
    _check_length(held_out.tokens.shape[1], shape, str(path))
    names, objective = _names(recipe.corpus), objective_of(recipe, tokenizer)
    text = BaseText(held_out, names, objective, recipe.sequences.boundaries)
    return text, lambda: read_windows(recipe, folder)


def _of_files(
    config: BaseTextConfig, base: Path, shape: ModelShape
) -> tuple[BaseText, Callable[[], Windows]]:
    from raypretrain.training.evaluation import held_out_sequences

    corpus, tokenizer = config.corpus(), Tokenizer.load(base)
    length = config.length or min(LENGTH, shape.max_length)
    _check_length(length, shape, str(base))
    objective = make_objective(shape.objective, MaskConfig(), tokenizer, _SEED)
    manifest = build_manifest(corpus, fragment_bytes=_FRAGMENT)
    check_columns(manifest, corpus)
    shares = densities(manifest, corpus, tokenizer, _SEED) if is_weighted(corpus) else None
    windows = Windows(manifest, corpus, SequencesConfig(length=length), tokenizer, _SEED, shares)
    held_out = held_out_sequences(windows, config.sequences or SEQUENCES)
    if not len(held_out.tokens):
        what = (
            f"the {corpus.held_out:g} of the documents that are held out fill no sequence of {length} tokens"
        )
        fix = "give more text or a larger held_out; of a .txt file, sources can make each line a document"
        raise InputError(what, where=corpus.sources[0].path, fix=fix)
    return BaseText(held_out, _names(corpus), objective, boundaries=True), lambda: windows


def _draw(windows: Windows, count: int, seed: int) -> Iterator[Sequences]:
    """So many training sequences of one epoch, or all of it: windows in a seeded order, each of them whole."""
    order = np.random.default_rng([seed, _REPLAY]).permutation(windows.plan.windows_of_an_epoch)
    for w in order.tolist():
        for part in windows.parts(w):
            if taken := part.sequences[:count]:
                yield taken
            count -= len(taken)
            if not count:
                return


def _names(corpus: CorpusConfig) -> tuple[str, ...]:
    """Of the sources; one that several have gets its place."""
    names = [corpus.source_name(i) for i in range(len(corpus.sources))]
    counts = Counter(names)
    return tuple(f"{name}-{i}" if counts[name] > 1 else name for i, name in enumerate(names))


def _refuse_other_tokenizer(run: Tokenizer, base: Tokenizer, held_out: HeldOut, where: str) -> None:
    """Refuse a run whose ids mean something else to the base: its own text is encoded by both."""
    rows = held_out.tokens[:: -(-len(held_out.tokens) // _COMPARED)].tolist()
    texts = [run.decode(row) for row in rows]
    same = all(map(np.array_equal, run.encode_batch(texts), base.encode_batch(texts)))
    if not same or (run.bos, run.eos, run.mask) != (base.bos, base.eos, base.mask):
        raise InputError(
            "the run's tokenizer is not the base model's: it makes other tokens of the run's text",
            where=where,
            fix="give the run that the base model is of, or files that stand for its text by path",
        )


def _check_length(length: int, shape: ModelShape, where: str) -> None:
    if length > shape.max_length:
        what = f"sequences of {length} tokens, but the base model has {shape.max_length} positions"
        raise RecipeError(what, where=where, fix="give a smaller length, or another run")
