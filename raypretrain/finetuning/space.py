"""Which trials a search consists of, decided before anything starts. Imports neither Ray nor torch."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, ValidationError, field_validator, model_validator

from raypretrain.config import Config, Count, nearest
from raypretrain.errors import RecipeError
from raypretrain.finetuning.adapt import AdaptConfig
from raypretrain.models.lora_config import LoraConfig

if TYPE_CHECKING:
    from raypretrain.finetuning.kinds.kind import Kind


KEYS = [
    *AdaptConfig.model_fields,
    *(f"lora.{name}" for name in LoraConfig.model_fields),
]
"""What of ``adapt`` a search can vary."""

CHANGEABLE = (
    "learning_rate", "head_learning_rate", "layer_decay", "weight_decay", "clip", "anchor", "replay_weight",
    "lora.dropout",
)  # fmt: skip
"""What can change in the middle of a trial: neither the weights' shapes, nor what they compute, nor the schedule."""


class Axis(Config):
    """The values that one key of ``adapt`` takes; exactly one of the four is given.

    Args:
        grid: each of them, combined with each of every other grid.
        choice: one of them, drawn anew for each sample.
        uniform: a number between the two, drawn anew for each sample.
        log_uniform: the same, evenly over the orders of magnitude.
    """

    grid: list[Any] | None = Field(default=None, min_length=1)
    choice: list[Any] | None = Field(default=None, min_length=1)
    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _one_is_given(self) -> Axis:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("give exactly one of grid, choice, uniform, log_uniform")
        for low, high in filter(None, (self.uniform, self.log_uniform)):
            if not low < high:
                raise ValueError(f"the range [{low:g}, {high:g}] is empty")
        if self.log_uniform and self.log_uniform[0] <= 0:
            raise ValueError("log_uniform wants bounds above zero")
        return self

    def draw(self, random: np.random.Generator) -> Any:
        """One value; only for an axis that is no grid."""
        if self.choice is not None:
            return self.choice[int(random.integers(len(self.choice)))]
        if self.uniform is not None:
            return float(random.uniform(*self.uniform))
        assert self.log_uniform is not None
        low, high = self.log_uniform
        return math.exp(random.uniform(math.log(low), math.log(high)))


class SearchConfig(Config):
    """What is tried, and what decides.

    Args:
        metric: what decides, as ``validation_accuracy``: on the validation set, so that the test set stays unseen;
            otherwise the usual one of each task's kind.
        space: a key of ``adapt`` → its values; they may as well stand at the key itself.
        trials: samples for each combination of the grids (more than 1 is of use only with a drawn axis).
        searcher: ``random`` draws all samples before anything starts. ``tpe`` lets the results so far decide what is
            drawn next, for each task and combination of the grids by itself.
        scheduler: ``asha`` stops trials early by successive halving, ``median`` those below the median of the others.
            Only trials of the same task, way and initialisation are compared with each other, so that a comparison
            between those stays fair. ``pbt``, population based training: after each epoch the worst trials go on
            from the state of the best, with the drawn keys changed; for each task and combination of the grids by
            itself.
        rival: measure TF-IDF with a linear model on the same examples, too.
        track: where the numbers of every epoch go as well.
        concurrency: how many trials run at once; ``auto`` is as many as the cluster has room for.
    """

    metric: str | None = None
    space: dict[str, Axis] = Field(default_factory=dict)
    trials: Count = Field(default=1, gt=0)
    searcher: Literal["random", "tpe"] = "random"
    scheduler: Literal["asha", "median", "pbt", "none"] = "none"
    rival: bool = True
    track: list[Literal["tensorboard", "mlflow", "wandb"]] = Field(default=[])
    concurrency: Count | Literal["auto"] = "auto"

    @field_validator("space")
    @classmethod
    def _known_keys(cls, space: dict[str, Axis]) -> dict[str, Axis]:
        for key in space:
            if key not in KEYS:
                guess = nearest(key, KEYS)
                hint = f"; did you mean '{guess}'?" if guess else ""
                raise ValueError(f"'{key}' is no key of adapt{hint}")
        return space

    @field_validator("concurrency")
    @classmethod
    def _some(cls, concurrency: int | str) -> int | str:
        if isinstance(concurrency, int) and concurrency < 1:
            raise ValueError("concurrency is at least 1, or auto")
        return concurrency

    @model_validator(mode="after")
    def _something_to_learn(self) -> SearchConfig:
        if self.searcher == "tpe":
            if not self.drawn:
                raise ValueError("searcher: tpe needs a key with choice, uniform or log_uniform to search in")
            fixed = sorted(self.drawn.keys() & {"seed", "examples", "length"})
            if fixed:
                raise ValueError(f"searcher: tpe cannot search '{fixed[0]}'; give it a grid")
        return self

    @model_validator(mode="after")
    def _a_population(self) -> SearchConfig:
        if self.scheduler != "pbt":
            return self
        if self.searcher == "tpe":
            raise ValueError(
                "scheduler: pbt changes what searcher: tpe would learn from; take searcher: random"
            )
        if not self.drawn:
            raise ValueError("scheduler: pbt needs a key with choice, uniform or log_uniform to change")
        fixed = sorted(self.drawn.keys() - set(CHANGEABLE))
        if fixed:
            raise ValueError(
                f"scheduler: pbt cannot change '{fixed[0]}' in the middle of a trial; give it a grid"
            )
        if self.concurrency != "auto":
            raise ValueError(
                "scheduler: pbt lets all trials of a population take turns; leave concurrency out"
            )
        return self

    @property
    def grids(self) -> dict[str, list[Any]]:
        """The keys of which each value is tried."""
        return {key: axis.grid for key, axis in self.space.items() if axis.grid is not None}

    @property
    def drawn(self) -> dict[str, Axis]:
        """The keys of which values are drawn."""
        return {key: axis for key, axis in self.space.items() if axis.grid is None}

    def metric_of(self, kind: Kind) -> str:
        """The metric that decides in tasks of a kind, without ``validation_``.

        Raises:
            RecipeError: the kind has no such metric.
        """
        known = kind.metrics
        name = next(iter(known)) if self.metric is None else self.metric.removeprefix("validation_")
        if name not in known:
            guess = nearest(name, known)
            hint = f"did you mean 'validation_{guess}'?" if guess else None
            some = ", ".join(f"validation_{key}" for key in known)
            raise RecipeError(f"search.metric: there is no '{self.metric}'", fix=hint or f"known: {some}")
        return name


def expand(adapt: AdaptConfig, search: SearchConfig, seed: int) -> list[AdaptConfig]:
    """Every trial of a search, in a fixed order; the same ``seed`` draws the same values.

    Trials that differ only in settings without effect (``AdaptConfig.effective``) are one trial. Of grids over ways and
    initialisations, adapters from scratch are left out: there are none.

    Raises:
        ValueError: a value of the space is not possible for its key.
    """
    random = np.random.default_rng(seed)
    grids, drawn = search.grids, search.drawn
    found: dict[str, AdaptConfig] = {}
    for cell in itertools.product(*grids.values()):
        for _ in range(search.trials):
            values = dict(zip(grids, cell, strict=True)) | {k: axis.draw(random) for k, axis in drawn.items()}
            if is_none(values, adapt):
                continue
            trial = changed(adapt, values)
            found.setdefault(json.dumps(trial.effective(), sort_keys=True), trial)
    return list(found.values())


def exchanges(adapt: AdaptConfig) -> bool:
    """Whether a trial has an epoch after which it could go on from another's state."""
    return adapt.way != "head" and adapt.epochs > 1


def population_of(adapt: AdaptConfig, drawn: Iterable[str]) -> str:
    """Of which population a trial is: those that differ in drawn keys alone are of one."""
    values = adapt.model_dump(mode="json")
    for key in drawn:
        *rooms, last = key.split(".")
        place = values
        for room in rooms:
            place = place[room]
        del place[last]
    return json.dumps(values, sort_keys=True)


def check_populations(trials: Sequence[AdaptConfig], search: SearchConfig) -> None:
    """Refuse ``scheduler: pbt`` where it has nothing to do, or could draw what is not possible.

    Raises:
        ValueError: with what to change.
    """
    sizes = Counter(population_of(adapt, search.drawn) for adapt in trials if exchanges(adapt))
    if max(sizes.values(), default=0) < 2:
        raise ValueError(
            "search.scheduler: pbt has nothing to exchange: it needs search.trials of 2 or more, and adapt.epochs too; "
            "way: head has one epoch"
        )
    for key, axis in search.drawn.items():
        for value in axis.choice or axis.uniform or axis.log_uniform or ():
            changed(trials[0], {key: value})


def is_none(values: dict[str, Any], adapt: AdaptConfig) -> bool:
    """Whether ``adapt`` with these values would be adapters from scratch: there are none."""
    way, init = values.get("way", adapt.way), values.get("init", adapt.init)
    return way == "lora" and init == "scratch"


def parted(adapt: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ``adapt`` of a recipe says, and the axes that stand in it: ``learning_rate: {grid: [1e-3, 1e-4]}``."""
    values: dict[str, Any] = {}
    axes: dict[str, Any] = {}
    for key, value in adapt.items():
        if isinstance(value, dict) and key == "lora":
            values[key], inside = parted(value)
            axes |= {f"{key}.{name}": axis for name, axis in inside.items()}
        elif isinstance(value, dict):
            axes[key] = value
        else:
            values[key] = value
    return values, axes


def value_of(adapt: AdaptConfig, key: str) -> Any:
    """Of a key, which may be dotted."""
    value: Any = adapt
    for part in key.split("."):
        value = getattr(value, part)
    return value


def changed(adapt: AdaptConfig, values: dict[str, Any]) -> AdaptConfig:
    """``adapt`` with other values of some keys, which may be dotted.

    Raises:
        ValueError: a value is not possible for its key.
    """
    whole = adapt.model_dump()
    for key, value in values.items():
        *rooms, last = key.split(".")
        place = whole
        for room in rooms:
            place = place[room]
        place[last] = value
    try:
        return AdaptConfig.model_validate(whole)
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(str(part) for part in detail["loc"])
        message = str(detail["msg"]).removeprefix("Value error, ")
        raise ValueError(f"space.{key}: {message} (got {values.get(key)!r})") from None
