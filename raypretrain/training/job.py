"""What the workers of a run are told, and what follows from it for a group of their number."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors.torch import load_file

from raypretrain.errors import InputError, RunError
from raypretrain.models.compiling import compiles
from raypretrain.models.config import ModelShape
from raypretrain.models.families import LanguageModel, build
from raypretrain.storage import sha256_file
from raypretrain.tokens.dealer import Supply
from raypretrain.training.basemodel import base_weights
from raypretrain.training.checkpoint import CHECKPOINT_BYTES_PER_PARAMETER, Standing
from raypretrain.training.cluster import Sizes, micro_batch_of
from raypretrain.training.evaluation import HeldOut
from raypretrain.training.length import Length
from raypretrain.training.optimizer import is_inner_matrix
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder
from raypretrain.training.settings import EngineSettings

_WORTH_COMPILING = {"cpu": 1e14, "cuda": 1e17}
"""FLOP of one worker: about twenty minutes of a core, and ten of a GPU; compiling takes up to one."""


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

    @property
    def compiled(self) -> bool:
        """Whether the layers are compiled: as the recipe says, or where it saves more than it costs.

        Raises:
            InputError: the recipe says so, and there is no compiler.
        """
        compute, sizes = self.recipe.compute, self.sizes
        possible = compiles(sizes.device)
        if compute.compile is True and not possible:
            raise InputError(
                "there is no g++", where="compute.compile", fix="install one, or leave the key out"
            )
        if compute.compile != "auto":
            return compute.compile
        flops = self.shape.flops_per_token(self.recipe.sequences.length) * self.length.tokens()
        return compute.compilable and possible and flops / sizes.workers >= _WORTH_COMPILING[sizes.device]

    def engine_settings(self, new: bool, universal: bool) -> EngineSettings:
        """What the engine needs; ``universal`` where it loads what was converted for this number of workers."""
        training, sizes = self.recipe.training, self.sizes
        together = self.recipe.compute.sequence_workers
        return EngineSettings(
            zero=self.recipe.compute.zero,
            precision=sizes.precision,
            micro_batch=sizes.micro_batch,
            accumulation=training.global_batch * together // sizes.workers // sizes.micro_batch,
            workers=sizes.workers,
            learning_rate=training.learning_rate,
            weight_decay=training.weight_decay,
            betas=training.betas,
            epsilon=training.epsilon,
            clip=training.clip,
            universal=universal,
            new=new,
            optimizer=training.optimizer,
            momentum=training.momentum,
            rules=tuple(training.weight_groups),
            matrix_rate=training.matrix_rate(self.shape.width),
            checkpointing=self.recipe.compute.gradient_checkpointing,
            offload=self.recipe.compute.offload,
            offload_folder=self.recipe.compute.offload_folder or "",
            sequence_workers=together,
            compiled=self.compiled,
        )

    def model(self, new: bool) -> LanguageModel:
        """The network; of a ``new`` run with its first weights: drawn, a base model's, or its parent's if it is a fork.

        Of another, a checkpoint's are loaded into it: until then what is in its memory means nothing.

        Raises:
            RunError: the parent's weights are damaged.
            InputError: the base model is not there, or is another one than the run was begun with.
        """
        model, folder = build(self.shape), RunFolder(self.folder)
        model.z_loss = self.recipe.training.z_loss
        if not new:
            return model
        if not folder.parent_weights.is_file():
            if self.recipe.model.base:
                model.load_state_dict(base_weights(folder, self.shape.vocabulary))
            else:
                model.init_weights(self.recipe.run.seed)
                narrow(model, self.recipe.training.tuned_width)
            return model
        wanted = json.loads(folder.parent.read_text(encoding="utf-8"))["weights_sha256"]
        if sha256_file(folder.parent_weights) != wanted:
            raise RunError(
                "is damaged (its SHA-256 differs)", where=str(folder.parent_weights), fix="fork again"
            )
        model.load_state_dict(load_file(folder.parent_weights))
        return model


@torch.no_grad()
def narrow(model: LanguageModel, tuned_width: int | None) -> None:
    """First weights for a learning rate that was found with ``tuned_width``: the layers' matrices are drawn with a
    spread that falls with the root of the width (arXiv:2203.03466, table 3)."""
    if tuned_width:
        for name, parameter in model.named_parameters():
            if is_inner_matrix(name, parameter):
                parameter.mul_((tuned_width / model.shape.width) ** 0.5)
