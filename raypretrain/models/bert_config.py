"""How large a BERT is: its sizes, what follows from them, and presets. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raypretrain.errors import InputError
from raypretrain.models.shape import ModelShape, reading, refuse_impossible, refuse_other_family


@dataclass(frozen=True, kw_only=True)
class BertShape(ModelShape):
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
    def layer_matrices(self) -> int:
        """Weights in the matrices of one layer: attention and feed-forward."""
        return self.width * (4 * self.width + 2 * self.feed_forward)

    @property
    def parameters(self) -> int:
        """All the weights, exactly; the embedding is counted once."""
        embeddings = (self.vocabulary + self.max_length + self.token_types + 2) * self.width
        biases_and_norms = 9 * self.width + self.feed_forward
        head = self.width**2 + 3 * self.width + self.vocabulary
        return embeddings + self.layers * (self.layer_matrices + biases_and_norms) + head

    def flops_per_token(self, length: int, predicted: float = 1.0) -> int:
        """See :meth:`ModelShape.flops_per_token`."""
        layers = self.layers * (6 * self.layer_matrices + 12 * self.width * length)
        return layers + round(predicted * 6 * (self.width**2 + self.vocabulary * self.width))

    def special_tokens(self, bos: int | None, eos: int | None, pad: int | None) -> dict[str, int | None]:
        """As every family's, and its own: a text begins with cls and ends with sep."""
        return super().special_tokens(bos, eos, pad) | {"cls_token_id": bos, "sep_token_id": eos}

    def check(self) -> None:
        """Raise a ValueError, of one line, for sizes that make no network."""
        super().check()
        self.check_whole_heads()
        self.check_tied()
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
        refuse_other_than(values, {"hidden_act": "gelu", "position_embedding_type": "absolute"}, where)
        refuse_decoders(values, where)
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
                max_length=int(values.get("max_position_embeddings", 512)),
                initializer_range=float(values.get("initializer_range", 0.02)),
                token_types=int(values.get("type_vocab_size", 2)),
            )
        refuse_impossible(shape, "BERT", where)
        return shape


def refuse_other_than(values: dict[str, Any], known: dict[str, str], where: str) -> None:
    """Raise an InputError for a config that has another value under a key than the one that is known."""
    for key, value in known.items():
        if values.get(key, value) != value:
            raise InputError(f"has {key} '{values[key]}'; only {value} is known", where=where)


def refuse_decoders(values: dict[str, Any], where: str) -> None:
    """Raise an InputError for the config of an encoder that was made to generate."""
    for key in ("is_decoder", "add_cross_attention"):
        if values.get(key):
            raise InputError(f"has {key}, which is not supported", where=where)


def _preset(width: int, layers: int, heads: int) -> BertShape:
    return BertShape(
        vocabulary=0,
        width=width,
        layers=layers,
        heads=heads,
        head_width=width // heads,
        feed_forward=4 * width,
        tied=True,
        norm_eps=1e-12,
        max_length=0,
        initializer_range=0.02,
    )


BERTS: dict[str, BertShape] = {
    # Named after their parameters without the embedding, roughly.
    "bert-1m": _preset(128, 5, 4),
    "bert-10m": _preset(384, 6, 6),
    # Published shapes.
    "bert-base": _preset(768, 12, 12),
    "bert-large": _preset(1024, 24, 16),
}
"""Shapes by name; their vocabulary and longest sequence are 0 until a recipe gives them."""
