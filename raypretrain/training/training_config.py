"""What is learned, how long, and how: the settings of training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raypretrain.config import Config, Count
from raypretrain.tokens.batching import BatchSizes
from raypretrain.tokens.objectives import MaskConfig
from raypretrain.training.checkpoint_config import CheckpointConfig
from raypretrain.training.guard import GuardConfig
from raypretrain.training.schedule import ScheduleConfig
from raypretrain.training.settings import WeightGroup


class EvaluationConfig(Config):
    """When held-out loss is measured, and on how much."""

    every: Count | None = Field(default=None, ge=1, description="steps; by default a tenth of the run")
    sequences: Count = Field(default=128, ge=1, description="held-out sequences")


class BatchWarmup(Config):
    """Smaller batches in the first steps, that double until they are full."""

    first: Count | None = Field(default=None, ge=1, description="sequences of the first step")
    steps: Count | None = Field(default=None, ge=1, description="until batches are full")

    @model_validator(mode="after")
    def _both(self) -> BatchWarmup:
        if (self.first is None) != (self.steps is None):
            raise ValueError("give both 'first' and 'steps', or neither")
        return self


class TrainingConfig(Config):
    """What is learned, how long, and how."""

    objective: Literal["causal", "masked"] | None = Field(
        default=None, description="by default that of the model's family"
    )
    mask: MaskConfig = MaskConfig()
    tokens: Count | None = Field(default=None, ge=1, description="tokens to train on; or give steps")
    steps: Count | None = Field(default=None, ge=1)
    global_batch: Count = Field(default=64, ge=1, description="sequences of a step, over all workers")
    batch_warmup: BatchWarmup = BatchWarmup()
    learning_rate: float = Field(default=1e-3, gt=0)
    schedule: ScheduleConfig = ScheduleConfig()
    optimizer: Literal["adamw", "muon"] = Field(
        default="muon", description="of the layers' matrices; adamw is the default where model.from is given"
    )
    weight_decay: float = Field(default=0.1, ge=0, description="decoupled; on matrices only")
    betas: tuple[float, float] = (0.9, 0.95)
    momentum: float = Field(default=0.95, ge=0, lt=1, description="of Muon")
    epsilon: float = Field(default=1e-8, gt=0)
    clip: float = Field(default=1.0, ge=0, description="largest norm of the gradient; 0 does not clip")
    tuned_width: Count | None = Field(
        default=None, gt=0, description="the width of the model that learning_rate was found with"
    )
    weight_groups: list[WeightGroup] = Field(default=[], description="weights that are learned otherwise")
    z_loss: float = Field(default=0.0, ge=0, description="weight of the squared log of the softmax's sum")
    average: Count = Field(
        default=1, ge=1, description="the released model is the mean of so many of the newest checkpoints"
    )
    sequence_losses: bool = Field(default=False, description="record the loss of every sequence, for trace")
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    guard: GuardConfig = GuardConfig()

    @model_validator(mode="after")
    def _one_length(self) -> TrainingConfig:
        if self.tokens is not None and self.steps is not None:
            raise ValueError("give training.tokens or training.steps, not both")
        if self.average > self.checkpoint.keep:
            raise ValueError(
                f"training.average: {self.average} checkpoints are more than the {self.checkpoint.keep} that "
                "training.checkpoint.keep keeps; raise it"
            )
        return self

    @model_validator(mode="after")
    def _batches_double(self) -> TrainingConfig:
        first, full = self.batch_warmup.first or self.global_batch, self.global_batch
        if full % first or (full // first).bit_count() != 1:
            sizes = [full >> i for i in range(full.bit_length()) if full % (1 << i) == 0]
            raise ValueError(
                f"training.batch_warmup.first: {first} sequences do not become {full} by doubling; take one of "
                f"{', '.join(map(str, sizes))}"
            )
        return self

    @property
    def batches(self) -> BatchSizes:
        """Sequences of each step."""
        warmup = self.batch_warmup
        return BatchSizes(self.global_batch, warmup.first or self.global_batch, warmup.steps or 0)

    def matrix_rate(self, width: int) -> float:
        """The factor of the learning rate of the layers' matrices, in a model of this width.

        So that a rate found with ``tuned_width`` is right for it: AdamW's steps have entries of one size, whose effect
        grows with the width (Yang et al., Tensor Programs V, arXiv:2203.03466, table 3); Muon's, which are scaled to
        the same size, have one that grows with its root.
        """
        ratio = self.tuned_width / width if self.tuned_width else 1.0
        return ratio if self.optimizer == "adamw" else ratio**0.5
