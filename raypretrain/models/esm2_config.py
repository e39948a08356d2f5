"""How large an ESM-2 is: its sizes, what follows from them, and presets. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raypretrain.errors import InputError
from raypretrain.models.plain_config import PlainShape, read_encoder
from raypretrain.models.shape import reading, refuse_other_family


@dataclass(frozen=True, kw_only=True)
class Esm2Shape(PlainShape):
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
    def parameters(self) -> int:
        """All the weights, exactly; the embedding is counted once."""
        layers = self.layers * self.layer_parameters
        return self.vocabulary * self.width + layers + 2 * self.width + self.head_parameters

    def special_tokens(self, bos: int | None, eos: int | None, pad: int | None) -> dict[str, int | None]:
        """As every family's, and its own: a protein begins with cls."""
        return super().special_tokens(bos, eos, pad) | {"cls_token_id": bos}

    def check(self) -> None:
        """Raise a ValueError, of one line, for sizes that make no network."""
        super().check()
        self.check_rotary()
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
        for key in ("emb_layer_norm_before", "is_folding_model"):
            if values.get(key):
                raise InputError(f"has {key}, which is not supported", where=where)
        with reading(where):
            own = {
                "rope_theta": float(values.get("rope_theta") or 10_000.0),
                "mask_token": int(values["mask_token_id"]) if values.get("token_dropout") else None,
            }
        return read_encoder(cls, "ESM-2", values, where, 1026, **own)


ESM2S: dict[str, Esm2Shape] = {
    # Named after their parameters, roughly.
    "esm2-1m": Esm2Shape.preset(128, 5, 8),
    # Published shapes.
    "esm2-8m": Esm2Shape.preset(320, 6, 20),
    "esm2-35m": Esm2Shape.preset(480, 12, 20),
    "esm2-150m": Esm2Shape.preset(640, 30, 20),
    "esm2-650m": Esm2Shape.preset(1280, 33, 20),
    "esm2-3b": Esm2Shape.preset(2560, 36, 40),
    "esm2-15b": Esm2Shape.preset(5120, 48, 40),
}
"""Shapes by name; their vocabulary and longest sequence are 0 until a recipe gives them."""
