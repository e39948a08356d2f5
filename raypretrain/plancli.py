"""The command that says what a recipe will need; as in ``cli.py``, it parses, calls one function, and prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raypretrain.cliparts import AsJson, Overrides, Recipe, show

if TYPE_CHECKING:
    from raypretrain.planning.hardware import Gpu
    from raypretrain.planning.money import Prices


def plan(
    recipe: Recipe,
    overrides: Overrides = None,
    gpu: Annotated[
        str, typer.Option("--gpu", help="A name, or NAME,tflops=…,memory=…,bandwidth=…; cpu is a core.")
    ] = "h100",
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=1, help="How many; by default compute.workers, or up to 8.")
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="Between nodes, e.g. infiniband-ndr, efa-p4d, ethernet-100.")
    ] = None,
    price: Annotated[float | None, typer.Option(help="Dollars of a GPU-hour.")] = None,
    kwh: Annotated[float | None, typer.Option(help="Dollars of a kWh.")] = None,
    spot: Annotated[bool, typer.Option("--spot", help="On nodes that may be taken away.")] = False,
    budget: Annotated[
        float | None, typer.Option(help="Dollars; choose the GPUs and settings within them.")
    ] = None,
    deadline: Annotated[
        str | None, typer.Option(help="E.g. 12h or 5d; choose the cheapest that keeps it.")
    ] = None,
    fit: Annotated[
        list[str] | None,
        typer.Option(
            "--fit", metavar="RUN", help="A finished run, or a glob of some; predict the loss from them."
        ),
    ] = None,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Train 20 steps on the cluster first, and plan with what they took."),
    ] = False,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="PRESET", help="In place of a base model that is not there yet."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write it as a page as well.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what RECIPE will need before it starts: does it fit, how long, how much. Starts nothing, needs no GPU.

    \b
    Examples:
      raypretrain plan jobs/pretrain-small.yaml --gpu cpu
      raypretrain plan jobs/pretrain-small.yaml --set model.preset=llama-8b --gpu h100 --gpus 64 --price 2.5
      raypretrain plan jobs/pretrain-small.yaml --set model.preset=llama-1b --budget 10000 --deadline 5d
      raypretrain plan jobs/pretrain-small.yaml --set model.preset=llama-100m --fit 'runs/small-*'
      raypretrain plan jobs/search-sentiment.yaml --gpu cpu --gpus 2 --base llama-3m
    """
    from raypretrain.config import keys_of
    from raypretrain.planning.choice import parse_duration
    from raypretrain.planning.hardware import find_gpu, with_network
    from raypretrain.planning.money import Prices
    from raypretrain.planview import print_plan

    chosen, prices = with_network(find_gpu(gpu), network), Prices.given(price, kwh, spot)
    seconds = parse_duration(deadline) if deadline else None
    keys = keys_of(recipe)
    alone = probe or budget is not None or deadline
    if (alone and keys & {"tasks", "search"}) or (fit and "tasks" in keys):
        raise typer.BadParameter(
            "--probe, --budget and --deadline are for recipes of pretraining without a search, --fit for any of them"
        )
    given = overrides or []
    if base and "tasks" not in keys:  # it would go on with AdamW, as a base model does by default
        given = ["training.optimizer=adamw", *given, f"model={{preset: {base}}}"]
    if "tasks" in keys:
        found = _of_finetuning(recipe, given, chosen, gpus, prices, base)
    elif "search" in keys:
        found = _of_search(recipe, given, chosen, gpus, prices)
    else:
        found = _of_pretraining(recipe, given, chosen, gpus, prices, (budget, seconds), probe)
    if fit:
        from raypretrain.training.smallruns import predicted_loss

        found["fit"] = predicted_loss(fit, found["model"]["parameters"], found["data"]["tokens"])
    if html:
        from raypretrain.planpage import write_page

        write_page({"recipe": str(recipe), **found}, html)
    show({"recipe": str(recipe), **found}, as_json, print_plan)


def _of_finetuning(
    recipe: Path, overrides: list[str], gpu: Gpu, number: int | None, prices: Prices, base: str | None
) -> dict[str, Any]:
    from raypretrain.config import load_recipe
    from raypretrain.finetuning.forecast import forecast
    from raypretrain.finetuning.recipe import FinetuneRecipe

    return forecast(load_recipe(recipe, FinetuneRecipe, overrides), gpu, number, prices, base)


def _of_search(
    recipe: Path, overrides: list[str], gpu: Gpu, number: int | None, prices: Prices
) -> dict[str, Any]:
    from raypretrain.config import load_recipe
    from raypretrain.sweeps.forecast import forecast
    from raypretrain.sweeps.recipe import SweepRecipe

    return forecast(load_recipe(recipe, SweepRecipe, overrides), gpu, number, prices)


def _of_pretraining(
    recipe: Path,
    overrides: list[str],
    gpu: Gpu,
    number: int | None,
    prices: Prices,
    within: tuple[float | None, float | None],
    probe: bool,
) -> dict[str, Any]:
    from raypretrain.config import load_recipe
    from raypretrain.training.forecast import Limits, forecast
    from raypretrain.training.recipe import PretrainRecipe

    loaded, probed = load_recipe(recipe, PretrainRecipe, overrides), None
    if probe:
        from raypretrain.console import PretrainView
        from raypretrain.training.probe import probe as measure

        with PretrainView() as view:
            probed = measure(loaded, view.watch)
    limits = Limits(*within) if within != (None, None) else None
    return forecast(loaded, gpu, number, prices, limits, probed)
