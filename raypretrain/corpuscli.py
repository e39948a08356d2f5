"""The commands about corpora and tokenizers; as in ``cli.py``, each parses, calls one function, and prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raypretrain.cliparts import AsJson, Overrides, Recipe, count_of, show, show_line

tokenizer_app = typer.Typer(help="Tokenizers.", no_args_is_help=True, rich_markup_mode=None)
corpus_app = typer.Typer(help="Corpora.", no_args_is_help=True, rich_markup_mode=None)


@tokenizer_app.command("train")
def tokenizer_train(
    paths: Annotated[list[str], typer.Argument(help="Files, folders or globs of raw text; local or s3://.")],
    to: Annotated[Path, typer.Option("--to", help="The .model file to write.")],
    vocabulary: Annotated[str, typer.Option(help="Number of pieces, e.g. 16384 or 32K.")] = "16384",
    kind: Annotated[str, typer.Option(help="bpe or unigram.")] = "bpe",
    sample: Annotated[str, typer.Option(help="Bytes of text to train on, e.g. 20MB.")] = "20MB",
    text: Annotated[str, typer.Option(help="The key or column that holds the text.")] = "text",
    as_json: AsJson = False,
) -> None:
    """Train a SentencePiece tokenizer that is lossless on any text.

    \b
    Example:
      raypretrain tokenizer train 'data/*.jsonl.zst' --to tokenizer.model --vocabulary 16384
    """
    from raypretrain.tokens.commands import train_from_files

    result = train_from_files(paths, to, {"vocabulary": vocabulary, "kind": kind, "sample": sample}, text)
    show_line(
        result,
        as_json,
        "{path}: {vocabulary:,} pieces, {bytes_per_token:.2f} bytes a token on its own sample",
    )


@corpus_app.command("inspect")
def corpus_inspect(
    recipe: Recipe,
    overrides: Overrides = None,
    sample: Annotated[str, typer.Option(help="Bytes of text to read, e.g. 20MB.")] = "20MB",
    as_json: AsJson = False,
) -> None:
    """Say what the corpus of RECIPE holds, and what its run would make of it. Writes nothing, needs no Ray.

    \b
    Examples:
      raypretrain corpus inspect jobs/pretrain-small.yaml
      raypretrain corpus inspect jobs/pretrain-small.yaml --sample 200MB --json
    """
    from raypretrain.config import load_recipe
    from raypretrain.console import CopyView
    from raypretrain.corpusview import print_inspected
    from raypretrain.training.inspecting import inspect_corpus
    from raypretrain.training.recipe import PretrainRecipe

    size = count_of("--sample", sample)
    with CopyView() as view:
        found = inspect_corpus(load_recipe(recipe, PretrainRecipe, overrides or []), size, view.say)
    show(found, as_json, print_inspected)


@corpus_app.command("tokenize")
def corpus_tokenize(
    recipe: Recipe,
    to: Annotated[str, typer.Option("--to", metavar="URL", help="A folder, or s3://BUCKET/PREFIX.")],
    overrides: Overrides = None,
    steps: Annotated[str | None, typer.Option(help="Enough for so many steps; by default the run's.")] = None,
    endpoint_url: Annotated[
        str | None, typer.Option(help="Of an S3-compatible store that is not AWS.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write what a run of RECIPE would read as a tokenized copy; the same command again goes on where it stopped.

    \b
    Examples:
      raypretrain corpus tokenize jobs/pretrain-small.yaml --to copy
      raypretrain pretrain jobs/pretrain-small.yaml --set corpus.tokenized=copy
    """
    from raypretrain.config import load_recipe
    from raypretrain.console import CopyView
    from raypretrain.training.recipe import PretrainRecipe
    from raypretrain.training.tokenizing import tokenize

    number = count_of("--steps", steps) if steps is not None else None
    with CopyView() as view:
        loaded = load_recipe(recipe, PretrainRecipe, overrides or [])
        result = tokenize(loaded, to, view.watch, number, endpoint_url)
    line = (
        "{url}: {files} files, {steps:,} steps, {sequences:,} sequences, {tokens:,} tokens, {bytes:,} bytes"
    )
    show_line(result, as_json, line)
