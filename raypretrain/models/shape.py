"""What the shape of every family of networks says, whatever is inside. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from raypretrain.errors import InputError

Objective = Literal["causal", "masked"]
"""What a network learns to predict: the next token, or those that are hidden from it."""

S = TypeVar("S", bound="ModelShape")


@dataclass(frozen=True, kw_only=True)
class ModelShape(ABC):
    """Every number that decides what a network's weights look like and what they compute.

    Args:
        vocabulary: rows of the embedding.
        width: entries of the residual stream.
        heads: query heads.
        head_width: entries of one head; ``width / heads`` unless an imported model says otherwise.
        feed_forward: entries inside the gated feed-forward block.
        tied: the embedding is also the output matrix.
        max_length: the longest sequence, in tokens, that the model is meant for.
        initializer_range: standard deviation of the initial weights.
    """

    family: ClassVar[str]
    """Its name, which is the ``model_type`` of Hugging Face's config."""
    objective: ClassVar[Objective]
    architecture: ClassVar[str]
    """The class of transformers that computes the same."""
    learns_positions: ClassVar[bool] = False
    """Whether it has a weight for every position, so that no sequence can be longer than ``max_length``."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    head_width: int
    feed_forward: int
    tied: bool
    norm_eps: float
    max_length: int
    initializer_range: float

    @property
    @abstractmethod
    def parameters(self) -> int:
        """All the weights, exactly; a tied embedding is counted once."""

    @abstractmethod
    def flops_per_token(self, length: int, predicted: float = 1.0) -> int:
        """Floating-point operations of forward and backward for one token in a sequence of ``length``.

        6 for each weight of a matrix (the embedding's look-up costs none) and 12·heads·head_width for each
        position that a layer's attention spans, causal or not, as PaLM (arXiv:2204.02311, appendix B) counts
        for the FLOPs utilisation.

        Args:
            predicted: share of the positions that have a target; the others do not pass the output matrix.
        """

    def to_huggingface_config(self) -> dict[str, Any]:
        """The ``config.json`` of an ``architecture`` of this shape, without token ids and dtype.

        Here are the keys that all families have; each adds its own.
        """
        return {
            "architectures": [self.architecture],
            "model_type": self.family,
            "vocab_size": self.vocabulary,
            "initializer_range": self.initializer_range,
            "tie_word_embeddings": self.tied,
        }

    def sizes_for_huggingface(self) -> dict[str, Any]:
        """The sizes under the keys that most families have in a ``config.json``."""
        return {
            "hidden_size": self.width,
            "intermediate_size": self.feed_forward,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "max_position_embeddings": self.max_length,
        }

    @classmethod
    @abstractmethod
    def from_huggingface_config(cls: type[S], values: dict[str, Any], where: str) -> S:
        """The shape that a ``config.json`` of this family describes.

        Raises:
            InputError: another family, parts that this package has not, or a key that is missing.
        """

    def special_tokens(self, bos: int | None, eos: int | None, pad: int | None) -> dict[str, int | None]:
        """The ids of the tokenizer's special tokens under the names of ``config.json``."""
        return {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}

    def check(self) -> None:
        """Raise a ValueError, of one line, for sizes that make no network."""
        if min(self.vocabulary, self.width, self.layers, self.heads, self.feed_forward) < 1:
            raise ValueError("every size must be greater than 0")

    def check_rotary(self) -> None:
        """As :meth:`check`, for positions that turn pairs."""
        if self.head_width < 1 or self.head_width % 2:
            raise ValueError(
                f"width {self.width} / {self.heads} heads = {self.head_width} per head must be even, "
                "because rotary positions turn pairs"
            )

    def check_whole_heads(self) -> None:
        """As :meth:`check`, for heads that fill the width."""
        if self.head_width * self.heads != self.width:
            raise ValueError(f"{self.heads} heads of {self.head_width} do not fill the width {self.width}")

    def check_tied(self) -> None:
        """As :meth:`check`, for a family whose output matrix always is the embedding."""
        if not self.tied:
            raise ValueError(f"tied cannot be false: a {self.family}'s output matrix is its embedding")


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn a key that is missing, or a value that is no number, in the config at ``where`` into an InputError."""
    try:
        yield
    except KeyError as error:
        raise InputError(f"the key '{error.args[0]}' is missing", where=where) from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"holds a value that is no size ({error})", where=where) from None


def refuse_impossible(shape: ModelShape, kind: str, where: str) -> None:
    """Raise an InputError for sizes, read from ``where``, that make no ``kind`` (e.g. ``"Llama"``)."""
    try:
        shape.check()
    except ValueError as error:
        raise InputError(f"holds sizes that make no {kind} ({error})", where=where) from None


def mapping(values: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """The mapping under a key of a config; empty where there is none, an InputError where it is something else."""
    found = values.get(key) or {}
    if not isinstance(found, dict):
        raise InputError(f"has a value under '{key}' that is no mapping", where=where)
    return found


def refuse_other_family(values: dict[str, Any], family: str, where: str) -> None:
    """Raise an InputError for a config of another ``model_type`` than ``family``."""
    kind = values.get("model_type")
    if kind != family:
        raise InputError(f"is a model of type '{kind}'", where=where, fix=f"give a model of type '{family}'")


def refuse_scaled_positions(rope: dict[str, Any], key: str, where: str) -> None:
    """Raise an InputError for rotary positions, given under ``key``, that are scaled for longer texts."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise InputError(f"scales its rotary positions ({key}: {kind}), which is not supported", where=where)


def refuse_biases(values: dict[str, Any], keys: tuple[str, ...], where: str) -> None:
    """Raise an InputError for a config that gives biases to parts that have none here."""
    for key in keys:
        if values.get(key):
            raise InputError(f"has {key}; a model with biases there is not supported", where=where)
