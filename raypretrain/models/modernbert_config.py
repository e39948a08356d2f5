"""How large an encoder is: ModernBERT's sizes, what follows from them, and presets. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raypretrain.errors import InputError
from raypretrain.models.shape import (
    ModelShape,
    mapping,
    reading,
    refuse_biases,
    refuse_impossible,
    refuse_other_family,
    refuse_scaled_positions,
)

GLOBAL, LOCAL = "full_attention", "sliding_attention"
"""Hugging Face's names of the two kinds of layers."""


@dataclass(frozen=True, kw_only=True)
class ModernBertShape(ModelShape):
    """Every number that decides what an encoder's weights look like and what they compute (arXiv:2412.13663).

    Its output matrix is always the embedding, and its heads always fill the width.

    Args:
        global_every: layers 0, n, 2n … attend to the whole sequence, the others to a window of it.
        local_attention: width of that window in tokens; a position sees those at most half of it away.
        global_rope_theta, local_rope_theta: base of the rotary positions in each kind of layer.
    """

    family = "modernbert"
    objective = "masked"
    architecture = "ModernBertForMaskedLM"

    global_every: int
    local_attention: int
    global_rope_theta: float
    local_rope_theta: float

    def is_global(self, layer: int) -> bool:
        """Whether a layer, counted from 0, attends to the whole sequence."""
        return layer % self.global_every == 0

    @property
    def reach(self) -> int:
        """How far away, in tokens, a local layer's positions see, to either side."""
        return self.local_attention // 2

    @property
    def layer_matrices(self) -> int:
        """Weights in the matrices of one layer: attention and feed-forward."""
        return self.width * (4 * self.width + 3 * self.feed_forward)

    @property
    def parameters(self) -> int:
        """All the weights, exactly; the embedding is counted once. The first layer has one norm, not two."""
        embedding = self.vocabulary * self.width + self.width
        layers = self.layers * (self.layer_matrices + 2 * self.width) - self.width
        head = self.width**2 + self.width + self.vocabulary
        return embedding + layers + self.width + head

    def flops_per_token(self, length: int, predicted: float = 1.0) -> int:
        """See :meth:`ModelShape.flops_per_token`; a local layer spans its window, or the sequence if shorter."""
        everywhere = sum(map(self.is_global, range(self.layers)))
        spans = everywhere * length + (self.layers - everywhere) * min(length, 2 * self.reach + 1)
        head = 6 * (self.width**2 + self.vocabulary * self.width)
        return 6 * self.layers * self.layer_matrices + 12 * self.width * spans + round(predicted * head)

    def special_tokens(self, bos: int | None, eos: int | None, pad: int | None) -> dict[str, int | None]:
        """As every family's, and those of BERT: a text begins with cls and ends with sep."""
        return super().special_tokens(bos, eos, pad) | {"cls_token_id": bos, "sep_token_id": eos}

    def check(self) -> None:
        """Raise a ValueError, of one line, for sizes that make no network."""
        super().check()
        self.check_rotary()
        self.check_whole_heads()
        self.check_tied()
        if self.global_every < 1:
            raise ValueError("global_every must be greater than 0")
        if self.local_attention < 2 or self.local_attention % 2:
            raise ValueError(
                f"local_attention {self.local_attention} must be even, half of it to either side"
            )

    def to_huggingface_config(self) -> dict[str, Any]:
        """The ``config.json`` of a ``ModernBertForMaskedLM`` of this shape, without token ids and dtype."""
        thetas = {GLOBAL: self.global_rope_theta, LOCAL: self.local_rope_theta}
        return super().to_huggingface_config() | {
            **self.sizes_for_huggingface(),
            "attention_bias": False,
            "mlp_bias": False,
            "hidden_activation": "gelu",
            "classifier_activation": "gelu",
            "initializer_cutoff_factor": 2.0,
            "norm_eps": self.norm_eps,
            "local_attention": self.local_attention,
            # transformers 4 reads the next three keys, transformers 5 the two after them.
            "global_attn_every_n_layers": self.global_every,
            "global_rope_theta": self.global_rope_theta,
            "local_rope_theta": self.local_rope_theta,
            "layer_types": [GLOBAL if self.is_global(layer) else LOCAL for layer in range(self.layers)],
            "rope_parameters": {
                kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()
            },
            "norm_bias": False,
            "classifier_bias": False,
            "decoder_bias": True,
        }

    @classmethod
    def from_huggingface_config(cls, values: dict[str, Any], where: str) -> ModernBertShape:
        """The shape that a ModernBERT's ``config.json`` describes. Dropout, which is not part of it, is ignored.

        Raises:
            InputError: another architecture, parts that this package has not, or a key that is missing.
        """
        _refuse_unknown_parts(values, where)
        ropes = mapping(values, "rope_parameters", where)
        thetas = {kind: mapping(ropes, kind, where).get("rope_theta") for kind in (GLOBAL, LOCAL)}
        with reading(where):
            width, heads, layers = (
                int(values[key]) for key in ("hidden_size", "num_attention_heads", "num_hidden_layers")
            )
            shape = cls(
                vocabulary=int(values["vocab_size"]),
                width=width,
                layers=layers,
                heads=heads,
                head_width=width // heads,
                feed_forward=int(values["intermediate_size"]),
                tied=bool(values.get("tie_word_embeddings", True)),
                norm_eps=float(values.get("norm_eps", 1e-5)),
                max_length=int(values.get("max_position_embeddings", 8192)),
                initializer_range=float(values.get("initializer_range", 0.02)),
                global_every=_global_every(values, layers, where),
                local_attention=int(values.get("local_attention", 128)),
                global_rope_theta=float(thetas[GLOBAL] or values.get("global_rope_theta") or 160_000.0),
                local_rope_theta=float(thetas[LOCAL] or values.get("local_rope_theta") or 10_000.0),
            )
        refuse_impossible(shape, "ModernBERT", where)
        return shape


def _global_every(values: dict[str, Any], layers: int, where: str) -> int:
    """Every how many layers one is global; InputError if they come in no such order."""
    given = int(values.get("global_attn_every_n_layers") or 3)
    kinds = values.get("layer_types")
    if kinds is None:
        return given
    # Of a few layers several periods make the same list: the one that the config names goes first.
    for every in (given, *range(1, layers + 1)):
        if every > 0 and kinds == [LOCAL if layer % every else GLOBAL for layer in range(layers)]:
            return every
    raise InputError("has layer_types that are not one global layer every so many", where=where)


def _refuse_unknown_parts(values: dict[str, Any], where: str) -> None:
    """Raise an InputError for a config whose model would silently compute something else here."""
    refuse_other_family(values, ModernBertShape.family, where)
    for key in ("hidden_activation", "classifier_activation"):
        if values.get(key, "gelu") != "gelu":
            raise InputError(f"has {key} '{values[key]}'; only gelu is known", where=where)
    refuse_biases(values, ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), where)
    if not values.get("decoder_bias", True):
        raise InputError("has no decoder_bias; a model without it is not supported", where=where)
    refuse_scaled_positions(mapping(values, "rope_scaling", where), "rope_scaling", where)
    ropes = mapping(values, "rope_parameters", where)
    for kind in (GLOBAL, LOCAL):
        refuse_scaled_positions(mapping(ropes, kind, where), f"rope_parameters.{kind}", where)


def _preset(width: int, layers: int, heads: int, feed_forward: int) -> ModernBertShape:
    return ModernBertShape(
        vocabulary=0,
        width=width,
        layers=layers,
        heads=heads,
        head_width=width // heads,
        feed_forward=feed_forward,
        tied=True,
        norm_eps=1e-5,
        max_length=0,
        initializer_range=0.02,
        global_every=3,
        local_attention=128,
        global_rope_theta=160_000.0,
        local_rope_theta=10_000.0,
    )


MODERNBERTS: dict[str, ModernBertShape] = {
    # Named after their parameters without the embedding, roughly. Their last layer is a global one.
    "modernbert-1m": _preset(128, 7, 4, 192),
    "modernbert-10m": _preset(320, 10, 5, 576),
    "modernbert-30m": _preset(512, 13, 8, 768),
    # Published shapes.
    "modernbert-base": _preset(768, 22, 12, 1152),
    "modernbert-large": _preset(1024, 28, 16, 2624),
}
"""Shapes by name; their vocabulary and longest sequence are 0 until a recipe gives them."""
