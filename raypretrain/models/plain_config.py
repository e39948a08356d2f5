"""What GPT-2, BERT and ESM-2 have alike: a plain feed-forward block and biases. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, TypeVar

from raypretrain.errors import InputError
from raypretrain.models.shape import ModelShape, reading, refuse_impossible


@dataclass(frozen=True, kw_only=True)
class PlainShape(ModelShape):
    """Heads that fill the width, two matrices in the feed-forward block, biases; the output matrix is the embedding."""

    @property
    def layer_matrices(self) -> int:
        """Weights in the matrices of one layer: attention and feed-forward."""
        return self.width * (4 * self.width + 2 * self.feed_forward)

    @property
    def layer_parameters(self) -> int:
        """All the weights of one layer: its matrices, their biases, and two norms."""
        return self.layer_matrices + 9 * self.width + self.feed_forward

    @property
    def head_matrices(self) -> int:
        """Weights in the matrices between the last layer and the output matrix."""
        return self.width**2 if self.objective == "masked" else 0

    @property
    def head_parameters(self) -> int:
        """All the weights there, and the bias of the output: of the models that predict hidden tokens."""
        return self.head_matrices + 3 * self.width + self.vocabulary if self.objective == "masked" else 0

    def flops_per_token(self, length: int, predicted: float = 1.0) -> int:
        """See :meth:`ModelShape.flops_per_token`."""
        layers = self.layers * (6 * self.layer_matrices + 12 * self.width * length)
        return layers + round(predicted * 6 * (self.head_matrices + self.vocabulary * self.width))

    def check(self) -> None:
        """Raise a ValueError, of one line, for sizes that make no network."""
        super().check()
        self.check_whole_heads()
        self.check_tied()

    @classmethod
    def preset(cls, width: int, layers: int, heads: int, norm_eps: float = 1e-5) -> Self:
        """A shape as published ones are: the feed-forward block four times as wide."""
        return cls(
            vocabulary=0,
            width=width,
            layers=layers,
            heads=heads,
            head_width=width // heads,
            feed_forward=4 * width,
            tied=True,
            norm_eps=norm_eps,
            max_length=0,
            initializer_range=0.02,
        )


P = TypeVar("P", bound=PlainShape)


def read_encoder(
    kind: type[P], called: str, values: dict[str, Any], where: str, positions: int, **own: Any
) -> P:
    """The shape of a ``config.json`` with the keys of BERT.

    Args:
        called: as messages name the family.
        positions: where the config does not say how many there are.
        own: what the family has beside them.

    Raises:
        InputError: a part that this package has not, or a key that is missing.
    """
    if values.get("hidden_act", "gelu") != "gelu":
        raise InputError(f"has hidden_act '{values['hidden_act']}'; only gelu is known", where=where)
    for key in ("is_decoder", "add_cross_attention"):
        if values.get(key):
            raise InputError(f"has {key}, which is not supported", where=where)
    with reading(where):
        width, heads = int(values["hidden_size"]), int(values["num_attention_heads"])
        shape = kind(
            vocabulary=int(values["vocab_size"]),
            width=width,
            layers=int(values["num_hidden_layers"]),
            heads=heads,
            head_width=width // heads,
            feed_forward=int(values["intermediate_size"]),
            tied=bool(values.get("tie_word_embeddings", True)),
            norm_eps=float(values.get("layer_norm_eps", 1e-12)),
            max_length=int(values.get("max_position_embeddings", positions)),
            initializer_range=float(values.get("initializer_range", 0.02)),
            **own,
        )
    refuse_impossible(shape, called, where)
    return shape
