"""Which network a recipe asks for: a preset, overrides, and the shape that follows. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from raypretrain.config import Config, Count, Location, nearest
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


DEFAULT_PRESET = "llama-10m"

_OF_NO_FAMILY = ("base", "endpoint_url", "preset")
_OF_A_BASE = ("rope_theta", "rope_scaling")
"""What may differ from a base model's: it is in no weight's shape."""

_ROWS = 64
"""An embedding that grows has a multiple of so many rows: GPUs multiply by round numbers faster."""


class ModelConfig(Config):
    """The network: a preset, which says the family, and what shall differ from it; or a base model's.

    What is not given is the preset's. One thing follows: where the preset has as many key-value heads as
    heads, so has a model with another number of heads. What a family does not have cannot be given.
    """

    base: Location = Field(default="", alias="from")
    """The folder of a model in Hugging Face's layout whose weights and tokenizer it begins with; or its URL."""
    endpoint_url: str | None = None
    """Of the store, if it is not AWS."""
    preset: str | None = None
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
    _base_shape: ModelShape | None = PrivateAttr(default=None)

    @field_validator("base")
    @classmethod
    def _a_path_or_a_url(cls, base: str) -> str:
        if base.startswith("file://"):
            raise ValueError("write the folder of a base model as a path, without file://")
        return base

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is not None and info.data.get("base"):
            raise ValueError(
                "the base model of model.from says what the network is; leave one of the two out"
            )
        if name is not None and name not in PRESETS:
            guess = nearest(name, PRESETS)
            hint = f"did you mean '{guess}'?" if guess else f"known: {', '.join(PRESETS)}"
            raise ValueError(f"there is no preset '{name}'; {hint}")
        return name

    @field_validator("*")
    @classmethod
    def _known_to_the_family(cls, value: Any, info: ValidationInfo) -> Any:
        # A preset that was refused is not there, and then there is no family to ask.
        if value is None or info.field_name in _OF_NO_FAMILY or "preset" not in info.data:
            return value
        if info.data.get("base"):
            if info.field_name not in _OF_A_BASE:
                raise ValueError("the base model of model.from says what the network is; take it out")
            return value
        preset = PRESETS[info.data["preset"] or DEFAULT_PRESET]
        if info.field_name not in _settings(preset):
            raise ValueError(f"there is no such setting in the family '{preset.family}'; take it out")
        return value

    @model_validator(mode="after")
    def _sizes_fit(self, info: ValidationInfo) -> ModelConfig:
        if self.base:
            self._base_shape = _shape_of_base(self.base, info)
            if any(getattr(self, n) is not None and n not in _settings(self._base_shape) for n in _OF_A_BASE):
                raise ValueError(
                    f"a base model of the family '{self._base_shape.family}' has no rope_theta to set"
                )
            return self
        shape = self.shape(1, 1)
        if shape.width % shape.heads:
            raise ValueError(f"{shape.heads} heads do not divide the width {shape.width}")
        shape.check()
        return self

    @property
    def objective(self) -> Objective:
        """What the family learns to predict."""
        return self._pattern.objective

    @property
    def storage_options(self) -> dict[str, Any] | None:
        """How the store is reached that the base model is in."""
        return {"endpoint_url": self.endpoint_url} if self.endpoint_url else None

    @property
    def source(self) -> str:
        """Where its sizes come from, as a recipe's line says it."""
        return f"model.from: {self.base}" if self.base else f"model.preset: {self.preset or DEFAULT_PRESET}"

    @property
    def base_shape(self) -> ModelShape | None:
        """Of the base model, where there is one."""
        return self._base_shape

    @property
    def _pattern(self) -> ModelShape:
        return self._base_shape or PRESETS[self.preset or DEFAULT_PRESET]

    def shape(self, vocabulary: int, length: int) -> ModelShape:
        """The shape with this vocabulary, for sequences of ``length`` tokens.

        A base model's has its own rows, and more where its tokenizer got more tokens than there are rows; and its own
        positions: where these are turned, not learned, ``length`` may be more.
        """
        preset = self._pattern
        given = {key: value for key, value in self if key not in _OF_NO_FAMILY and value is not None}
        if self._base_shape is not None:
            longest = preset.max_length if preset.learns_positions else max(preset.max_length, length)
            rows = preset.vocabulary if vocabulary <= preset.vocabulary else -(-vocabulary // _ROWS) * _ROWS
            return replace(preset, vocabulary=rows, max_length=longest, **given)
        if isinstance(preset, LlamaShape) and "heads" in given and preset.key_value_heads == preset.heads:
            given.setdefault("key_value_heads", given["heads"])
        shape = replace(preset, vocabulary=vocabulary, max_length=length, **given)
        return replace(shape, head_width=shape.width // shape.heads)


def _shape_of_base(base: str, info: ValidationInfo) -> ModelShape:
    """As its config says, which ``base_config`` of the context is where it is not read from a folder.

    That is, a run's own, whose folder may be gone; or one in a store.
    """
    values = (info.context or {}).get("base_config")
    if values is None:
        fix = "give model.from the folder of a model in Hugging Face's layout"
        values = read_json_object(Path(base) / "config.json", fix)
    return read_shape(values, f"{base}/config.json")


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
