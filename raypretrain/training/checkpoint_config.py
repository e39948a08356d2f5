"""When a run is saved, where, and what stays: its settings."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from raypretrain.config import Config, Count, Location


class FastConfig(Config):
    """Checkpoints on each node's own disk."""

    every: Count | None = Field(default=None, ge=1, description="steps; by default there are none")
    folder: Location = Field(default="", description="on each node's own disk")

    @model_validator(mode="after")
    def _both(self) -> FastConfig:
        if (self.every is None) != (not self.folder):
            raise ValueError("give both 'every' and 'folder', or neither")
        if "://" in self.folder:
            raise ValueError("'folder' is a path on each node's own disk, not a URL")
        return self


class CheckpointConfig(Config):
    """When the run is saved, where, and what stays."""

    every: Literal["auto"] | Count | None = Field(
        default=None, description="steps; by default a tenth of the run, at most 1,000"
    )
    mean_time_between_failures: float | None = Field(
        default=None, gt=0, description="seconds; for every: auto, by default from the number of workers"
    )
    keep: int = Field(default=2, ge=1, description="how many checkpoints stay")
    keep_every: Count | None = Field(
        default=None, ge=1, description="multiples of so many steps stay for ever"
    )
    keep_best: bool = Field(default=False, description="the one with the best held-out loss stays")
    failures: int = Field(default=3, ge=1, description="failed saves in a row that end the run")
    copy_to: Location | None = Field(default=None, description="folder or URL that checkpoints are copied to")
    endpoint_url: str | None = Field(default=None, description="of copy_to's store, if it is not AWS")
    fast: FastConfig = FastConfig()

    @field_validator("every", mode="after")
    @classmethod
    def _at_least_one(cls, every: Any) -> Any:
        if isinstance(every, int) and every < 1:
            raise ValueError("Input should be greater than or equal to 1")
        return every
