"""The recipe of fine-tuning: a base model, tasks, and how trials adapt the one to the others."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from raypretrain.config import Config, Count, Location
from raypretrain.errors import RecipeError
from raypretrain.finetuning.adapt import AdaptConfig
from raypretrain.finetuning.base import BaseConfig
from raypretrain.finetuning.space import SearchConfig, check_populations, expand, parted
from raypretrain.finetuning.tasks import TaskConfig

Precision = Literal["fp32", "bf16"]


class FolderConfig(Config):
    """Where results go.

    Args:
        folder: the run's folder; every node of the cluster must see it.
        seed: of the values that a search draws.
    """

    folder: Location = "runs/finetune"
    seed: int = Field(default=0, ge=0)


class TrialCompute(Config):
    """What one trial takes; several run at once while there is room.

    Args:
        cpus_per_trial, gpus_per_trial: of all its workers together.
        workers_per_trial: processes that share each batch of a trial.
        zero: DeepSpeed's ZeRO stage, where there are several.
        precision: what the network computes in; None takes bf16 on GPUs, and else fp32.
        gradient_checkpointing: ``full`` keeps of each layer its input alone for the backward pass.
    """

    cpus_per_trial: float = Field(default=1, gt=0)
    gpus_per_trial: float = Field(default=0, ge=0)
    workers_per_trial: Count = Field(default=1, gt=0)
    zero: Literal[0, 1, 2, 3] = 1
    precision: Precision | None = None
    gradient_checkpointing: Literal["none", "full"] = "none"

    @model_validator(mode="after")
    def _a_gpu_each(self) -> TrialCompute:
        workers, gpus = self.workers_per_trial, self.gpus_per_trial
        if workers > 1 and gpus not in (0, workers):
            raise ValueError(
                f"{workers} workers take a GPU each: set gpus_per_trial to {workers}, or to 0, not {gpus:g}"
            )
        return self

    @property
    def of_a_worker(self) -> tuple[float, float]:
        """CPUs and GPUs."""
        return self.cpus_per_trial / self.workers_per_trial, self.gpus_per_trial / self.workers_per_trial

    @property
    def computes_in(self) -> Precision:
        """The precision of every trial."""
        return self.precision or ("bf16" if self.gpus_per_trial else "fp32")

    def refuse_unshared(self, adapt: AdaptConfig) -> None:
        """Refuse a trial that the workers cannot share.

        Raises:
            ValueError: with what would do.
        """
        workers = self.workers_per_trial
        if workers == 1 or adapt.way == "head":  # which has no steps, and is solved for by one of them
            return
        if adapt.batch < workers:
            raise ValueError(
                f"{workers} workers (compute.workers_per_trial) cannot share a batch of {adapt.batch}; "
                "raise adapt.batch, or take fewer workers"
            )
        if adapt.held.anchor and self.zero:
            raise ValueError(
                f"adapt.anchor pulls whole weights, and zero: {self.zero} keeps them in parts; set compute.zero: 0"
            )
        if adapt.held.anchor and self.computes_in == "bf16":
            raise ValueError(
                "adapt.anchor pulls whole weights, and of bf16 several workers keep them in parts; "
                "set compute.precision: fp32, or take one worker"
            )


class FinetuneRecipe(Config):
    """What ``raypretrain finetune`` and ``raypretrain search`` are given."""

    # Not an instance: the default folder follows from the recipe's file, so it has to be validated with it.
    run: FolderConfig = Field(default_factory=dict, validate_default=True)
    base: BaseConfig
    tasks: list[TaskConfig] = Field(min_length=1)
    adapt: AdaptConfig = AdaptConfig()
    search: SearchConfig = SearchConfig()
    compute: TrialCompute = TrialCompute()

    @model_validator(mode="before")
    @classmethod
    def _axes_where_they_belong(cls, values: Any) -> Any:
        """An axis in ``adapt`` is one of the search's space."""
        if not isinstance(values, dict) or not isinstance(values.get("adapt"), dict):
            return values
        adapt, axes = parted(values["adapt"])
        if not axes:
            return values
        search = values.get("search") or {}
        if not isinstance(search, dict) or not isinstance(space := search.get("space") or {}, dict):
            return values
        twice = sorted(axes.keys() & space.keys())
        if twice:
            raise ValueError(f"'{twice[0]}' has values in adapt and in search.space; take one of them out")
        return values | {"adapt": adapt, "search": search | {"space": axes | space}}

    @model_validator(mode="after")
    def _consistent(self) -> FinetuneRecipe:
        names = [task.name for task in self.tasks]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two tasks are named '{name}'")
        trials = self.trials()
        if self.search.scheduler == "pbt":
            if self.compute.workers_per_trial > 1:
                raise RecipeError(
                    "search.scheduler: pbt wants trials of one process, which can go on from another's state",
                    where="compute.workers_per_trial",
                    fix="set it to 1, or take another scheduler",
                )
            check_populations(trials, self.search)
        for adapt in trials:
            self.compute.refuse_unshared(adapt)
        return self

    def trials(self) -> list[AdaptConfig]:
        """The trials of a search on each task."""
        return expand(self.adapt, self.search, self.run.seed)
