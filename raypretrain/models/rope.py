"""Rotary positions that are scaled, so that a model goes on with texts longer than those it was made for."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from raypretrain.config import Config, Count
from raypretrain.errors import InputError
from raypretrain.models.shape import mapping, reading

_OLD_KEY, _KEY = "rope_scaling", "rope_parameters"
"""Of a config.json: transformers 4 writes the first, transformers 5 the second, which holds the base as well."""


class RopeScaling(Config):
    """How the frequencies of the rotary positions are lowered.

    ``linear`` divides all by the factor (Chen et al., arXiv:2306.15595). ``llama3`` divides by it those that turn less
    than ``low_frequency`` times in ``original_length`` tokens, leaves those that turn more than ``high_frequency``
    times, and those between go from one to the other (Llama 3.1, arXiv:2407.21783).
    """

    kind: Literal["linear", "llama3"]
    factor: float = Field(ge=1)
    original_length: Count | None = Field(default=None, gt=0)
    low_frequency: float = Field(default=1.0, gt=0)
    high_frequency: float = Field(default=4.0, gt=0)

    @model_validator(mode="after")
    def _whole(self) -> RopeScaling:
        if self.kind == "llama3" and self.original_length is None:
            raise ValueError("kind 'llama3' needs original_length, the longest text before the scaling")
        if self.high_frequency <= self.low_frequency:
            raise ValueError("high_frequency must be greater than low_frequency")
        return self

    def apply(self, frequency: float) -> float:
        """The frequency, in radians a token, that takes the place of this one."""
        if self.kind == "linear" or self.original_length is None:
            return frequency / self.factor
        turns = self.original_length * frequency / (2 * math.pi)
        kept = (turns - self.low_frequency) / (self.high_frequency - self.low_frequency)
        kept = min(1.0, max(0.0, kept))
        return (1 - kept) * frequency / self.factor + kept * frequency

    def to_huggingface(self) -> dict[str, Any]:
        """As in a ``config.json``."""
        values: dict[str, Any] = {"rope_type": self.kind, "factor": self.factor}
        if self.kind == "llama3":
            values |= {
                "low_freq_factor": self.low_frequency,
                "high_freq_factor": self.high_frequency,
                "original_max_position_embeddings": self.original_length,
            }
        return values


def rope_to_huggingface(theta: float, scaling: RopeScaling | None) -> dict[str, Any]:
    """The keys of a ``config.json`` that say how positions are turned, for transformers 4 and 5."""
    how = {"rope_type": "default"} if scaling is None else scaling.to_huggingface()
    return {
        "rope_theta": theta,
        _OLD_KEY: None if scaling is None else how,
        _KEY: {**how, "rope_theta": theta},
    }


def rope_from_huggingface(values: dict[str, Any], where: str) -> tuple[float, RopeScaling | None]:
    """Base and scaling of the rotary positions in a ``config.json``.

    Raises:
        InputError: they are scaled in a way that is not known.
    """
    given = {key: mapping(values, key, where) for key in (_KEY, _OLD_KEY)}
    with reading(where):
        theta = float(given[_KEY].get("rope_theta") or values.get("rope_theta") or 10_000.0)
    kinds = {key: rope.get("rope_type", rope.get("type", "default")) for key, rope in given.items()}
    key = next((key for key, kind in kinds.items() if kind != "default"), None)
    return theta, None if key is None else _scaling(given[key], kinds[key], key, where)


def _scaling(rope: dict[str, Any], kind: str, key: str, where: str) -> RopeScaling:
    if kind not in ("linear", "llama3"):
        raise InputError(
            f"scales its rotary positions ({key}: {kind}); only linear and llama3 are known", where=where
        )
    with reading(where):
        given: dict[str, Any] = {"kind": kind, "factor": float(rope["factor"])}
        if kind == "llama3":
            given |= {
                "low_frequency": float(rope["low_freq_factor"]),
                "high_frequency": float(rope["high_freq_factor"]),
                "original_length": int(rope["original_max_position_embeddings"]),
            }
    try:
        return RopeScaling(**given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, (key, *first["loc"])))
        raise InputError(f"has a value that does not fit ({place}: {first['msg']})", where=where) from None
