"""The commands of fine-tuning; as in ``cli.py``, each parses, calls one function, and prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from raypretrain.cliparts import AsJson, Overrides, Recipe, show
from raypretrain.errors import InputError


def finetune(recipe: Recipe, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Fine-tune one model for each task of RECIPE, in this process.

    \b
    Example:
      raypretrain finetune jobs/finetune-sentiment.yaml --set base.path=runs/pretrain-small/model
    """
    from raypretrain.config import load_recipe
    from raypretrain.finetuning.finetune import finetune as run
    from raypretrain.finetuning.recipe import FinetuneRecipe
    from raypretrain.tuneview import SearchView, print_finetuned

    loaded = load_recipe(recipe, FinetuneRecipe, overrides or [])
    with SearchView() as view:
        result = run(loaded, view.watch)
    show(result, as_json, print_finetuned)


def search(
    recipe: Recipe,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Of a search over fine-tuning: print its trials, touch nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fan trials out from one base model with Ray Tune; the best of each task is released.

    Of a recipe for pretraining, trials are short runs, one after the other; the best is continued in full.
    The same command again runs only what has no result yet.

    \b
    Examples:
      raypretrain search jobs/search-sentiment.yaml --set base.path=runs/pretrain-small/model
      raypretrain search jobs/search-pretraining.yaml
    """
    from raypretrain.sweeps.recipe import is_pretraining

    if is_pretraining(recipe):
        if dry_run:
            raise InputError(
                "a search of pretraining has no dry run", where=str(recipe), fix="leave --dry-run out"
            )
        _sweep(recipe, overrides or [], as_json)
        return
    from raypretrain.config import load_recipe
    from raypretrain.finetuning.recipe import FinetuneRecipe

    loaded = load_recipe(recipe, FinetuneRecipe, overrides or [])
    if dry_run:
        from raypretrain.finetuning.dryrun import dry_run as resolve
        from raypretrain.tuneview import print_planned

        show(resolve(loaded), as_json, print_planned)
        return
    from raypretrain.finetuning.search import search as run
    from raypretrain.training.cluster import connect
    from raypretrain.tuneview import SearchView, print_search

    with SearchView() as view:
        result = run(loaded, view.watch, connect=lambda: connect(None))
    show(vars(result), as_json, lambda values: print_search(result))


def _sweep(recipe: Path, overrides: list[str], as_json: bool) -> None:
    from raypretrain.config import load_recipe
    from raypretrain.sweeps.recipe import SweepRecipe
    from raypretrain.sweeps.sweep import sweep
    from raypretrain.tuneview import SweepView, print_sweep

    loaded = load_recipe(recipe, SweepRecipe, overrides)
    with SweepView() as view:
        result = sweep(loaded, view.watch)
    values = {"rows": result.rows, "best": result.best, "run": str(result.run), **result.paths}
    show(values, as_json, lambda values: print_sweep(result))
    if result.signal:
        raise typer.Exit(128 + result.signal)


def report(
    folder: Annotated[Path, typer.Argument(help="The folder of fine-tuning or of a search.", metavar="RUN")],
    as_json: AsJson = False,
) -> None:
    """Write RUN/report.html anew from its results.

    \b
    Example:
      raypretrain report runs/search-sentiment
    """
    from raypretrain.finetuning.report import write_report

    path = str(write_report(folder))
    show({"report": path}, as_json, lambda values: print(path))


def predict(
    model: Annotated[Path, typer.Argument(help="The folder of a released model.", metavar="MODEL")],
    files: Annotated[str, typer.Argument(help="A file, a folder or a glob; - is one text from stdin.")],
    to: Annotated[str | None, typer.Option("--to", metavar="OUT", help="The .jsonl file to write.")] = None,
    text: Annotated[str, typer.Option(help="The column of the text.")] = "text",
    pair: Annotated[str | None, typer.Option(help="The column of a second text.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="New tokens of an answer, at most.")] = 200,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="That the model is loaded in; by default one for each GPU or CPU."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a released model about every row of FILES, with Ray Data, or about one text from stdin.

    Written is a JSON line for each row: the row, and as `predicted` its label, labels, value, tags, embedding or
    answer.

    \b
    Examples:
      raypretrain predict runs/search-sentiment/best/sentiment data/reviews.csv --to scored.jsonl
      echo "A fine film." | raypretrain predict runs/search-sentiment/best/sentiment -
    """
    from raypretrain.finetuning.predict import Predictor, as_line

    if files == "-":
        asked = sys.stdin.read().strip()
        if not asked:
            raise InputError("the text is empty", where="stdin")
        print(as_line(Predictor(str(model), tokens)([asked])[0]))
        return
    if to is None:
        raise typer.BadParameter("--to says which file is to be written; give it")
    from raypretrain.console import CopyView
    from raypretrain.finetuning.predicting import predict_files
    from raypretrain.finetuning.rows import LabelledFile
    from raypretrain.training.cluster import connect

    file = LabelledFile(path=files, text=text, pair=pair)
    with CopyView() as view:
        connect(None)
        rows = predict_files(str(model), file, to, processes=processes, length=tokens, say=view.say)
    show({"rows": rows, "to": to}, as_json, lambda values: print(f"{rows:,} rows: {to}"))
