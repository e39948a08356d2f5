"""Which checkpoints stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def kept(
    steps: Sequence[int], keep: int, every: int | None = None, losses: Mapping[int, float] | None = None
) -> set[int]:
    """The steps whose checkpoints stay.

    Args:
        steps: of the checkpoints that there are.
        keep: so many of the newest stay.
        every: those whose step is a multiple of it stay for ever.
        losses: held-out loss at a step, where the best is to stay.
    """
    stay = set(sorted(steps, reverse=True)[:keep])
    if every:
        stay |= {step for step in steps if step % every == 0}
    measured = {step: loss for step, loss in (losses or {}).items() if step in steps and loss == loss}
    if measured:
        stay.add(min(measured, key=lambda step: (measured[step], step)))
    return stay
