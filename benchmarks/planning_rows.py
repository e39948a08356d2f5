"""Measured training runs whose truth is public: what the planner is fitted to, and what it is tried on.

``measured_throughput.csv``: MPT from 125 M to 70 B on 8 to 512 GPUs, as published in MosaicML's llm-foundry
(scripts/train/benchmarking): tokens a second, and that this micro-batch fitted. FSDP's full sharding is ZeRO 3, its
sharding of gradients and optimizer ZeRO 2.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from raypretrain.planning.calibration import Calibration
from raypretrain.planning.hardware import GPUS, Gpu
from raypretrain.planning.layout import Layout
from raypretrain.planning.memory import fits
from raypretrain.planning.network import Network
from raypretrain.planning.time import step

TABLE = Path(__file__).with_name("measured_throughput.csv")
SIZES = {
    "125m": (768, 12, 12), "350m": (1024, 24, 16), "760m": (1536, 24, 12), "1b": (2048, 24, 16),
    "3b": (2560, 32, 20), "7b": (4096, 32, 32), "13b": (5120, 40, 40), "30b": (7168, 48, 56), "70b": (8192, 80, 64),
}  # fmt: skip
"""Width, layers and heads of MPT by its name (llm-foundry's configs); its vocabulary is 50,368."""


@dataclass(frozen=True)
class Measured:
    """A row of the table."""

    model: str
    gpu: Gpu
    layout: Layout
    tokens_per_second: float

    @cached_property
    def network(self) -> Network:
        """Of its model."""
        return mpt(self.model, self.layout.length)

    def predicted(self, calibration: Calibration) -> float:
        """Tokens a second of a GPU."""
        seconds = step(self.network, self.layout, self.gpu, calibration).seconds
        return self.layout.tokens_per_step / self.layout.workers / seconds

    def fits(self, times: int = 1) -> bool:
        """Whether so many times its micro-batch is said to fit."""
        layout = replace(self.layout, micro_batch=self.layout.micro_batch * times)
        return fits(self.network, layout, self.gpu.memory)

    @property
    def setting(self) -> tuple[Any, ...]:
        """Everything but the micro-batch."""
        return self.model, self.gpu.name, replace(self.layout, micro_batch=1, accumulation=1)


def mpt(model: str, length: int) -> Network:
    """MPT: a GPT-2 in all that counts here."""
    width, layers, heads = SIZES[model]
    return Network(
        vocabulary=50_368, width=width, layers=layers, heads=heads, key_value_heads=heads,
        head_width=width // heads, feed_forward=4 * width, gated=False, biases=True, tied=True, masked=False,
        positions=length,
    )  # fmt: skip


def read_rows(path: Path = TABLE) -> list[Measured]:
    """All of the table."""
    with path.open(encoding="utf-8", newline="") as file:
        return [_row(values) for values in csv.DictReader(file)]


def _row(values: dict[str, str]) -> Measured:
    layout = Layout(
        workers=int(values["gpus"]),
        zero=int(values["zero"]),
        micro_batch=int(values["micro_batch"]),
        accumulation=int(values["accumulation"]),
        length=int(values["sequence_length"]),
        precision=values["precision"],  # type: ignore[arg-type]
        checkpointing=values["checkpointing"],  # type: ignore[arg-type]
        chunked=False,
    )
    return Measured(values["model"], GPUS[values["gpu"]], layout, float(values["tokens_per_second_per_gpu"]))


def halves(rows: list[Measured]) -> tuple[list[Measured], list[Measured]]:
    """By model size: every other size, beginning with the smallest, and the rest."""
    sizes = list(SIZES)
    return (
        [row for row in rows if sizes.index(row.model) % 2 == 0],
        [row for row in rows if sizes.index(row.model) % 2 == 1],
    )
