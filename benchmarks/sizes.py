"""What the contestants of a training step work on: a shape, a batch of tokens, a precision and a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from raypretrain.models.config import ModelConfig
from raypretrain.models.shape import ModelShape

Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


@dataclass(frozen=True)
class Work:
    """One training step, the same for all.

    Args:
        shape: of the Llama that ours and most peers are.
        batch: sequences.
        length: tokens of one.
        precision: with ``bf16`` the weights, the forward and backward pass and the optimizer's state are bf16.
    """

    shape: ModelShape
    batch: int
    length: int
    precision: Precision = "fp32"
    device: str = "cpu"

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.batch * self.length

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return torch.float32 if self.precision == "fp32" else torch.bfloat16

    def place(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model in this precision, on this device."""
        return model.to(device=self.device, dtype=self.dtype)

    def rows(self) -> tuple[Tensor, Tensor]:
        """[batch, length] random token ids, and for each the one after it."""
        size, draw = (self.batch, self.length + 1), torch.Generator().manual_seed(0)
        ids = torch.randint(0, self.shape.vocabulary, size, generator=draw).to(self.device)
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def synchronize(self) -> None:
        """Wait for what the device has been given to do."""
        if self.device != "cpu":
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Size:
    """A network and how much text a step has, unless a benchmark says otherwise."""

    config: ModelConfig
    vocabulary: int = 16384
    batch: int = 8
    length: int = 512


SIZES: dict[str, Size] = {
    "nano": Size(ModelConfig(width=64, layers=2, heads=2, feed_forward=192), 512, 2, 64),
    # Named after all their parameters, where a preset of ours is after those without the embedding.
    "10m": Size(ModelConfig(width=256, layers=8, heads=4, feed_forward=704)),
    "30m": Size(ModelConfig(width=512, layers=7, heads=8, feed_forward=1344)),
    "llama-1m": Size(ModelConfig(preset="llama-1m")),
    "llama-10m": Size(ModelConfig(preset="llama-10m")),
    # The Llama as large as the smallest GPT-2, with its vocabulary; and Llama 3.2 1B.
    "124m": Size(ModelConfig(width=768, layers=12, heads=12, feed_forward=2048), 50304, 16, 1024),
    "1b": Size(ModelConfig(preset="llama-1b"), 128256, 4, 2048),
}


def work_of(
    size: str,
    precision: Precision,
    device: str = "cpu",
    batch: int | None = None,
    length: int | None = None,
) -> Work:
    """A step of that size."""
    chosen = SIZES[size]
    length = length or chosen.length
    shape = chosen.config.shape(chosen.vocabulary, length)
    return Work(shape, batch or chosen.batch, length, precision, device)
