"""What a search of fine-tuning would run, from its recipe alone: none of its files is read. No Ray, no torch."""

from __future__ import annotations

from collections import Counter
from typing import Any

from raypretrain.finetuning.recipe import FinetuneRecipe
from raypretrain.finetuning.space import exchanges, population_of, value_of


def dry_run(recipe: FinetuneRecipe) -> dict[str, Any]:
    """The trials of a search.

    Returns:
        ``run``, ``tasks``, ``searcher``, ``scheduler``, ``trials`` (of all tasks), ``settings``: of each trial of a
        task the keys that differ, and ``populations``: with ``scheduler: pbt``, how many trials each has.
    """
    search, trials = recipe.search, recipe.trials()
    learns = search.searcher == "tpe"  # what is drawn is not known before it has run
    keys = [*search.grids] if learns else [*search.space]
    sizes = Counter(population_of(adapt, search.drawn) for adapt in trials if exchanges(adapt))
    return {
        "run": recipe.run.folder,
        "tasks": [task.name for task in recipe.tasks],
        "searcher": search.searcher,
        "scheduler": search.scheduler,
        "trials": len(trials) * len(recipe.tasks),
        "settings": [{key: value_of(adapt, key) for key in keys} for adapt in trials],
        "populations": [*sizes.values()] * len(recipe.tasks) if search.scheduler == "pbt" else [],
    }
