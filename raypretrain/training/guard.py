"""The guard: which steps may move the weights, and what is done about those that may not.

It knows losses and norms only, so that all workers, who are told the same ones, decide the same; and it can be built
anew from the rows of metrics.jsonl, so that a resumed run decides as an undisturbed one.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from raypretrain.config import Config
from raypretrain.errors import RunError

WINDOW = 128
"""So many accepted losses are what a loss is compared with …"""

LEAST = 16
"""… and before there are so many, none is called a spike."""

_DEVIATION = (
    1.4826  # the standard deviation of a normal distribution is so many times its median absolute deviation
)
_LEAST_DEVIATION = 1e-3  # of the median, where the losses hardly differ

Action = Literal["train", "skip", "rewind", "stop"]


class GuardConfig(Config):
    """What is done where the loss or the gradient is no number, or the loss jumps."""

    non_finite: Literal["skip", "rewind", "stop"] = Field(
        default="skip", description="for a loss or a gradient that is nan or infinite"
    )
    spike: Literal["ignore", "skip", "rewind", "stop"] = Field(
        default="ignore",
        description="for a loss far above the last ones; ignored, it is marked in the metrics",
    )
    zscore: float = Field(
        default=8.0, gt=0, description="so many deviations above the last losses are a spike"
    )
    patience: int = Field(
        default=3,
        ge=1,
        description="after so many skipped steps in a row: rewind, or stop if that was just done",
    )
    replicas_every: int = Field(
        default=100, ge=0, description="steps between comparisons of the workers' parameters; 0 for never"
    )


@dataclass(frozen=True)
class Verdict:
    """What is to be done about a step.

    Args:
        action: ``train``: the update stands; else it was not made, and ``rewind`` and ``stop`` say what follows.
        reason: what was wrong with the step; empty if nothing was.
        zscore: of a loss that is a spike, whatever is done about it.
        history: what came before, where it is the reason to stop.
    """

    action: Action
    reason: str = ""
    zscore: float | None = None
    history: str = ""

    def marks(self) -> dict[str, Any]:
        """What a line of metrics.jsonl has of it; nothing where nothing was wrong."""
        found: dict[str, Any] = {} if self.action == "train" else {"skipped": self.reason}
        return found if self.zscore is None else {**found, "spike": round(self.zscore, 1)}


class Guard:
    """The judgement over the steps of a run, one after the other.

    Args:
        config: see :class:`GuardConfig`.
        updates: moves of the weights so far.
    """

    def __init__(self, config: GuardConfig, updates: int = 0) -> None:
        self._config = config
        self.updates = updates
        self.skipped = 0
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._in_a_row = 0
        self._rewound = False  # and no step was accepted since

    @classmethod
    def after(cls, config: GuardConfig, rows: Iterable[dict[str, Any]], updates: int) -> Guard:
        """The guard as it was after these rows of metrics.jsonl."""
        guard = cls(config)
        for row in rows:
            if "skipped" in row:
                guard._refused(rewound="rewound_to" in row)
            else:
                guard._accepted(row["loss"])
        guard.updates = updates
        return guard

    def vetoes(self, loss: float) -> bool:
        """Whether a step of this loss must not move the weights. Changes nothing."""
        return self._wanted(loss, norm=0.0)[0] != "train"

    def judge(self, loss: float, norm: float) -> Verdict:
        """What is to be done about a step, and count it.

        Args:
            loss: mean over all workers.
            norm: of the whole gradient; the engine makes no update where it is no number.
        """
        wanted, reason, zscore = self._wanted(loss, norm)
        if wanted == "train":
            self._accepted(loss)
            return Verdict("train", reason, zscore)
        in_a_row, rewound = self._in_a_row + 1, self._rewound
        action = self._action(wanted, in_a_row)
        self._refused(rewound=action == "rewind")
        history = ""
        if action == "stop" and wanted != "stop":
            history = f"{in_a_row} steps in a row" + (" since the last rewind" if rewound else "")
        return Verdict(action, reason, zscore, history)

    def rewound(self, updates: int) -> None:
        """The weights are those after ``updates`` moves again."""
        self.updates = updates

    def _wanted(self, loss: float, norm: float) -> tuple[Action, str, float | None]:
        """The recipe's policy for such a step, the reason, and the z-score of a spike."""
        config = self._config
        if not math.isfinite(loss):
            return config.non_finite, f"loss is {loss}", None
        if not math.isfinite(norm):
            return config.non_finite, f"the gradient's norm is {norm}", None
        zscore = robust_zscore(loss, self._losses)
        if zscore is None or zscore <= config.zscore:
            return "train", "", None
        reason = f"loss {loss:.4f} is {zscore:.1f} deviations above the last {len(self._losses)}"
        return ("train" if config.spike == "ignore" else config.spike), reason, zscore

    def _action(self, wanted: Action, in_a_row: int) -> Action:
        patient = in_a_row < self._config.patience
        if wanted == "stop":
            return "stop"
        if self._rewound:  # to do it again would lead to the same weights
            return "skip" if patient else "stop"
        return "skip" if wanted == "skip" and patient else "rewind"

    def _accepted(self, loss: float) -> None:
        self._losses.append(loss)
        self.updates += 1
        self._in_a_row, self._rewound = 0, False

    def _refused(self, *, rewound: bool) -> None:
        self.skipped += 1
        self._in_a_row = 0 if rewound else self._in_a_row + 1
        self._rewound = self._rewound or rewound


def robust_zscore(loss: float, losses: Iterable[float]) -> float | None:
    """How many deviations ``loss`` lies above the median of ``losses``; None while there are too few.

    The deviation is the median absolute one: spikes that were let through do not hide the next.
    """
    known = list(losses)
    if len(known) < LEAST:
        return None
    median = statistics.median(known)
    deviation = _DEVIATION * statistics.median(abs(x - median) for x in known)
    return (loss - median) / max(deviation, _LEAST_DEVIATION * abs(median), 1e-12)


def odd_ones_out(fingerprints: list[int]) -> list[int]:
    """The ranks whose fingerprint is not that of the most; all of them, where no one is that of more than half."""
    counts = Counter(fingerprints)
    if len(counts) == 1:
        return []
    common, number = counts.most_common(1)[0]
    if 2 * number <= len(fingerprints):
        return list(range(len(fingerprints)))
    return [rank for rank, found in enumerate(fingerprints) if found != common]


def stopped(run: str, step: int, reason: str) -> RunError:
    """The end of a run that its guard stops; ``reason`` says what was wrong with ``step``."""
    return RunError(
        f"stopped at step {step}: {reason}",
        where=run,
        fix=f"see what the step was made of: raypretrain trace {run} --step {step}; "
        "training.guard may be changed before going on",
    )


def corrupted(run: str, step: int, ranks: list[int], nodes: list[str]) -> RunError:
    """The end of a run whose workers' parameters are not the same; ``nodes`` of all ranks."""
    named = ", ".join(f"worker {rank} on {nodes[rank]}" for rank in ranks)
    if len(ranks) == len(nodes):
        what = f"the parameters of {named} differ at step {step}; which of them are wrong cannot be told"
    else:
        what = f"the parameters of {named} are not those of the others at step {step}"
    return RunError(
        f"silent corruption: {what}",
        where=run,
        fix="take the machine at fault out of the cluster; the same command goes on from the last checkpoint",
    )
