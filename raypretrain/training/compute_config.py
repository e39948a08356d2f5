"""What a run computes with: its settings."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from raypretrain.config import Config
from raypretrain.training.settings import Checkpointing


class ComputeConfig(Config):
    """What the run computes with. Nothing here changes what is learned, up to rounding."""

    workers: int | tuple[int, int] | None = Field(
        default=None,
        description="by default every GPU, or one worker without GPUs; [least, most] goes on with what there is",
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    zero: Literal[0, 1, 2, 3] = Field(default=1, description="DeepSpeed ZeRO stage")
    precision: Literal["fp32", "bf16"] | None = Field(
        default=None, description="by default bf16 on GPUs, else fp32"
    )
    micro_batch: int | None = Field(
        default=None, ge=1, description="sequences of one forward pass of one worker"
    )
    gradient_checkpointing: Checkpointing = Field(
        default="none", description="activations that are computed again in the backward pass"
    )
    sequence_workers: int = Field(
        default=1, ge=1, description="so many workers share each sequence, for long ones"
    )
    compile: Literal["auto"] | bool = Field(
        default="auto", description="compile the layers; auto does where a run is long enough to earn it back"
    )
    offload: Literal["none", "cpu", "nvme"] = Field(
        default="none", description="where the optimizer works and has its state"
    )
    offload_folder: str | None = Field(default=None, description="on each node's own disk; for offload: nvme")
    cpus_per_worker: float | None = Field(default=None, gt=0)
    stream_cpus: float | None = Field(
        default=None, gt=0, description="CPUs that reading and tokenizing may use"
    )
    address: str | None = Field(default=None, description="of a Ray cluster; by default one on this machine")
    max_failures: int = Field(default=3, ge=0, description="restarts after a lost worker")
    standby: bool = Field(
        default=True,
        description="have processes stand by on each node, with all imported, so that a restart takes seconds less",
    )
    stall_timeout: float = Field(
        default=600.0, gt=0, description="seconds without progress until a worker is taken to hang"
    )
    straggler_factor: float = Field(
        default=1.5, gt=1, description="times the median's computing until a worker is reported as slow"
    )

    @model_validator(mode="after")
    def _zero_allows_it(self) -> ComputeConfig:
        if self.gradient_checkpointing == "selective" and self.zero == 3:
            raise ValueError(
                "gradient_checkpointing: selective does not go with zero: 3; take full, or zero: 2"
            )
        if self.compile is True and not self.compilable:
            raise ValueError(
                "compile: true goes neither with zero: 3 nor with gradient_checkpointing: selective"
            )
        if self.offload != "none" and self.zero == 0:
            raise ValueError("offload needs zero: 1, 2 or 3")
        if (self.offload == "nvme") != (self.offload_folder is not None):
            raise ValueError(
                "offload: nvme and offload_folder, a folder on each node's own disk, need each other"
            )
        return self

    @property
    def compilable(self) -> bool:
        """Whether nothing else looks into the layers."""
        return self.zero < 3 and self.gradient_checkpointing != "selective"

    @model_validator(mode="after")
    def _workers_share(self) -> ComputeConfig:
        together = self.sequence_workers
        if together > 1 and (not isinstance(self.workers, int) or self.workers % together):
            raise ValueError(f"sequence_workers: {together} needs workers: a multiple of {together}")
        return self

    @field_validator("workers", mode="before")
    @classmethod
    def _number_or_pair(cls, value: Any) -> Any:
        numbers = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
        if value is not None and not all(type(number) is int and number >= 1 for number in numbers):
            raise ValueError(f"give a number of workers, from 1 on, or [least, most], not {value}")
        return value
