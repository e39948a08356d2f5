"""What the workers of a run are told, and what follows from it for a group of their number."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from safetensors.torch import load_file

from raypretrain.errors import RunError
from raypretrain.models.config import ModelShape
from raypretrain.models.families import LanguageModel, build
from raypretrain.storage import sha256_file
from raypretrain.tokens.dealer import Supply
from raypretrain.training.checkpoint import CHECKPOINT_BYTES_PER_PARAMETER, Standing
from raypretrain.training.cluster import Sizes, micro_batch_of
from raypretrain.training.engine import EngineSettings
from raypretrain.training.evaluation import HeldOut
from raypretrain.training.recipe import Length, PretrainRecipe
from raypretrain.training.runfolder import RunFolder


@dataclass
class Job:
    """All that a worker is told.

    Args:
        recipe: of the run.
        folder: of the run; every worker must see it.
        sizes, shape, length: what follows from the recipe and the cluster.
        held_out: sequences for evaluation.
        dealer: the actor that deals the stream's sequences.
        supply: what it deals.
        start: where a run without a checkpoint stands; its fingerprints are those that a checkpoint must have.
        pointers: folder of Ray Train's own, for this start.
        board: to the driver.
        submitted: clock time at which the driver asked for the workers.
    """

    recipe: PretrainRecipe
    folder: str
    sizes: Sizes
    shape: ModelShape
    length: Length
    held_out: HeldOut
    dealer: Any
    supply: Supply
    start: Standing
    pointers: str
    board: Any
    submitted: float

    @property
    def checkpoint_bytes(self) -> int:
        """Of a checkpoint, about."""
        return self.shape.parameters * CHECKPOINT_BYTES_PER_PARAMETER

    def for_world(self, world: int) -> Job:
        """As a group of ``world`` workers does it: what the driver reckoned may have been for another number."""
        micro_batch = micro_batch_of(self.recipe, self.sizes.device, world)
        sizes = replace(self.sizes, workers=world, micro_batch=micro_batch)
        return replace(self, sizes=sizes, start=replace(self.start, world_size=world))

    def engine_settings(self, new: bool, universal: bool) -> EngineSettings:
        """What the engine needs; ``universal`` where it loads what was converted for this number of workers."""
        training, sizes = self.recipe.training, self.sizes
        return EngineSettings(
            zero=self.recipe.compute.zero,
            precision=sizes.precision,
            micro_batch=sizes.micro_batch,
            accumulation=training.global_batch // sizes.workers // sizes.micro_batch,
            workers=sizes.workers,
            learning_rate=training.learning_rate,
            weight_decay=training.weight_decay,
            betas=training.betas,
            epsilon=training.epsilon,
            clip=training.clip,
            universal=universal,
            new=new,
        )

    def model(self, new: bool) -> LanguageModel:
        """The network; of a ``new`` run with its first weights: drawn, or its parent's if it is a fork.

        Of another, a checkpoint's are loaded into it: until then what is in its memory means nothing.

        Raises:
            RunError: the parent's weights are damaged.
        """
        model, folder = build(self.shape), RunFolder(self.folder)
        if not new:
            return model
        if not folder.parent_weights.is_file():
            model.init_weights(self.recipe.run.seed)
            return model
        wanted = json.loads(folder.parent.read_text(encoding="utf-8"))["weights_sha256"]
        if sha256_file(folder.parent_weights) != wanted:
            raise RunError(
                "is damaged (its SHA-256 differs)", where=str(folder.parent_weights), fix="fork again"
            )
        model.load_state_dict(load_file(folder.parent_weights))
        return model
