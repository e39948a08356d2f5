"""A pretraining recipe as the planner takes it: without starting anything, and without its corpus if need be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from raypretrain.corpus.listing import list_corpus
from raypretrain.errors import InputError, RaypretrainError
from raypretrain.planning.choice import choose, options
from raypretrain.planning.hardware import Gpu
from raypretrain.planning.money import Prices
from raypretrain.planning.plan import Job, Machine, plan
from raypretrain.planning.wholerun import Rhythm
from raypretrain.training.length import run_length
from raypretrain.training.measured import calibrate
from raypretrain.training.planned import layout_of, network_of
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.vocabulary import given_tokenizer

BYTES_PER_TOKEN = 4.0
"""Of English text with vocabularies of 32 thousand pieces and more, roughly; ``corpus inspect`` measures it."""

FEWEST_BYTES_PER_TOKEN = 2.0
"""Of text in any language, roughly, with a vocabulary that was made for it: what is taken before a run is refused."""

SINGLE_BYTES = ("bytes", "amino-acids")
"""Kinds of tokenizers with a token for each byte."""

PACKED, UNPACKED = (".zst", ".gz", ".xz", ".parquet"), 3.0
"""Suffixes of compressed files, and what becomes of a byte of them: 2.5 to 4 of English text."""


@dataclass(frozen=True)
class Forecast:
    """A job, and what was assumed to make it.

    Args:
        assumed: a line for each.
    """

    job: Job
    assumed: list[str]


@dataclass(frozen=True)
class Limits:
    """What a run may cost, in dollars, and take, in seconds; None leaves it open."""

    budget: float | None = None
    deadline: float | None = None


def forecast(
    recipe: PretrainRecipe,
    gpu: Gpu,
    number: int | None,
    prices: Prices,
    limits: Limits | None = None,
    probed: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The plan of a recipe, with what was assumed for it among its guesses.

    Args:
        number: GPUs; None takes ``compute.workers``, or as many of 8 as share the global batch.
        limits: the settings are not the recipe's but the cheapest within them, or the fastest within a budget alone.
        probed: what a probe found on such GPUs.

    Raises:
        RaypretrainError: a base model or a tokenizer cannot be read, or what is asked for is impossible.
    """
    made = job_of(recipe, gpu)
    job, machine = made.job, machine_of(recipe, gpu, number, prices)
    if probed and probed["gpu"] != gpu.name:
        fix = f"give --gpu {probed['gpu']}"
        raise InputError(
            f"the probe ran on {probed['gpu']}, the plan is for {gpu.name}", where="--probe", fix=fix
        )
    if probed:
        machine = calibrate(machine, probed["predicted_over_measured"])
    choice = None
    if limits:
        within = choose(job, machine, limits.budget, limits.deadline, number)
        chosen = within["cheapest" if limits.deadline is not None else "fastest"]
        layout, machine = chosen.made.layout, chosen.machine
        job = replace(job, layout=layout, micro_batch=layout.micro_batch)
        choice = {name: option.said() for name, option in within.items()}
    found = plan(job, machine)
    offered = [one.as_dict() for one in options(job, machine)]
    return {
        **found,
        "options": offered,
        "choice": choice,
        "probe": probed,
        "guesses": made.assumed + found["guesses"],
    }


def machine_of(recipe: PretrainRecipe, gpu: Gpu, number: int | None, prices: Prices) -> Machine:
    """What a recipe runs on; see :func:`forecast`."""
    workers, batch = recipe.compute.workers, recipe.training.batches.first
    usual = workers if isinstance(workers, int) else max(n for n in range(1, 9) if batch % n == 0)
    return Machine(gpu=gpu, number=number or usual, prices=prices)


def job_of(recipe: PretrainRecipe, gpu: Gpu) -> Forecast:
    """The job of a recipe, as it would run on such GPUs.

    Raises:
        RaypretrainError: the recipe's base model or tokenizer cannot be read.
    """
    assumed: list[str] = []
    given = given_tokenizer(recipe)
    vocabulary = given.vocabulary if given else recipe.tokenizer.vocabulary
    shape = recipe.model.shape(vocabulary, recipe.sequences.length)
    length = run_length(recipe, shape.parameters)
    if not recipe.training.tokens and not recipe.training.steps:
        assumed.append("the recipe says no length: 20 tokens a parameter")
    if recipe.sequences.boundaries:
        assumed.append(
            "attention is counted over whole sequences: documents that do not see each other take less"
        )
    sizes = _bytes_of_sources(recipe, assumed)
    size = None if sizes is None else sum(sizes)
    if sizes is not None:
        _refuse_a_short_corpus(recipe, sizes, length.tokens())
    layout = layout_of(recipe, on_cpu=gpu.efficiency == "cpu")
    return Forecast(
        Job(
            network=network_of(shape),
            layout=layout,
            global_batch=recipe.training.global_batch,
            tokens=length.tokens(),
            rhythm=Rhythm(
                steps=length.steps,
                evaluate_every=length.evaluate_every,
                checkpoint_every=length.checkpoint_every,
                evaluation_share=recipe.training.evaluation.sequences / recipe.training.global_batch,
            ),
            kept=recipe.training.checkpoint.keep,
            corpus_bytes=size,
            corpus_tokens=None if size is None else round(size / _bytes_per_token(recipe, BYTES_PER_TOKEN)),
            micro_batch=recipe.compute.micro_batch,
        ),
        assumed,
    )


def _bytes_of_sources(recipe: PretrainRecipe, assumed: list[str]) -> list[int] | None:
    """Of each source's text, about; None where their files are not there, or lie in a store."""
    sources = recipe.corpus.sources
    unknown = "whether its tokens suffice is not known"
    if not sources or any("://" in source.path for source in sources):
        assumed.append(f"the corpus lies elsewhere and was not looked at: {unknown}")
        return None
    try:
        files = list_corpus(recipe.corpus)
    except RaypretrainError as error:
        assumed.append(f"the corpus is not here ({error.where}: {error.what}): {unknown}")
        return None
    sizes = [0] * len(sources)
    for file in files:
        sizes[file.source] += round(file.size * (UNPACKED if file.url.endswith(PACKED) else 1))
    if _bytes_per_token(recipe, BYTES_PER_TOKEN) != 1:
        assumed.append(f"{BYTES_PER_TOKEN:g} bytes a token: a guess; corpus inspect measures them")
    if any(file.url.endswith(PACKED) for file in files):
        assumed.append(f"compressed text is {UNPACKED:g} times as long: a guess")
    return sizes


def _bytes_per_token(recipe: PretrainRecipe, of_text: float) -> float:
    tokenizer = recipe.tokenizer
    return 1.0 if not tokenizer.path and tokenizer.kind in SINGLE_BYTES else of_text


def _refuse_a_short_corpus(recipe: PretrainRecipe, sizes: list[int], tokens: int) -> None:
    """Refuse a run that its sources' ``epochs`` end early, however few bytes a token has."""
    epochs = [source.epochs for source in recipe.corpus.sources]
    if any(limit is None for limit in epochs):
        return
    kept = (1 - recipe.corpus.held_out) / _bytes_per_token(recipe, FEWEST_BYTES_PER_TOKEN)
    most = sum(limit * size * kept for limit, size in zip(epochs, sizes, strict=True) if limit)
    if most < tokens:
        raise InputError(
            f"the corpus is too short: {sum(sizes):,} bytes, as often as 'epochs' allows, are at most "
            f"{most:,.0f} tokens, and the run has {tokens:,}",
            where="corpus.sources",
            fix="train on fewer tokens, allow more epochs, or add text",
        )
