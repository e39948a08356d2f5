"""How loss follows from parameters and tokens: the best size, smaller models for longer, repeated text."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Law:
    """``loss = floor + a / parameters^alpha + b / tokens^beta``, in nats a token.

    Args:
        source: where it is from.
    """

    floor: float
    a: float
    alpha: float
    b: float
    beta: float
    source: str

    def loss(self, parameters: float, tokens: float) -> float:
        """Nats a token on text like that of the fit."""
        return self.floor + self.a / parameters**self.alpha + self.b / tokens**self.beta

    def optimal(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens of the lowest loss for so many operations, at 6 for each of both."""
        both = flops / 6
        ratio = (self.alpha * self.a / (self.beta * self.b)) ** (1 / (self.alpha + self.beta))
        parameters = ratio * both ** (self.beta / (self.alpha + self.beta))
        return parameters, both / parameters

    def tokens_for(self, parameters: float, loss: float) -> float:
        """Tokens with which a model of so many parameters reaches a loss; infinite where it never does."""
        rest = loss - self.floor - self.a / parameters**self.alpha
        return (self.b / rest) ** (1 / self.beta) if rest > 0 else math.inf


CHINCHILLA = Law(
    floor=1.8172, a=482.01, alpha=0.3478, b=2085.43, beta=0.3658,
    source="Hoffmann et al., 2022, as fitted anew by Besiroglu et al., 2024 (web text, their tokenizer)",
)  # fmt: skip

REPEATS = 15.39
"""Of a text's repetitions until their worth has fallen to 1/e: Muennighoff et al., Scaling Data-Constrained Language
Models, 2023, R* of the data."""


def worth_of(tokens: float, distinct: float) -> float:
    """How many new tokens are as good as ``tokens``, of which ``distinct`` differ (Muennighoff et al., eq. 5)."""
    if tokens <= distinct:
        return tokens
    return distinct * (1 + REPEATS * -math.expm1(-(tokens / distinct - 1) / REPEATS))


def last_epoch_worth(epochs: float) -> float:
    """What a token of the last epoch is worth, a new one being 1."""
    return math.exp(-max(0.0, epochs - 1) / REPEATS)


@dataclass(frozen=True)
class Smaller:
    """A model of the same loss that is smaller than the compute-optimal one.

    Args:
        parameters, tokens: of it.
        training: its operations ÷ those of the optimal one.
        pays_from: tokens of inference from which on it costs less in all; None where it already does.
    """

    parameters: float
    tokens: float
    training: float
    pays_from: float


def smaller_models(
    flops: float, shares: tuple[float, ...] = (0.7, 0.5, 0.35), law: Law = CHINCHILLA
) -> list[Smaller]:
    """Models of these shares of the optimal size, trained until they have its loss.

    A token of inference costs 2 operations a parameter (Sardana et al., Beyond Chinchilla-Optimal, 2024).
    """
    best, tokens = law.optimal(flops)
    loss = law.loss(best, tokens)
    found = []
    for share in shares:
        size = share * best
        needed = law.tokens_for(size, loss)
        if math.isfinite(needed):
            more = 6 * size * needed - flops
            found.append(Smaller(size, needed, 6 * size * needed / flops, more / (2 * (best - size))))
    return found
