"""Tokenizers: trained here, given, or fixed; all with one protocol.

- SentencePiece, BPE or unigram, trained on a sample of the corpus, or a ``.model`` from elsewhere
  (:mod:`~raypretrain.tokens.tokenizer_sentencepiece`);
- a ``tokenizer.json`` of Hugging Face (:mod:`~raypretrain.tokens.tokenizer_huggingface`);
- bytes, and the letters of proteins (:mod:`~raypretrain.tokens.tokenizer_fixed`).
"""

from __future__ import annotations

from raypretrain.tokens.tokenizer_base import Tokenizer
from raypretrain.tokens.tokenizer_config import TokenizerConfig
from raypretrain.tokens.tokenizer_fixed import AminoAcids, Bytes
from raypretrain.tokens.tokenizer_training import train_tokenizer

__all__ = ["Tokenizer", "TokenizerConfig", "given_tokenizer", "train_tokenizer"]


def given_tokenizer(config: TokenizerConfig) -> Tokenizer | None:
    """The tokenizer that ``config`` names; None if one is to be trained.

    Raises:
        InputError: there is none at its path, or it cannot be used.
    """
    if config.path is not None:
        return Tokenizer.load(config.path, config.specials)
    if config.kind == "bytes":
        return Bytes()
    return AminoAcids() if config.kind == "amino-acids" else None
