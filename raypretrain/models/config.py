"""How large the network is: presets, overrides, and what follows from them. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from raypretrain.config import Config, Count, nearest
from raypretrain.errors import InputError


@dataclass(frozen=True)
class ModelShape:
    """Every number that decides what a decoder's weights look like and what they compute.

    Args:
        vocabulary: rows of the embedding.
        width: entries of the residual stream.
        feed_forward: entries inside the SwiGLU block.
        heads: query heads. Groups of them share one of ``key_value_heads`` keys and values.
        head_width: entries of one head; ``width / heads`` unless an imported model says otherwise.
        tied: the embedding is also the output matrix.
        max_length: the longest sequence, in tokens, that the model is meant for.
        initializer_range: standard deviation of the initial weights.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    key_value_heads: int
    head_width: int
    feed_forward: int
    tied: bool
    rope_theta: float
    norm_eps: float
    max_length: int
    initializer_range: float

    @property
    def layer_matrices(self) -> int:
        """Weights in the matrices of one layer: attention and feed-forward."""
        queries, keys = self.heads * self.head_width, self.key_value_heads * self.head_width
        return self.width * (2 * queries + 2 * keys + 3 * self.feed_forward)

    @property
    def parameters(self) -> int:
        """All the weights, exactly; a tied embedding is counted once."""
        embeddings = self.vocabulary * self.width * (1 if self.tied else 2)
        return embeddings + self.layers * (self.layer_matrices + 2 * self.width) + self.width

    def flops_per_token(self, length: int) -> int:
        """Floating-point operations of forward and backward for one token in a sequence of ``length``.

        6 for each weight of a matrix (the embedding's look-up costs none) and 12·layers·heads·head_width·
        length for the attention, causal or not, as PaLM (appendix B) counts for the FLOPs utilisation.
        """
        matrices = self.layers * self.layer_matrices + self.vocabulary * self.width
        return 6 * matrices + 12 * self.layers * self.heads * self.head_width * length

    def to_huggingface_config(self) -> dict[str, Any]:
        """The ``config.json`` of a ``LlamaForCausalLM`` of this shape, without token ids and dtype."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "intermediate_size": self.feed_forward,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "head_dim": self.head_width,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_length,
            "initializer_range": self.initializer_range,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,  # transformers 4 reads this key, transformers 5 the next
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "attention_bias": False,
            "attention_dropout": 0.0,
            "mlp_bias": False,
            "tie_word_embeddings": self.tied,
        }

    @classmethod
    def from_huggingface_config(cls, values: dict[str, Any], where: str) -> ModelShape:
        """The shape that a Llama's ``config.json`` describes.

        Raises:
            InputError: another architecture, parts that this package has not, or a key that is missing.
        """
        _refuse_unknown_parts(values, where)
        rope = values.get("rope_parameters") or {}
        try:
            width, heads = int(values["hidden_size"]), int(values["num_attention_heads"])
            shape = cls(
                vocabulary=int(values["vocab_size"]),
                width=width,
                layers=int(values["num_hidden_layers"]),
                heads=heads,
                key_value_heads=int(values.get("num_key_value_heads") or heads),
                head_width=int(values.get("head_dim") or width // heads),
                feed_forward=int(values["intermediate_size"]),
                tied=bool(values.get("tie_word_embeddings", False)),
                rope_theta=float(rope.get("rope_theta") or values.get("rope_theta") or 10_000.0),
                norm_eps=float(values.get("rms_norm_eps", 1e-6)),
                max_length=int(values.get("max_position_embeddings", 2048)),
                initializer_range=float(values.get("initializer_range", 0.02)),
            )
        except KeyError as error:
            raise InputError(f"the key '{error.args[0]}' is missing", where=where) from None
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise InputError(f"holds a value that is no size ({error})", where=where) from None
        sizes = (
            shape.vocabulary,
            shape.width,
            shape.layers,
            shape.heads,
            shape.key_value_heads,
            shape.feed_forward,
        )
        if min(sizes) < 1 or shape.heads % shape.key_value_heads or shape.head_width % 2:
            raise InputError("holds sizes that make no Llama", where=where)
        return shape


def _refuse_unknown_parts(values: dict[str, Any], where: str) -> None:
    """Raise an InputError for a config whose model would silently compute something else here."""
    kind = values.get("model_type")
    if kind != "llama":
        raise InputError(f"is a model of type '{kind}'", where=where, fix="give a model of type 'llama'")
    if values.get("hidden_act", "silu") not in ("silu", "swish"):
        raise InputError(f"uses the activation '{values['hidden_act']}'; only silu is known", where=where)
    for key in ("attention_bias", "mlp_bias"):
        if values.get(key):
            raise InputError(f"has {key}; a model with biases is not supported", where=where)
    for key in ("rope_scaling", "rope_parameters"):
        kind = (values.get(key) or {}).get("rope_type", (values.get(key) or {}).get("type", "default"))
        if kind != "default":
            raise InputError(
                f"scales its rotary positions ({key}: {kind}), which is not supported", where=where
            )


def _preset(
    width: int,
    layers: int,
    heads: int,
    feed_forward: int,
    *,
    key_value_heads: int | None = None,
    tied: bool = True,
    rope_theta: float = 10_000.0,
    initializer_range: float = 0.02,
) -> ModelShape:
    return ModelShape(
        vocabulary=0,
        width=width,
        layers=layers,
        heads=heads,
        key_value_heads=key_value_heads or heads,
        head_width=width // heads,
        feed_forward=feed_forward,
        tied=tied,
        rope_theta=rope_theta,
        norm_eps=1e-5,
        max_length=0,
        initializer_range=initializer_range,
    )


PRESETS: dict[str, ModelShape] = {
    # Named after their parameters without the embedding, roughly.
    "llama-1m": _preset(128, 5, 4, 352),
    "llama-3m": _preset(192, 7, 6, 512),
    "llama-10m": _preset(384, 6, 6, 1024),
    "llama-30m": _preset(576, 8, 9, 1536),
    "llama-100m": _preset(768, 14, 12, 2048),
    # Published shapes: SmolLM2 and Llama 3.1 / 3.2 (without their scaling of long positions).
    "smollm2-135m": _preset(
        576, 30, 9, 1536, key_value_heads=3, rope_theta=100_000.0, initializer_range=0.041666666666666664
    ),
    "llama-1b": _preset(2048, 16, 32, 8192, key_value_heads=8, rope_theta=500_000.0),
    "llama-3b": _preset(3072, 28, 24, 8192, key_value_heads=8, rope_theta=500_000.0),
    "llama-8b": _preset(4096, 32, 32, 14336, key_value_heads=8, tied=False, rope_theta=500_000.0),
    "llama-70b": _preset(8192, 80, 64, 28672, key_value_heads=8, tied=False, rope_theta=500_000.0),
}
"""Shapes by name; their vocabulary and longest sequence are 0 until a recipe gives them."""


class ModelConfig(Config):
    """The network: a preset, and what shall differ from it.

    What is not given is the preset's. One thing follows: where the preset has as many key-value heads as
    heads, so has a model with another number of heads.
    """

    preset: str = "llama-10m"
    width: Count | None = Field(default=None, gt=0)
    layers: Count | None = Field(default=None, gt=0)
    heads: Count | None = Field(default=None, gt=0)
    key_value_heads: Count | None = Field(default=None, gt=0)
    feed_forward: Count | None = Field(default=None, gt=0)
    tied: bool | None = None
    rope_theta: float | None = Field(default=None, gt=1)
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

    @model_validator(mode="after")
    def _heads_fit(self) -> ModelConfig:
        shape = self.shape(1, 1)
        if shape.width % shape.heads:
            raise ValueError(f"{shape.heads} heads do not divide the width {shape.width}")
        if shape.head_width % 2:
            raise ValueError(
                f"width {shape.width} / {shape.heads} heads = {shape.head_width} per head must be even, "
                "because rotary positions turn pairs"
            )
        if shape.heads % shape.key_value_heads:
            raise ValueError(f"{shape.key_value_heads} key_value_heads do not divide the {shape.heads} heads")
        return self

    def shape(self, vocabulary: int, length: int) -> ModelShape:
        """The shape with this vocabulary, for sequences of ``length`` tokens."""
        preset = PRESETS[self.preset]
        given = {
            key: value for key, value in self.model_dump(exclude={"preset"}).items() if value is not None
        }
        if "heads" in given and preset.key_value_heads == preset.heads:
            given.setdefault("key_value_heads", given["heads"])
        shape = replace(preset, vocabulary=vocabulary, max_length=length, **given)
        return replace(shape, head_width=shape.width // shape.heads)


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
