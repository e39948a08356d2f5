"""A recipe's network and layout in the planner's plain numbers."""

from __future__ import annotations

from raypretrain.models.bert_config import BertShape
from raypretrain.models.llama_config import LlamaShape
from raypretrain.models.modernbert_config import ModernBertShape
from raypretrain.models.plain_config import PlainShape
from raypretrain.models.shape import ModelShape
from raypretrain.planning.layout import Layout
from raypretrain.planning.network import Network
from raypretrain.training.recipe import PretrainRecipe


def network_of(shape: ModelShape) -> Network:
    """The planner's view of a shape of any family."""
    plain = isinstance(shape, PlainShape)
    positions = shape.max_length if shape.learns_positions else 0
    return Network(
        vocabulary=shape.vocabulary,
        width=shape.width,
        layers=shape.layers,
        heads=shape.heads,
        key_value_heads=shape.key_value_heads if isinstance(shape, LlamaShape) else shape.heads,
        head_width=shape.head_width,
        feed_forward=shape.feed_forward,
        gated=not plain,
        biases=plain,
        tied=shape.tied,
        masked=shape.objective == "masked",
        positions=positions + (shape.token_types if isinstance(shape, BertShape) else 0),
        window=2 * shape.reach + 1 if isinstance(shape, ModernBertShape) else 0,
        global_every=shape.global_every if isinstance(shape, ModernBertShape) else 1,
    )


def layout_of(recipe: PretrainRecipe, *, on_cpu: bool) -> Layout:
    """How the recipe lays a step out, with one worker and one sequence of a micro-batch."""
    compute = recipe.compute
    return Layout(
        workers=1,
        zero=compute.zero,
        micro_batch=1,
        length=recipe.sequences.length,
        precision=compute.precision or ("fp32" if on_cpu else "bf16"),
        checkpointing=compute.gradient_checkpointing,
        offload=compute.offload,
        sequence_workers=compute.sequence_workers,
        predicted=recipe.training.mask.rate if recipe.objective == "masked" else 1.0,
        blockwise=on_cpu,
        documents=recipe.sequences.boundaries,
        muon=recipe.training.optimizer == "muon",
    )
