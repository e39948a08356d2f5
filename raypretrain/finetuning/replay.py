"""Replay: in each step of a trial also some of the text that the base learned from, with the base's own objective.

Rehearsal against forgetting (Robins, 1995, doi:10.1080/09540099550039318); of language models already 1 to 5% of it
helps much (Scialom et al., arXiv:2205.12393; Ibrahim et al., arXiv:2403.08763).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from raypretrain.finetuning.base_text import BaseText
from raypretrain.finetuning.forgetting import base_loss
from raypretrain.finetuning.team import ALONE, Team
from raypretrain.tokens.objectives import IGNORED
from raypretrain.tokens.packing import Sequences
from raypretrain.training.evaluation import Rows

_ORDER = 10  # keeps these draws apart from others of the same seed


@dataclass(frozen=True)
class Replay:
    """What a trial replays. Batch k follows from the text, these numbers and k alone.

    The trial takes its own first ``batch`` · ``steps`` sequences of the text's pool, so that nothing changes where
    the pool is larger for others' sake; where it is smaller, they come again in another order.

    Args:
        text: with sequences to replay.
        batch: sequences a step.
        steps: of the trial.
        seed: of the order, and of the tokens that are hidden where the objective is masked.
    """

    text: BaseText
    batch: int
    steps: int
    seed: int

    def rows(self, k: int) -> Rows:
        """Batch ``k``, from 0."""
        pool = self.text.replay
        assert pool is not None  # the text was read for replay
        own = min(len(pool), self.batch * self.steps)
        numbers = np.arange(k * self.batch, (k + 1) * self.batch)
        chosen = np.array([_order(self.seed, i // own, own)[i % own] for i in numbers.tolist()])
        sequences = Sequences(
            pool.tokens[chosen], pool.begins[chosen], pool.filled[chosen], pool.sources[chosen]
        )
        # A place names the draw of what is hidden in a sequence: another one each time that it comes.
        places = np.stack(
            [np.full_like(numbers, k), np.full_like(numbers, self.seed), np.arange(self.batch)], 1
        )
        ids, targets = self.text.objective.examples(sequences, places)
        weight = float(self.text.objective.counts(sequences).sum())
        return Rows(ids, targets, sequences.starts(), weight)

    def loss(self, network: nn.Module, k: int, team: Team = ALONE) -> Tensor:
        """The loss of batch ``k``, a scalar in nats a target, to be added to the task's with a weight.

        Args:
            team: who shares the batch; the sum over it is the loss.
        """
        whole = self.rows(k)
        rows, own = _share(whole, team)
        loss = base_loss(network, rows, self.text.boundaries)
        return loss if team.world == 1 else loss * (own / _targets(whole))


def _share(rows: Rows, team: Team) -> tuple[Rows, int]:
    """A worker's rows, and how many targets count; where none do, all rows, because it has to compute something."""
    if team.world == 1:
        return rows, 0
    own = slice(team.rank, None, team.world)
    part = Rows(rows.ids[own], rows.targets[own], rows.starts[own], rows.weight)
    return (part, _targets(part)) if _targets(part) else (rows, 0)


def _targets(rows: Rows) -> int:
    return int((rows.targets != IGNORED).sum())


@lru_cache(maxsize=4)
def _order(seed: int, time: int, number: int) -> NDArray[np.int64]:
    """In which order a trial takes its sequences for the first, second, … time."""
    return np.random.default_rng([seed, _ORDER, time]).permutation(number)
