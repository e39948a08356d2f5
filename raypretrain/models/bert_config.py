"""How large a BERT is: its sizes, what follows from them, and presets. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raypretrain.errors import InputError
from raypretrain.models.plain_config import PlainShape, read_encoder
from raypretrain.models.shape import reading, refuse_other_family


@dataclass(frozen=True, kw_only=True)
class BertShape(PlainShape):
    """Every number that decides what a BERT's weights look like and what they compute (arXiv:1810.04805).

    Its positions are learned, so that ``max_length`` is a size of its weights; its output matrix is the embedding.

    Args:
        token_types: rows of the embedding of segments; a text here is all of the first.
    """

    family = "bert"
    objective = "masked"
    architecture = "BertForMaskedLM"
    learns_positions = True

    token_types: int = 2

    @property
    def parameters(self) -> int:
        """All the weights, exactly; the embedding is counted once."""
        embeddings = (self.vocabulary + self.max_length + self.token_types + 2) * self.width
        return embeddings + self.layers * self.layer_parameters + self.head_parameters

    def special_tokens(self, bos: int | None, eos: int | None, pad: int | None) -> dict[str, int | None]:
        """As every family's, and its own: a text begins with cls and ends with sep."""
        return super().special_tokens(bos, eos, pad) | {"cls_token_id": bos, "sep_token_id": eos}

    def check(self) -> None:
        """Raise a ValueError, of one line, for sizes that make no network."""
        super().check()
        if self.token_types < 1:
            raise ValueError("token_types must be greater than 0")

    def to_huggingface_config(self) -> dict[str, Any]:
        """The ``config.json`` of a ``BertForMaskedLM`` of this shape, without token ids and dtype."""
        return (
            super().to_huggingface_config()
            | self.sizes_for_huggingface()
            | {
                "hidden_act": "gelu",
                "layer_norm_eps": self.norm_eps,
                "type_vocab_size": self.token_types,
                "position_embedding_type": "absolute",
                "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
            }
        )

    @classmethod
    def from_huggingface_config(cls, values: dict[str, Any], where: str) -> BertShape:
        """The shape that a BERT's ``config.json`` describes. Dropout, which is not part of it, is ignored.

        Raises:
            InputError: another architecture, parts that this package has not, or a key that is missing.
        """
        refuse_other_family(values, cls.family, where)
        positions = values.get("position_embedding_type", "absolute")
        if positions != "absolute":
            what = f"has position_embedding_type '{positions}'; only absolute is known"
            raise InputError(what, where=where)
        with reading(where):
            token_types = int(values.get("type_vocab_size", 2))
        return read_encoder(cls, "BERT", values, where, 512, token_types=token_types)


_EPS = 1e-12

BERTS: dict[str, BertShape] = {
    # Named after their parameters without the embedding, roughly.
    "bert-1m": BertShape.preset(128, 5, 4, _EPS),
    "bert-10m": BertShape.preset(384, 6, 6, _EPS),
    # Published shapes.
    "bert-base": BertShape.preset(768, 12, 12, _EPS),
    "bert-large": BertShape.preset(1024, 24, 16, _EPS),
}
"""Shapes by name; their vocabulary and longest sequence are 0 until a recipe gives them."""
