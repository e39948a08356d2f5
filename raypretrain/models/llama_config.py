"""How large a decoder is: Llama's sizes, what follows from them, and presets. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raypretrain.errors import InputError
from raypretrain.models.rope import RopeScaling, rope_from_huggingface, rope_to_huggingface
from raypretrain.models.shape import (
    ModelShape,
    reading,
    refuse_biases,
    refuse_impossible,
    refuse_other_family,
)


@dataclass(frozen=True, kw_only=True)
class LlamaShape(ModelShape):
    """Every number that decides what a decoder's weights look like and what they compute.

    Args:
        key_value_heads: keys and values; groups of the query heads share one.
        rope_theta: base of the rotary positions.
        rope_scaling: how they are scaled for longer texts.
    """

    family = "llama"
    objective = "causal"
    architecture = "LlamaForCausalLM"

    key_value_heads: int
    rope_theta: float
    rope_scaling: RopeScaling | None = None

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

    def flops_per_token(self, length: int, predicted: float = 1.0) -> int:
        """See :meth:`ModelShape.flops_per_token`; every position has a target unless said otherwise."""
        layers = self.layers * (6 * self.layer_matrices + 12 * self.heads * self.head_width * length)
        return layers + round(predicted * 6 * self.vocabulary * self.width)

    def check(self) -> None:
        """Raise a ValueError, of one line, for sizes that make no network."""
        super().check()
        self.check_rotary()
        if self.key_value_heads < 1 or self.heads % self.key_value_heads:
            raise ValueError(f"{self.key_value_heads} key_value_heads do not divide the {self.heads} heads")

    def to_huggingface_config(self) -> dict[str, Any]:
        """The ``config.json`` of a ``LlamaForCausalLM`` of this shape, without token ids and dtype."""
        return super().to_huggingface_config() | {
            **self.sizes_for_huggingface(),
            "attention_bias": False,
            "mlp_bias": False,
            "num_key_value_heads": self.key_value_heads,
            "head_dim": self.head_width,
            "hidden_act": "silu",
            "rms_norm_eps": self.norm_eps,
            "attention_dropout": 0.0,
            **rope_to_huggingface(self.rope_theta, self.rope_scaling),
        }

    @classmethod
    def from_huggingface_config(cls, values: dict[str, Any], where: str) -> LlamaShape:
        """The shape that a Llama's ``config.json`` describes.

        Raises:
            InputError: another architecture, parts that this package has not, or a key that is missing.
        """
        _refuse_unknown_parts(values, where)
        theta, scaling = rope_from_huggingface(values, where)
        with reading(where):
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
                rope_theta=theta,
                rope_scaling=scaling,
                norm_eps=float(values.get("rms_norm_eps", 1e-6)),
                max_length=int(values.get("max_position_embeddings", 2048)),
                initializer_range=float(values.get("initializer_range", 0.02)),
            )
        refuse_impossible(shape, "Llama", where)
        return shape


def _refuse_unknown_parts(values: dict[str, Any], where: str) -> None:
    """Raise an InputError for a config whose model would silently compute something else here."""
    refuse_other_family(values, LlamaShape.family, where)
    if values.get("hidden_act", "silu") not in ("silu", "swish"):
        raise InputError(f"uses the activation '{values['hidden_act']}'; only silu is known", where=where)
    refuse_biases(values, ("attention_bias", "mlp_bias"), where)


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
) -> LlamaShape:
    return LlamaShape(
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


LLAMAS: dict[str, LlamaShape] = {
    # Named after their parameters without the embedding, roughly.
    "llama-1m": _preset(128, 5, 4, 352),
    "llama-3m": _preset(192, 7, 6, 512),
    "llama-10m": _preset(384, 6, 6, 1024),
    "llama-30m": _preset(576, 8, 9, 1536),
    "llama-100m": _preset(768, 14, 12, 2048),
    # Published shapes: SmolLM2; Llama 3.1 and 3.2, without their scaling of long positions; Llama 2; Code Llama.
    "smollm2-135m": _preset(
        576, 30, 9, 1536, key_value_heads=3, rope_theta=100_000.0, initializer_range=0.041666666666666664
    ),
    "smollm2-360m": _preset(960, 32, 15, 2560, key_value_heads=5, rope_theta=100_000.0),
    "smollm2-1.7b": _preset(2048, 24, 32, 8192, rope_theta=130_000.0),
    "llama-1b": _preset(2048, 16, 32, 8192, key_value_heads=8, rope_theta=500_000.0),
    "llama-3b": _preset(3072, 28, 24, 8192, key_value_heads=8, rope_theta=500_000.0),
    "llama-8b": _preset(4096, 32, 32, 14336, key_value_heads=8, tied=False, rope_theta=500_000.0),
    "llama-70b": _preset(8192, 80, 64, 28672, key_value_heads=8, tied=False, rope_theta=500_000.0),
    "llama-405b": _preset(16384, 126, 128, 53248, key_value_heads=8, tied=False, rope_theta=500_000.0),
    "llama2-7b": _preset(4096, 32, 32, 11008, tied=False),
    "llama2-13b": _preset(5120, 40, 40, 13824, tied=False),
    "llama2-70b": _preset(8192, 80, 64, 28672, key_value_heads=8, tied=False),
    "codellama-7b": _preset(4096, 32, 32, 11008, tied=False, rope_theta=1_000_000.0),
    "codellama-13b": _preset(5120, 40, 40, 13824, tied=False, rope_theta=1_000_000.0),
    "codellama-34b": _preset(8192, 48, 64, 22016, key_value_heads=8, tied=False, rope_theta=1_000_000.0),
}
"""Shapes by name; their vocabulary and longest sequence are 0 until a recipe gives them."""
