"""How long a run is, and its rhythm."""

from __future__ import annotations

from dataclasses import dataclass

from raypretrain.tokens.batching import BatchSizes
from raypretrain.training.recipe import PretrainRecipe

DEFAULT_TOKENS_PER_PARAMETER = 20
"""Hoffmann et al., Training Compute-Optimal Large Language Models, 2022: about 20 tokens a parameter."""


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
