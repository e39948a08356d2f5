"""The base model: a released folder, checked, and its weights in a form that trials can share."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raypretrain.config import Config, Location
from raypretrain.errors import InputError, RecipeError
from raypretrain.finetuning.base_text import BaseTextConfig
from raypretrain.finetuning.encode import Encoder
from raypretrain.models.config import read_json_object, read_shape
from raypretrain.models.shape import ModelShape
from raypretrain.storage import is_remote, sha256_file
from raypretrain.training.fetching import fetch_model

if TYPE_CHECKING:
    from torch import Tensor

PADDED_ROWS = 1024
"""Embeddings are often padded to a round number of rows; more unused ones mean another tokenizer."""


DEFAULT_LENGTH = 512


class BaseConfig(Config):
    """Where trials start from.

    Args:
        path: the folder of a released model in Hugging Face's layout (``raypretrain export`` writes one):
            ``config.json``, ``model.safetensors``, ``tokenizer.json``; the folder of a run that released one; or the
            URL of a model in a store, which is read once and kept in the run's folder.
        endpoint_url: of the store, if it is not AWS.
        text: what it learned from: with it, what each trial forgets is measured, and some of it can be replayed.
    """

    path: Location
    endpoint_url: str | None = None
    text: BaseTextConfig | None = None


@dataclass(frozen=True)
class BaseModel:
    """What of a base model's folder can be known without reading its weights."""

    folder: Path
    shape: ModelShape
    pad: int
    bos: int | None
    eos: int | None

    @property
    def poolings(self) -> tuple[str, ...]:
        """What can stand for a whole text."""
        return ("mean", "last") if self.shape.objective == "causal" else ("mean", "cls")

    @property
    def tokenizer(self) -> Path:
        """The file that the ``tokenizers`` library reads."""
        return self.folder / "tokenizer.json"

    def encoder(self, length: int) -> Encoder:
        """Its tokenizer, which cuts texts after ``length`` tokens."""
        return Encoder(self.tokenizer, length, self.shape.objective == "causal")

    def fingerprint(self) -> str:
        """sha256 over the weights, the config and the tokenizer."""
        files = sorted(self.folder.glob("*.safetensors"))
        hashes = [sha256_file(str(path)) for path in (*files, self.folder / "config.json", self.tokenizer)]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()

    def usable_length(self, wanted: int | None) -> int:
        """How many tokens of a text a trial reads.

        Raises:
            RecipeError: more are wanted than the model has positions.
        """
        length = wanted or min(DEFAULT_LENGTH, self.shape.max_length)
        if length > self.shape.max_length:
            raise RecipeError(
                f"adapt.length is {length}, but the base model has {self.shape.max_length} positions",
                where=str(self.folder),
                fix=f"set adapt.length to at most {self.shape.max_length}",
            )
        return length


def open_base(config: BaseConfig, fetched: Path | None = None) -> BaseModel:
    """Check a base model's folder, weights aside.

    Args:
        fetched: where a model is put that is in a store.

    Raises:
        StorageError: it cannot be fetched.
        InputError: no folder, a file that is missing or broken, another architecture, a tokenizer that does
        not fit.
    """
    if is_remote(config.path):
        assert fetched is not None
        options = {"endpoint_url": config.endpoint_url} if config.endpoint_url else None
        fetch_model(config.path, fetched, options)
        return _opened(fetched)
    folder = Path(config.path)
    if not (folder / "config.json").exists() and (folder / "model" / "config.json").exists():
        folder = folder / "model"  # a run's folder
    return _opened(folder)


def _opened(folder: Path) -> BaseModel:
    if not folder.is_dir():
        raise InputError("there is no such folder", where=str(folder), fix="give base.path a released model")
    values = read_json_object(
        folder / "config.json", "give base.path the folder of a model in Hugging Face's layout"
    )
    shape = read_shape(values, str(folder / "config.json"))
    tokens = _check_tokenizer(folder, shape)
    pad = _pad(folder, values, tokens)
    return BaseModel(
        folder, shape, pad, _first(values.get("bos_token_id")), _first(values.get("eos_token_id"))
    )


def _check_tokenizer(folder: Path, shape: ModelShape) -> dict[str, int]:
    """The tokenizer's tokens with their ids, if they fit the embedding."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(
            "there is no such file", where=str(path), fix="the tokenizer belongs to the base model"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions, of a file that it cannot parse
        raise InputError(f"is no tokenizer ({error})", where=str(path)) from None
    tokens: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    size = max(tokens.values(), default=-1) + 1
    if size > shape.vocabulary or shape.vocabulary - size > PADDED_ROWS:
        raise InputError(
            f"has {size} tokens, but the model of this folder has a vocabulary of {shape.vocabulary}",
            where=str(path),
            fix="give the tokenizer that the base model was trained with",
        )
    return tokens


def _pad(folder: Path, values: dict[str, Any], tokens: dict[str, int]) -> int:
    """The id that sequences are padded with; the classifier's config must name it."""
    pad = values.get("pad_token_id")
    if pad is None and (folder / "tokenizer_config.json").is_file():
        named = read_json_object(folder / "tokenizer_config.json").get("pad_token")
        pad = tokens.get(named["content"] if isinstance(named, dict) else named or "")
    if pad is None:
        pad = _first(values.get("eos_token_id"))
    if not isinstance(pad, int) or not 0 <= pad < int(values["vocab_size"]):
        raise InputError(
            "names no token for padding", where=str(folder / "config.json"), fix="set its pad_token_id"
        )
    return pad


def _first(value: Any) -> int | None:
    """An id; some models list several ends of a text."""
    return value[0] if isinstance(value, list) and value else value if isinstance(value, int) else None


Packed = dict[str, tuple[np.ndarray, str]]
"""A state dict as NumPy arrays with the names of their dtypes; Ray maps such arrays without a copy."""


def pack(state: dict[str, Tensor]) -> Packed:
    """A state dict without torch's types. A dtype that NumPy lacks (bfloat16) goes as its bytes."""
    import torch

    return {
        name: (weight.detach().cpu().contiguous().view(torch.uint8).numpy(), str(weight.dtype).split(".")[1])
        for name, weight in state.items()
    }


def unpack(packed: Packed) -> dict[str, Tensor]:
    """The inverse of :func:`pack`. The tensors share its memory, which may be read-only: copy from them."""
    import torch

    state: dict[str, Tensor] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        for name, (array, dtype) in packed.items():
            state[name] = torch.from_numpy(array).view(getattr(torch, dtype))
    return state
