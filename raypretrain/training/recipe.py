"""The recipe of a pretraining run: its rooms, how they go together, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from raypretrain.config import Config, Count, Location, resolve_path
from raypretrain.corpus.sources import CorpusConfig
from raypretrain.models.config import ModelConfig
from raypretrain.tokens.batching import BatchSizes
from raypretrain.tokens.objectives import MaskConfig
from raypretrain.tokens.tokenizer import TokenizerConfig
from raypretrain.tokens.tokenizer_specials import INFILL, MASK
from raypretrain.tokens.window import SequencesConfig
from raypretrain.training.fetching import tell_config
from raypretrain.training.guard import GuardConfig
from raypretrain.training.schedule import ScheduleConfig
from raypretrain.training.settings import Checkpointing, WeightGroup


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


class FastConfig(Config):
    """Checkpoints on each node's own disk."""

    every: Count | None = Field(default=None, ge=1, description="steps; by default there are none")
    folder: Location = Field(default="", description="on each node's own disk")

    @model_validator(mode="after")
    def _both(self) -> FastConfig:
        if (self.every is None) != (not self.folder):
            raise ValueError("give both 'every' and 'folder', or neither")
        if "://" in self.folder:
            raise ValueError("'folder' is a path on each node's own disk, not a URL")
        return self


class CheckpointConfig(Config):
    """When the run is saved, where, and what stays."""

    every: Literal["auto"] | Count | None = Field(
        default=None, description="steps; by default a tenth of the run, at most 1,000"
    )
    mean_time_between_failures: float | None = Field(
        default=None, gt=0, description="seconds; for every: auto, by default from the number of workers"
    )
    keep: int = Field(default=2, ge=1, description="how many checkpoints stay")
    keep_every: Count | None = Field(
        default=None, ge=1, description="multiples of so many steps stay for ever"
    )
    keep_best: bool = Field(default=False, description="the one with the best held-out loss stays")
    failures: int = Field(default=3, ge=1, description="failed saves in a row that end the run")
    copy_to: Location | None = Field(default=None, description="folder or URL that checkpoints are copied to")
    endpoint_url: str | None = Field(default=None, description="of copy_to's store, if it is not AWS")
    fast: FastConfig = FastConfig()

    @field_validator("every", mode="after")
    @classmethod
    def _at_least_one(cls, every: Any) -> Any:
        if isinstance(every, int) and every < 1:
            raise ValueError("Input should be greater than or equal to 1")
        return every


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
    optimizer: Literal["adamw", "muon"] = Field(default="adamw", description="of the layers' matrices")
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


class ComputeConfig(Config):
    """What the run computes with. Nothing here changes what is learned, up to rounding."""

    workers: int | tuple[int, int] | None = Field(
        default=None,
        description="by default every GPU, or one worker without GPUs; [least, most] goes on with what there is",
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    zero: Literal[0, 1, 2, 3] = Field(default=1, description="DeepSpeed ZeRO stage")
    precision: Literal["fp32", "bf16"] | None = Field(
        default=None, description="by default bf16 on GPUs, else fp32"
    )
    micro_batch: int | None = Field(
        default=None, ge=1, description="sequences of one forward pass of one worker"
    )
    gradient_checkpointing: Checkpointing = Field(
        default="none", description="activations that are computed again in the backward pass"
    )
    sequence_workers: int = Field(
        default=1, ge=1, description="so many workers share each sequence, for long ones"
    )
    compile: Literal["auto"] | bool = Field(
        default="auto", description="compile the layers; auto does where a run is long enough to earn it back"
    )
    offload: Literal["none", "cpu"] = Field(
        default="none", description="where the optimizer works and has its state"
    )
    cpus_per_worker: float | None = Field(default=None, gt=0)
    stream_cpus: float | None = Field(
        default=None, gt=0, description="CPUs that reading and tokenizing may use"
    )
    address: str | None = Field(default=None, description="of a Ray cluster; by default one on this machine")
    max_failures: int = Field(default=3, ge=0, description="restarts after a lost worker")
    standby: bool = Field(
        default=True,
        description="have processes stand by on each node, with all imported, so that a restart takes seconds less",
    )
    stall_timeout: float = Field(
        default=600.0, gt=0, description="seconds without progress until a worker is taken to hang"
    )
    straggler_factor: float = Field(
        default=1.5, gt=1, description="times the median's computing until a worker is reported as slow"
    )

    @model_validator(mode="after")
    def _zero_allows_it(self) -> ComputeConfig:
        if self.gradient_checkpointing == "selective" and self.zero == 3:
            raise ValueError(
                "gradient_checkpointing: selective does not go with zero: 3; take full, or zero: 2"
            )
        if self.compile is True and not self.compilable:
            raise ValueError(
                "compile: true goes neither with zero: 3 nor with gradient_checkpointing: selective"
            )
        if self.offload != "none" and self.zero == 0:
            raise ValueError("offload needs zero: 1, 2 or 3")
        return self

    @property
    def compilable(self) -> bool:
        """Whether nothing else looks into the layers."""
        return self.zero < 3 and self.gradient_checkpointing != "selective"

    @model_validator(mode="after")
    def _workers_share(self) -> ComputeConfig:
        together = self.sequence_workers
        if together > 1 and (not isinstance(self.workers, int) or self.workers % together):
            raise ValueError(f"sequence_workers: {together} needs workers: a multiple of {together}")
        return self

    @field_validator("workers", mode="before")
    @classmethod
    def _number_or_pair(cls, value: Any) -> Any:
        numbers = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
        if value is not None and not all(type(number) is int and number >= 1 for number in numbers):
            raise ValueError(f"give a number of workers, from 1 on, or [least, most], not {value}")
        return value


class CardConfig(Config):
    """What the model card of the released model says beside what the run knows."""

    name: str = ""
    description: str = ""
    license: str = ""
    languages: list[str] = Field(default=[])
    watts: float | None = Field(default=None, gt=0, description="of one worker's device, for the energy")


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
    card: CardConfig = CardConfig()

    @model_validator(mode="before")
    @classmethod
    def _base_brings_its_tokenizer(cls, values: Any) -> Any:
        model = values.get("model") if isinstance(values, dict) else None
        tokenizer = values.get("tokenizer") or {} if isinstance(values, dict) else None
        if isinstance(model, dict) and model.get("from") and isinstance(tokenizer, dict):
            return {**values, "tokenizer": {**tokenizer, "path": tokenizer.get("path") or model["from"]}}
        return values

    @field_validator("model", mode="before")
    @classmethod
    def _base_in_a_store(cls, model: Any, info: ValidationInfo) -> Any:
        run = info.data.get("run")
        tell_config(model, info.context, Path(run.folder) if run else None)
        return model

    @model_validator(mode="after")
    def _tokenizer_is_the_bases(self) -> PretrainRecipe:
        if self.model.base and self.tokenizer.path != self.model.base:
            raise ValueError(
                f"tokenizer.path: the ids of another tokenizer are others to {self.model.source}; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _positions_suffice(self) -> PretrainRecipe:
        base = self.model.base_shape
        if base and base.learns_positions and self.sequences.length > base.max_length:
            raise ValueError(
                f"sequences.length: {self.sequences.length} tokens are more than the {base.max_length} positions of "
                f"{self.model.source}"
            )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> PretrainRecipe:
        workers, batch = self.compute.workers, self.training.batches.first
        if isinstance(workers, tuple):
            least, most = workers
            if least > most:
                raise ValueError(f"compute.workers: the least ({least}) are more than the most ({most})")
            if not any(batch % number == 0 for number in range(least, most + 1)):
                raise ValueError(batch_error(batch, f"{least} to {most}"))
        elif workers and batch * self.compute.sequence_workers % workers:
            raise ValueError(batch_error(batch, workers))
        return self

    @model_validator(mode="after")
    def _sequences_are_shared_equally(self) -> PretrainRecipe:
        together, shape = self.compute.sequence_workers, self.model.shape(1, 1)
        shared = {
            "sequences.length": self.sequences.length,
            "heads": shape.heads,
            "key-value heads": getattr(shape, "key_value_heads", shape.heads),
        }
        for name, number in shared.items():
            if number % together:
                raise ValueError(f"compute.sequence_workers: {together} do not divide the {number} of {name}")
        return self

    @model_validator(mode="after")
    def _objective_fits(self) -> PretrainRecipe:
        given, own = self.training.objective, self.objective
        if given not in (None, own):
            raise ValueError(
                f"training.objective: {given} is nothing for {self.model.source}, which learns {own}; leave it "
                "out, or take a model of another family"
            )
        if own == "causal" and self.training.mask != MaskConfig():
            raise ValueError(f"training.mask is for models that learn masked, not for {self.model.source}")
        if own == "masked" and self.sequences.infill.rate:
            raise ValueError("sequences.infill is for models that learn causal; set its rate to 0")
        return self

    @property
    def objective(self) -> Literal["causal", "masked"]:
        """What is learned: the model's family says it."""
        return self.model.objective

    @property
    def marks(self) -> list[str]:
        """Names of the special tokens that a tokenizer trained for this recipe needs."""
        infill = [*INFILL] if self.sequences.infill.rate else []
        needed = infill + [MASK] * (self.objective == "masked")
        return [*needed, *(name for name in self.tokenizer.add if name not in needed)]

    def in_folder(self, folder: Path) -> PretrainRecipe:
        """The same recipe for a run in another folder."""
        run = self.run.model_copy(update={"folder": str(folder.absolute())})
        return self.model_copy(update={"run": run})


DEFAULT_TOKENS_PER_PARAMETER = 20
"""Hoffmann et al., Training Compute-Optimal Large Language Models, 2022: about 20 tokens a parameter."""


def batch_error(batch: int, workers: int | str) -> str:
    """What to say where ``workers`` do not divide the global batch."""
    fitting = [str(w) for w in range(1, min(batch, 64) + 1) if batch % w == 0]
    return (
        f"training.global_batch: {batch} sequences cannot be shared equally by compute.workers: {workers}; "
        f"take {', '.join(fitting)} workers or another global_batch"
    )


@dataclass(frozen=True)
class Length:
    """How long a run is, and its rhythm; all in steps. A ``checkpoint_every`` of 0 finds itself.

    Args:
        sequence: tokens of one.
        batches: sequences of each step.
    """

    steps: int
    sequence: int
    batches: BatchSizes
    evaluate_every: int
    checkpoint_every: int

    @property
    def tokens_per_step(self) -> int:
        """When batches are full."""
        return self.batches.full * self.sequence

    def tokens(self, steps: int | None = None) -> int:
        """Of the first ``steps`` steps, or of the whole run."""
        return self.batches.total(self.steps if steps is None else steps) * self.sequence


def run_length(recipe: PretrainRecipe, parameters: int) -> Length:
    """The number of steps: as given, from ``training.tokens`` (rounded up), or 20 tokens a parameter."""
    training = recipe.training
    sequence, batches = recipe.sequences.length, training.batches
    tokens = training.tokens or DEFAULT_TOKENS_PER_PARAMETER * parameters
    steps = training.steps or batches.steps_of(-(-tokens // sequence))
    tenth = max(1, -(-steps // 10))
    saved = training.checkpoint.every
    return Length(
        steps=steps,
        sequence=sequence,
        batches=batches,
        evaluate_every=training.evaluation.every or tenth,
        checkpoint_every=0 if saved == "auto" else saved or min(tenth, 1000),
    )
