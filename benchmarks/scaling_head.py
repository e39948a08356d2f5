"""What a run asks of the stream's CPUs and of the head node: dealer, board, controller, driver. Pure functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scaling_collectives import LENGTH, Model, nodes_of
from scaling_constants import (
    BOARD_CALL,
    BYTES_OF_A_TOKEN,
    DEALER_BYTE,
    DEALER_CALL,
    DEALER_TOKEN,
    DEALER_WINDOW,
    LOOK,
    POLL,
    REQUEST,
    TOKENS_OF_A_CORE,
)

from raypretrain.tokens.dealer import steps_of_a_deal
from raypretrain.training.cluster import look_seconds
from raypretrain.training.heartbeat import beat_seconds

WINDOW = 4_000_000  # bytes of text, the default of a recipe
HELPERS = 5  # actors beside the workers: dealer, board, and Ray Train's controller and two more


@dataclass(frozen=True)
class Costs:
    """CPU seconds of the dealer for a call, a byte of tokens handed out, a token laid end to end and a window."""

    call: float
    byte: float
    token: float
    window: float


DEALER = Costs(DEALER_CALL.value, DEALER_BYTE.value, DEALER_TOKEN.value, DEALER_WINDOW.value)


@dataclass(frozen=True)
class Stream:
    """What a run reads and hands out in a second.

    Args:
        tokens: that it trains on.
        steps: of a deal.
        calls: of the dealer.
        windows: that are tokenized.
        dealer: cores that the dealer keeps busy; it has one.
        held: bytes of the dealer's memory.
    """

    tokens: float
    steps: int
    calls: float
    windows: float
    dealer: float
    held: int

    @property
    def cores(self) -> float:
        """That read and tokenize."""
        return self.tokens / TOKENS_OF_A_CORE.value

    @property
    def text(self) -> float:
        """Bytes of the corpus."""
        return self.tokens * BYTES_OF_A_TOKEN.value

    @property
    def requests(self) -> float:
        """Reads of a bucket."""
        return self.text / REQUEST.value


def stream(
    ranks: int, tokens_of_a_rank: float, length: int, costs: Costs = DEALER, steps: int | None = None
) -> Stream:
    """Of a run on ``ranks`` GPUs that has a sequence of ``length`` tokens a rank and step.

    Args:
        steps: of a deal; by default as the product chooses.
    """
    steps = steps or steps_of_a_deal(ranks, length, ranks)
    tokens = ranks * tokens_of_a_rank
    calls = ranks * tokens_of_a_rank / length / steps
    windows = tokens * BYTES_OF_A_TOKEN.value / WINDOW
    busy = calls * costs.call + tokens * (4 * costs.byte + costs.token) + windows * costs.window
    held = 2 * steps * ranks * length * 4 + (64 << 20)
    return Stream(tokens, steps, calls, windows, busy, held)


@dataclass(frozen=True)
class Head:
    """What keeps the head node busy, in cores; each is one process, which has one of them.

    Args:
        board: heartbeats and questions of the workers.
        controller: Ray Train polls its workers.
        driver: reads every worker's heartbeat once a second.
        actors: of the cluster, with the processes that stand by.
    """

    gpus: int
    board: float
    controller: float
    driver: float
    actors: int

    @property
    def nodes(self) -> int:
        """Of the cluster."""
        return nodes_of(self.gpus)


def head(gpus: int) -> Head:
    """Of a run on so many GPUs, with a worker each."""
    every = beat_seconds(gpus)
    return Head(
        gpus,
        gpus / every * BOARD_CALL.value,
        gpus / look_seconds(gpus) * POLL.value,
        gpus * LOOK.value,
        2 * gpus + HELPERS,
    )


def first_full(busy: Callable[[int], float]) -> int:
    """The number of GPUs at which something is full (``busy`` reaches 1), to two digits."""
    most = 8
    while busy(most) < 1:
        most *= 2
    least = most // 2
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if busy(middle) < 1 else (least, middle)
    return round(most, 2 - len(str(most)))


def of_model(model: Model, gpus: int) -> Stream:
    """A stream that feeds GPUs which never wait for each other: the most that could be asked of it."""
    return stream(gpus, LENGTH / model.compute, LENGTH)
