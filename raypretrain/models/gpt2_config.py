"""How large a GPT-2 is: its sizes, what follows from them, and presets. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raypretrain.errors import InputError
from raypretrain.models.plain_config import PlainShape
from raypretrain.models.shape import reading, refuse_impossible, refuse_other_family

_ACTIVATION = "gelu_new"
"""Hugging Face's name of the gelu by tanh."""

_WITHOUT = ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention")


@dataclass(frozen=True, kw_only=True)
class Gpt2Shape(PlainShape):
    """Every number that decides what a GPT-2's weights look like and what they compute (Radford et al., 2019).

    Its positions are learned, so that ``max_length`` is a size of its weights; its output matrix is the embedding.
    """

    family = "gpt2"
    objective = "causal"
    architecture = "GPT2LMHeadModel"
    learns_positions = True

    @property
    def parameters(self) -> int:
        """All the weights, exactly; the embedding is counted once."""
        embeddings = (self.vocabulary + self.max_length) * self.width
        return embeddings + self.layers * self.layer_parameters + 2 * self.width

    def to_huggingface_config(self) -> dict[str, Any]:
        """The ``config.json`` of a ``GPT2LMHeadModel`` of this shape, without token ids and dtype."""
        return super().to_huggingface_config() | {
            "n_embd": self.width,
            "n_layer": self.layers,
            "n_head": self.heads,
            "n_inner": self.feed_forward,
            "n_positions": self.max_length,
            "activation_function": _ACTIVATION,
            "layer_norm_epsilon": self.norm_eps,
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        }

    @classmethod
    def from_huggingface_config(cls, values: dict[str, Any], where: str) -> Gpt2Shape:
        """The shape that a GPT-2's ``config.json`` describes. Dropout, which is not part of it, is ignored.

        Raises:
            InputError: another architecture, parts that this package has not, or a key that is missing.
        """
        refuse_other_family(values, cls.family, where)
        if values.get("activation_function", _ACTIVATION) not in (_ACTIVATION, "gelu_pytorch_tanh"):
            what = f"uses the activation '{values['activation_function']}'; only {_ACTIVATION} is known"
            raise InputError(what, where=where)
        if not values.get("scale_attn_weights", True):
            raise InputError("does not scale its attention, which is not supported", where=where)
        for key in _WITHOUT:
            if values.get(key):
                raise InputError(f"has {key}, which is not supported", where=where)
        with reading(where):
            width, heads = int(values["n_embd"]), int(values["n_head"])
            shape = cls(
                vocabulary=int(values["vocab_size"]),
                width=width,
                layers=int(values["n_layer"]),
                heads=heads,
                head_width=width // heads,
                feed_forward=int(values.get("n_inner") or 4 * width),
                tied=bool(values.get("tie_word_embeddings", True)),
                norm_eps=float(values.get("layer_norm_epsilon", 1e-5)),
                max_length=int(values.get("n_positions") or values["n_ctx"]),
                initializer_range=float(values.get("initializer_range", 0.02)),
            )
        refuse_impossible(shape, "GPT-2", where)
        return shape


GPT2S: dict[str, Gpt2Shape] = {
    # Named after their parameters without the embedding, roughly.
    "gpt2-1m": Gpt2Shape.preset(128, 5, 4),
    "gpt2-10m": Gpt2Shape.preset(384, 6, 6),
    # Published shapes: those of GPT-2 after all of their parameters, and the largest of GPT-3.
    "gpt2-124m": Gpt2Shape.preset(768, 12, 12),
    "gpt2-355m": Gpt2Shape.preset(1024, 24, 16),
    "gpt2-774m": Gpt2Shape.preset(1280, 36, 20),
    "gpt2-1.5b": Gpt2Shape.preset(1600, 48, 25),
    "gpt3-175b": Gpt2Shape.preset(12288, 96, 96),
}
"""Shapes by name; their vocabulary and longest sequence are 0 until a recipe gives them."""
