"""Public pretraining runs whose GPU-hours are known: the planner was not fitted to any of them.

What a run's model card or paper does not say is assumed alike for all: ZeRO 3, selective checkpointing (Llama 1's paper
says that it has it), 1,024 GPUs, and micro-batches of a GPU's share of the global batch, up to four sequences. Hours
that include restarts are predicted with the budget of ``wholerun.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raypretrain.planning.calibration import CALIBRATIONS
from raypretrain.planning.compute import mean_span
from raypretrain.planning.hardware import GPUS
from raypretrain.planning.layout import Checkpointing, Layout
from raypretrain.planning.network import Network
from raypretrain.planning.time import step
from raypretrain.planning.wholerun import BUDGET


@dataclass(frozen=True, kw_only=True)
class PublicRun:
    """A run, and what it took.

    Args:
        sizes: layers, width, heads, key-value heads, feed-forward, vocabulary.
        hours: GPU-hours.
        whole: the hours include restarts and whatever else; else they are the throughput's.
        batch: tokens of a step.
        window: tokens that three of four layers see; 0 for all.
    """

    name: str
    sizes: tuple[int, int, int, int, int, int]
    length: int
    tokens: float
    gpus: int
    gpu: str
    hours: float
    whole: bool
    source: str
    batch: float = 4 * 2**20
    kind: Literal["llama", "gpt"] = "llama"
    checkpointing: Checkpointing = "selective"
    window: int = 0

    @property
    def network(self) -> Network:
        """Its network."""
        layers, width, heads, key_value_heads, feed_forward, vocabulary = self.sizes
        return Network(
            vocabulary=vocabulary, width=width, layers=layers, heads=heads, key_value_heads=key_value_heads,
            head_width=width // heads, feed_forward=feed_forward, gated=self.kind == "llama",
            biases=self.kind == "gpt", tied=False, masked=False,
        )  # fmt: skip

    @property
    def tokens_per_second(self) -> float:
        """Of a GPU, in the run, as predicted."""
        gpu = GPUS[self.gpu]
        share = max(1, round(self.batch / self.length / self.gpus))
        layout = Layout(
            workers=self.gpus,
            zero=3,
            micro_batch=min(4, share),
            length=self.length,
            checkpointing=self.checkpointing,
        )
        span = (3 * min(self.window, self.length) + mean_span(self.length)) / 4 if self.window else None
        made = step(self.network, layout, gpu, CALIBRATIONS[gpu.efficiency], span)
        return layout.tokens / made.seconds

    @property
    def predicted(self) -> float:
        """GPU-hours."""
        return self.tokens / self.tokens_per_second / 3600 / (BUDGET if self.whole else 1.0)

    @property
    def error(self) -> float:
        """Predicted ÷ true − 1."""
        return self.predicted / self.hours - 1


_LLAMA = (
    "Touvron et al., LLaMA, 2023, tables 2 and 15: hours of the throughput (65B: 380 tokens/s on 2,048 GPUs)"
)
_LLAMA_2 = "model card of Llama 2: cumulative hours; number of GPUs assumed"
_OLMO = "technical report of OLMo 3, restarts included; number of GPUs assumed; shapes of the configs"

RUNS = [
    PublicRun(name="Llama 1 7B", sizes=(32, 4096, 32, 32, 11008, 32000), length=2048, tokens=1.0e12, gpus=1024,
              gpu="a100", hours=82_432, whole=False, source=_LLAMA),
    PublicRun(name="Llama 1 13B", sizes=(40, 5120, 40, 40, 13824, 32000), length=2048, tokens=1.0e12, gpus=1024,
              gpu="a100", hours=135_168, whole=False, source=_LLAMA),
    PublicRun(name="Llama 1 33B", sizes=(60, 6656, 52, 52, 17920, 32000), length=2048, tokens=1.4e12, gpus=2048,
              gpu="a100", hours=530_432, whole=False, source=_LLAMA),
    PublicRun(name="Llama 1 65B", sizes=(80, 8192, 64, 64, 22016, 32000), length=2048, tokens=1.4e12, gpus=2048,
              gpu="a100", hours=1_022_362, whole=False, source=_LLAMA),
    PublicRun(name="Llama 2 7B", sizes=(32, 4096, 32, 32, 11008, 32000), length=4096, tokens=2.0e12, gpus=1024,
              gpu="a100", hours=184_320, whole=True, source=_LLAMA_2),
    PublicRun(name="Llama 2 13B", sizes=(40, 5120, 40, 40, 13824, 32000), length=4096, tokens=2.0e12, gpus=1024,
              gpu="a100", hours=368_640, whole=True, source=_LLAMA_2),
    PublicRun(name="Llama 2 70B", sizes=(80, 8192, 64, 8, 28672, 32000), length=4096, tokens=2.0e12, gpus=1024,
              gpu="a100", hours=1_720_320, whole=True, source=_LLAMA_2),
    PublicRun(name="GPT-NeoX-20B", sizes=(44, 6144, 64, 64, 24576, 50432), length=2048, tokens=472e9, gpus=96,
              batch=3.15e6, gpu="a100-40gb", hours=175_680, whole=True, kind="gpt", checkpointing="full",
              source="Black et al., GPT-NeoX-20B, 2022; its published config checkpoints every layer"),
    PublicRun(name="Llama 3.1 405B", sizes=(126, 16384, 128, 8, 53248, 128256), length=8192, tokens=15.6e12,
              gpus=16_384, batch=2**24, gpu="h100", hours=30.84e6, whole=True,
              source="model card of Llama 3.1; a sequence a GPU assumed (they had tensor and pipeline parallelism)"),
    PublicRun(name="OLMo 3 7B", sizes=(32, 4096, 32, 32, 11008, 100352), length=8192, tokens=5.93e12, gpus=512,
              gpu="h100", hours=234e3, whole=True, window=4096, source=_OLMO),
    PublicRun(name="OLMo 3 32B", sizes=(64, 5120, 40, 8, 27648, 100352), length=8192, tokens=5.50e12, gpus=1024,
              batch=2**23, gpu="h100", hours=1.05e6, whole=True, window=4096, source=_OLMO),
]  # fmt: skip

GPT_3 = PublicRun(
    name="GPT-3 175B", sizes=(96, 12288, 96, 96, 49152, 50257), length=2048, tokens=300e9, gpus=1024, gpu="v100",
    hours=0.0, whole=False, kind="gpt", source="Brown et al., 2020, table D.1: 3.14e23 operations",
)  # fmt: skip
GPT_3_FLOPS = 3.14e23

GPT_3_RATE, GPT_3_PRICE = 28e12, 1.5
"""What estimates of its cost in 2020 assumed: 28 TFLOP/s of a V100, at $1.50 an hour: 4 to 5 million dollars."""

TORCHTITAN = PublicRun(
    name="torchtitan, Llama 3.1 8B", sizes=(32, 4096, 32, 8, 14336, 128256), length=8192, tokens=1e12, gpus=8,
    gpu="h100", hours=1e12 / 5762 / 3600, whole=False, batch=8 * 2 * 8192, source="torchtitan's table: FSDP, selective",
)  # fmt: skip
TORCHTITAN_COMPILED = 6667
"""Tokens a second of a GPU, with the layers compiled."""
