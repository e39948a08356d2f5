"""The recipe of a pretraining run: its rooms, how they go together, and what follows from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from raypretrain.config import Config, Location, resolve_path
from raypretrain.corpus.sources import CorpusConfig
from raypretrain.models.config import ModelConfig
from raypretrain.tokens.objectives import MaskConfig
from raypretrain.tokens.tokenizer import TokenizerConfig
from raypretrain.tokens.tokenizer_specials import INFILL, MASK
from raypretrain.tokens.window import SequencesConfig
from raypretrain.training.compute_config import ComputeConfig
from raypretrain.training.fetching import tell_config
from raypretrain.training.training_config import TrainingConfig


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
    def _what_a_base_brings(cls, values: Any) -> Any:
        """Its tokenizer; and AdamW, by which it has learned: Muon gains nothing then (arXiv:2502.16982, 3.5)."""
        names = ("model", "tokenizer", "training")
        rooms = [values.get(name) or {} for name in names] if isinstance(values, dict) else []
        if not rooms or not all(isinstance(room, dict) for room in rooms) or not rooms[0].get("from"):
            return values
        model, tokenizer, training = rooms
        path = tokenizer.get("path") or model["from"]
        return values | {
            "tokenizer": tokenizer | {"path": path},
            "training": {"optimizer": "adamw"} | training,
        }

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


def batch_error(batch: int, workers: int | str) -> str:
    """What to say where ``workers`` do not divide the global batch."""
    fitting = [str(w) for w in range(1, min(batch, 64) + 1) if batch % w == 0]
    return (
        f"training.global_batch: {batch} sequences cannot be shared equally by compute.workers: {workers}; "
        f"take {', '.join(fitting)} workers or another global_batch"
    )
