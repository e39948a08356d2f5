"""The recipe of a pretraining run: its rooms, how they go together, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from raypretrain.config import Config, Count, Location, flatten, resolve_path
from raypretrain.corpus.sources import CorpusConfig
from raypretrain.errors import RecipeError
from raypretrain.models.config import ModelConfig
from raypretrain.tokens.tokenizer import TokenizerConfig
from raypretrain.tokens.window import SequencesConfig
from raypretrain.training.guard import GuardConfig
from raypretrain.training.schedule import ScheduleConfig


class RunFolderConfig(Config):
    """Where the run lives, and what its randomness starts from."""

    folder: Location = Field(
        default="", description="the run's folder; by default runs/NAME beside the recipe"
    )
    seed: int = Field(default=0, ge=0)

    @field_validator("folder", mode="after")
    @classmethod
    def _beside_the_recipe(cls, folder: str, info: ValidationInfo) -> str:
        if "://" in folder:
            raise ValueError("a run's folder is a local or shared path, not a URL")
        name = (info.context or {}).get("name", "run")
        return folder or str(resolve_path(f"runs/{name}", info))


class CheckpointConfig(Config):
    """When the run is saved."""

    every: Count | None = Field(
        default=None, ge=1, description="steps; by default a tenth of the run, at most 1,000"
    )
    keep: int = Field(default=2, ge=1, description="how many checkpoints stay")


class EvaluationConfig(Config):
    """When held-out loss is measured, and on how much."""

    every: Count | None = Field(default=None, ge=1, description="steps; by default a tenth of the run")
    sequences: Count = Field(default=128, ge=1, description="held-out sequences")


class TrainingConfig(Config):
    """What is learned, how long, and how."""

    objective: Literal["causal"] = "causal"
    tokens: Count | None = Field(default=None, ge=1, description="tokens to train on; or give steps")
    steps: Count | None = Field(default=None, ge=1)
    global_batch: Count = Field(default=64, ge=1, description="sequences of a step, over all workers")
    learning_rate: float = Field(default=1e-3, gt=0)
    schedule: ScheduleConfig = ScheduleConfig()
    weight_decay: float = Field(default=0.1, ge=0, description="decoupled; on matrices only")
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = Field(default=1e-8, gt=0)
    clip: float = Field(default=1.0, ge=0, description="largest norm of the gradient; 0 does not clip")
    sequence_losses: bool = Field(default=False, description="record the loss of every sequence, for trace")
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    guard: GuardConfig = GuardConfig()

    @model_validator(mode="after")
    def _one_length(self) -> TrainingConfig:
        if self.tokens is not None and self.steps is not None:
            raise ValueError("give training.tokens or training.steps, not both")
        return self


class ComputeConfig(Config):
    """What the run computes with. Nothing here changes what is learned, up to rounding."""

    workers: int | None = Field(
        default=None, ge=1, description="by default every GPU, or one worker without GPUs"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    zero: Literal[0, 1, 2, 3] = Field(default=1, description="DeepSpeed ZeRO stage")
    precision: Literal["fp32", "bf16"] | None = Field(
        default=None, description="by default bf16 on GPUs, else fp32"
    )
    micro_batch: int | None = Field(
        default=None, ge=1, description="sequences of one forward pass of one worker"
    )
    cpus_per_worker: float | None = Field(default=None, gt=0)
    stream_cpus: float | None = Field(
        default=None, gt=0, description="CPUs that reading and tokenizing may use"
    )
    address: str | None = Field(default=None, description="of a Ray cluster; by default one on this machine")
    max_failures: int = Field(default=3, ge=0, description="restarts after a lost worker")


class PretrainRecipe(Config):
    """``raypretrain pretrain RECIPE``."""

    # Not an instance: the default folder follows from the recipe's file, so it has to be validated with it.
    run: RunFolderConfig = Field(default_factory=dict, validate_default=True)
    corpus: CorpusConfig
    tokenizer: TokenizerConfig = TokenizerConfig()
    sequences: SequencesConfig = SequencesConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    compute: ComputeConfig = ComputeConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> PretrainRecipe:
        workers, batch = self.compute.workers, self.training.global_batch
        if workers and batch % workers:
            raise ValueError(batch_error(batch, workers))
        return self


DEFAULT_TOKENS_PER_PARAMETER = 20
"""Hoffmann et al., Training Compute-Optimal Large Language Models, 2022: about 20 tokens a parameter."""


def batch_error(batch: int, workers: int) -> str:
    """What to say where ``workers`` do not divide the global batch."""
    fitting = [str(w) for w in range(1, min(batch, 64) + 1) if batch % w == 0]
    return (
        f"training.global_batch: {batch} sequences cannot be shared equally by compute.workers: {workers}; "
        f"take {', '.join(fitting)} workers or another global_batch"
    )


@dataclass(frozen=True)
class Length:
    """How long a run is, and its rhythm; all in steps."""

    steps: int
    tokens_per_step: int
    evaluate_every: int
    checkpoint_every: int


def run_length(recipe: PretrainRecipe, parameters: int) -> Length:
    """The number of steps: as given, from ``training.tokens`` (rounded up), or 20 tokens a parameter."""
    training = recipe.training
    per_step = training.global_batch * recipe.sequences.length
    tokens = training.tokens or DEFAULT_TOKENS_PER_PARAMETER * parameters
    steps = training.steps or -(-tokens // per_step)
    tenth = max(1, -(-steps // 10))
    return Length(
        steps=steps,
        tokens_per_step=per_step,
        evaluate_every=training.evaluation.every or tenth,
        checkpoint_every=training.checkpoint.every or min(tenth, 1000),
    )


def refuse_changes(recipe: PretrainRecipe, saved: PretrainRecipe, folder: Path) -> None:
    """Refuse to go on with a run whose recipe has changed.

    Raises:
        RecipeError: names each key that differs, with both values.
    """
    now, then = flatten(recipe.model_dump(mode="json")), flatten(saved.model_dump(mode="json"))
    free = (
        "corpus.on_change",
        "corpus.tokenized",  # the batches are the same
        "corpus.tokenized_endpoint_url",
        "run.folder",
        "compute.address",
        "compute.max_failures",
        "compute.stream_cpus",
        "compute.cpus_per_worker",
    )
    differing = [
        k
        for k in sorted(now.keys() | then.keys())
        if now.get(k) != then.get(k) and k not in free and not k.startswith("training.guard.")
    ]
    if differing:
        shown = ", ".join(f"{k}: {then.get(k)} → {now.get(k)}" for k in differing[:8])
        more = f" and {len(differing) - 8} more" if len(differing) > 8 else ""
        raise RecipeError(
            f"the run was started with another recipe ({shown}{more})",
            where=str(folder),
            fix="go on with the recipe that it was started with, or choose another run.folder",
        )
