"""Which network a recipe asks for: a preset, overrides, and the shape that follows. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from raypretrain.config import Config, Count, nearest
from raypretrain.errors import InputError
from raypretrain.models.bert_config import BERTS, BertShape
from raypretrain.models.esm2_config import ESM2S, Esm2Shape
from raypretrain.models.gpt2_config import GPT2S, Gpt2Shape
from raypretrain.models.llama_config import LLAMAS, LlamaShape
from raypretrain.models.modernbert_config import MODERNBERTS, ModernBertShape
from raypretrain.models.rope import RopeScaling
from raypretrain.models.shape import ModelShape, Objective

PRESETS: dict[str, ModelShape] = {**LLAMAS, **GPT2S, **BERTS, **MODERNBERTS, **ESM2S}
"""Shapes by name; their vocabulary and longest sequence are 0 until a recipe gives them."""

SHAPES: dict[str, type[ModelShape]] = {
    kind.family: kind for kind in (LlamaShape, Gpt2Shape, BertShape, ModernBertShape, Esm2Shape)
}
"""Family (the ``model_type`` of Hugging Face's config) → what its shapes are."""


class ModelConfig(Config):
    """The network: a preset, which says the family, and what shall differ from it.

    What is not given is the preset's. One thing follows: where the preset has as many key-value heads as
    heads, so has a model with another number of heads. What a family does not have cannot be given.
    """

    preset: str = "llama-10m"
    width: Count | None = Field(default=None, gt=0)
    layers: Count | None = Field(default=None, gt=0)
    heads: Count | None = Field(default=None, gt=0)
    key_value_heads: Count | None = Field(default=None, gt=0)
    feed_forward: Count | None = Field(default=None, gt=0)
    tied: bool | None = None
    rope_theta: float | None = Field(default=None, gt=1)
    rope_scaling: RopeScaling | None = None
    global_every: Count | None = Field(default=None, gt=0)
    local_attention: Count | None = Field(default=None, gt=0)
    global_rope_theta: float | None = Field(default=None, gt=1)
    local_rope_theta: float | None = Field(default=None, gt=1)
    norm_eps: float | None = Field(default=None, gt=0, lt=1)
    initializer_range: float | None = Field(default=None, gt=0)

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, name: str) -> str:
        if name not in PRESETS:
            guess = nearest(name, PRESETS)
            hint = f"did you mean '{guess}'?" if guess else f"known: {', '.join(PRESETS)}"
            raise ValueError(f"there is no preset '{name}'; {hint}")
        return name

    @field_validator("*")
    @classmethod
    def _known_to_the_family(cls, value: Any, info: ValidationInfo) -> Any:
        # A preset that was refused is not there, and then there is no family to ask.
        preset = PRESETS.get(info.data.get("preset", ""))
        if preset and value is not None and info.field_name not in _settings(preset):
            raise ValueError(f"there is no such setting in the family '{preset.family}'; take it out")
        return value

    @model_validator(mode="after")
    def _sizes_fit(self) -> ModelConfig:
        shape = self.shape(1, 1)
        if shape.width % shape.heads:
            raise ValueError(f"{shape.heads} heads do not divide the width {shape.width}")
        shape.check()
        return self

    @property
    def objective(self) -> Objective:
        """What the preset's family learns to predict."""
        return PRESETS[self.preset].objective

    def shape(self, vocabulary: int, length: int) -> ModelShape:
        """The shape with this vocabulary, for sequences of ``length`` tokens."""
        preset = PRESETS[self.preset]
        given = {key: value for key, value in self if key != "preset" and value is not None}
        if isinstance(preset, LlamaShape) and "heads" in given and preset.key_value_heads == preset.heads:
            given.setdefault("key_value_heads", given["heads"])
        shape = replace(preset, vocabulary=vocabulary, max_length=length, **given)
        return replace(shape, head_width=shape.width // shape.heads)


def _settings(shape: ModelShape) -> set[str]:
    return {field.name for field in fields(shape)}


def read_shape(values: dict[str, Any], where: str) -> ModelShape:
    """The shape that a ``config.json`` of any family describes.

    Args:
        values: what the file holds.
        where: its path.

    Raises:
        InputError: another family, parts that this package has not, or a key that is missing.
    """
    kind = SHAPES.get(str(values.get("model_type")))
    if kind is None:
        known = " or ".join(f"'{family}'" for family in SHAPES)
        raise InputError(
            f"is a model of type '{values.get('model_type')}'",
            where=where,
            fix=f"give a model of type {known}",
        )
    return kind.from_huggingface_config(values, where)


def read_json_object(path: Path, fix: str | None = None) -> dict[str, Any]:
    """The JSON object in a local file that a user has given.

    Raises:
        InputError: there is none; ``fix`` is what to do where the file is not there.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError("there is no such file", where=str(path), fix=fix) from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read as JSON ({error})", where=str(path)) from None
    if not isinstance(values, dict):
        raise InputError("holds no JSON object", where=str(path))
    return values
