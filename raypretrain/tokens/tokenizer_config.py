"""The recipe's settings of the tokenizer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raypretrain.config import Config, Count, Location


class TokenizerConfig(Config):
    """Which tokenizer: one that exists, or how to train one on a sample of the corpus."""

    path: Location | None = None
    """A SentencePiece ``.model``, a Hugging Face ``tokenizer.json``, or a folder with either. Nothing is trained."""
    kind: Literal["bpe", "unigram", "bytes", "amino-acids"] = "bpe"
    """What is trained without a path; ``bytes`` and ``amino-acids`` need no training."""
    vocabulary: Count = 16384
    """Pieces, the 256 bytes and six special ones among them."""
    sample: Count = 20_000_000
    """Bytes of text to train on."""
    bos: str | None = Field(default=None, min_length=1)
    """Name of the token that begins a document, where the one that the file itself names is not meant."""
    eos: str | None = Field(default=None, min_length=1)
    """Likewise, that ends a document."""
    pad: str | None = Field(default=None, min_length=1)
    """Likewise, that fills a sequence."""
    add: list[Annotated[str, Field(min_length=1)]] = Field(default=[], exclude_if=lambda names: not names)
    """Names of special tokens that it shall have beside its own."""

    @model_validator(mode="after")
    def _fits(self) -> TokenizerConfig:
        if self.path is None and self.specials:
            raise ValueError(f"'{min(self.specials)}' names a token of a tokenizer.path, and there is none")
        if self.path is not None and self.kind in ("bytes", "amino-acids"):
            raise ValueError(f"kind '{self.kind}' needs no path; leave one of the two out")
        if self.add and self.kind in ("bytes", "amino-acids"):
            raise ValueError(f"kind '{self.kind}' takes no more tokens; leave 'add' out")
        if twice := {name for name in self.add if self.add.count(name) > 1}:
            raise ValueError(f"'add' has '{min(twice)}' twice")
        return self

    @property
    def specials(self) -> dict[str, str]:
        """The names that are given."""
        names = {"bos": self.bos, "eos": self.eos, "pad": self.pad}
        return {role: name for role, name in names.items() if name is not None}
