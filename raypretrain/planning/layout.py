"""How a training step is laid out over devices, in plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Checkpointing = Literal["none", "selective", "full"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What of a recipe's settings memory and time hang on.

    Args:
        workers: devices.
        zero: ZeRO stage, 0 to 3.
        micro_batch: sequences of one forward pass of one worker.
        accumulation: micro-batches of a step, on one worker.
        length: tokens of a sequence.
        precision: of weights and activations: ``bf16`` (the optimizer's state stays fp32), ``fp8`` (of the products
            alone, otherwise as bf16) or ``fp32``.
        checkpointing: which activations are computed again in the backward pass.
        offload: the optimizer works in the node's memory, with ``nvme`` its moments lie on the node's disk.
        sequence_workers: so many neighbouring workers share each sequence.
        predicted: share of the positions that have a target.
        chunked: the logits exist in chunks (``models/loss.py``), not all at once.
        blockwise: attention works by blocks and keeps their probabilities for the backward pass, as it does on CPUs.
        documents: a token sees its own document alone, of several in a sequence.
        trained: share of the weights that have gradients and an optimizer's state; with none nothing is kept for a
            backward pass.
        muon: the layers' matrices are learned by Muon.
    """

    workers: int
    zero: int
    micro_batch: int
    length: int
    accumulation: int = 1
    precision: Literal["bf16", "fp8", "fp32"] = "bf16"
    checkpointing: Checkpointing = "none"
    offload: Literal["none", "cpu", "nvme"] = "none"
    sequence_workers: int = 1
    predicted: float = 1.0
    chunked: bool = True
    blockwise: bool = False
    documents: bool = True
    trained: float = 1.0
    muon: bool = False

    @property
    def unit(self) -> int:
        """Bytes of a weight, or of an entry of an activation."""
        return 4 if self.precision == "fp32" else 2

    @property
    def tokens(self) -> int:
        """Of one worker's share of a micro-batch."""
        return self.micro_batch * self.length // self.sequence_workers

    @property
    def tokens_per_step(self) -> int:
        """Of all workers."""
        return self.tokens * self.accumulation * self.workers
