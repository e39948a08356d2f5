"""How large an ESM-2 is: its sizes, what follows from them, and presets. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raypretrain.errors import InputError
from raypretrain.models.bert_config import refuse_decoders, refuse_other_than
from raypretrain.models.shape import ModelShape, reading, refuse_impossible, refuse_other_family


@dataclass(frozen=True, kw_only=True)
class Esm2Shape(ModelShape):
    """Every number that decides what an ESM-2's weights look like and what they compute (Lin et al., Science, 2023).

    Its output matrix is the embedding.

    Args:
        rope_theta: base of the rotary positions.
        mask_token: the id whose embedding counts as dropped out, as in the published models (``token_dropout``), so
            that the others are scaled by how many there are; None treats it like any other.
    """

    family = "esm"
    objective = "masked"
    architecture = "EsmForMaskedLM"

    rope_theta: float = 10_000.0
    mask_token: int | None = None

    @property
    def layer_matrices(self) -> int:
        """Weights in the matrices of one layer: attention and feed-forward."""
        return self.width * (4 * self.width + 2 * self.feed_forward)

    @property
    def parameters(self) -> int:
        """All the weights, exactly; the embedding is counted once."""
        biases_and_norms = 9 * self.width + self.feed_forward
        layers = self.layers * (self.layer_matrices + biases_and_norms)
        head = self.width**2 + 3 * self.width + self.vocabulary
        return self.vocabulary * self.width + layers + 2 * self.width + head

    def flops_per_token(self, length: int, predicted: float = 1.0) -> int:
        """See :meth:`ModelShape.flops_per_token`."""
        layers = self.layers * (6 * self.layer_matrices + 12 * self.width * length)
        return layers + round(predicted * 6 * (self.width**2 + self.vocabulary * self.width))

    def special_tokens(self, bos: int | None, eos: int | None, pad: int | None) -> dict[str, int | None]:
        """As every family's, and its own: a protein begins with cls."""
        return super().special_tokens(bos, eos, pad) | {"cls_token_id": bos}

    def check(self) -> None:
        """Raise a ValueError, of one line, for sizes that make no network."""
        super().check()
        self.check_rotary()
        self.check_whole_heads()
        self.check_tied()
        if self.mask_token is not None and not 0 <= self.mask_token < self.vocabulary:
            raise ValueError(
                f"the mask token {self.mask_token} is not in the vocabulary of {self.vocabulary}"
            )

    def to_huggingface_config(self) -> dict[str, Any]:
        """The ``config.json`` of an ``EsmForMaskedLM`` of this shape, without token ids and dtype."""
        config = super().to_huggingface_config() | self.sizes_for_huggingface()
        if self.mask_token is not None:
            config["mask_token_id"] = self.mask_token
        return config | {
            "hidden_act": "gelu",
            "layer_norm_eps": self.norm_eps,
            "position_embedding_type": "rotary",
            "rope_theta": self.rope_theta,
            "emb_layer_norm_before": False,
            "token_dropout": self.mask_token is not None,
            "is_folding_model": False,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }

    @classmethod
    def from_huggingface_config(cls, values: dict[str, Any], where: str) -> Esm2Shape:
        """The shape that an ESM-2's ``config.json`` describes. Dropout, which is not part of it, is ignored.

        Raises:
            InputError: another architecture (ESM-1b has learned positions), parts that this package has not, or a key
                that is missing.
        """
        refuse_other_family(values, cls.family, where)
        if values.get("position_embedding_type") != "rotary":
            raise InputError("has no rotary positions: it is no ESM-2", where=where)
        refuse_other_than(values, {"hidden_act": "gelu"}, where)
        refuse_decoders(values, where)
        for key in ("emb_layer_norm_before", "is_folding_model"):
            if values.get(key):
                raise InputError(f"has {key}, which is not supported", where=where)
        with reading(where):
            width, heads = int(values["hidden_size"]), int(values["num_attention_heads"])
            shape = cls(
                vocabulary=int(values["vocab_size"]),
                width=width,
                layers=int(values["num_hidden_layers"]),
                heads=heads,
                head_width=width // heads,
                feed_forward=int(values["intermediate_size"]),
                tied=bool(values.get("tie_word_embeddings", True)),
                norm_eps=float(values.get("layer_norm_eps", 1e-12)),
                max_length=int(values.get("max_position_embeddings", 1026)),
                initializer_range=float(values.get("initializer_range", 0.02)),
                rope_theta=float(values.get("rope_theta") or 10_000.0),
                mask_token=int(values["mask_token_id"]) if values.get("token_dropout") else None,
            )
        refuse_impossible(shape, "ESM-2", where)
        return shape


def _preset(width: int, layers: int, heads: int) -> Esm2Shape:
    return Esm2Shape(
        vocabulary=0,
        width=width,
        layers=layers,
        heads=heads,
        head_width=width // heads,
        feed_forward=4 * width,
        tied=True,
        norm_eps=1e-5,
        max_length=0,
        initializer_range=0.02,
    )


ESM2S: dict[str, Esm2Shape] = {
    # Named after their parameters, roughly.
    "esm2-1m": _preset(128, 5, 8),
    # Published shapes.
    "esm2-8m": _preset(320, 6, 20),
    "esm2-35m": _preset(480, 12, 20),
    "esm2-150m": _preset(640, 30, 20),
    "esm2-650m": _preset(1280, 33, 20),
    "esm2-3b": _preset(2560, 36, 40),
    "esm2-15b": _preset(5120, 48, 40),
}
"""Shapes by name; their vocabulary and longest sequence are 0 until a recipe gives them."""
