"""Tokenizers: trained here, given, or fixed; all with one protocol.

- SentencePiece, BPE or unigram, trained on a sample of the corpus, or a ``.model`` from elsewhere
  (:mod:`~raypretrain.tokens.tokenizer_sentencepiece`);
- a ``tokenizer.json`` of Hugging Face (:mod:`~raypretrain.tokens.tokenizer_huggingface`);
- bytes, and the letters of proteins (:mod:`~raypretrain.tokens.tokenizer_fixed`).
"""

from __future__ import annotations

from raypretrain.storage import Options
from raypretrain.tokens.tokenizer_base import Tokenizer
from raypretrain.tokens.tokenizer_config import TokenizerConfig
from raypretrain.tokens.tokenizer_fixed import AminoAcids, Bytes
from raypretrain.tokens.tokenizer_specials import INFILL, MASK
from raypretrain.tokens.tokenizer_training import train_tokenizer

__all__ = ["Tokenizer", "TokenizerConfig", "given_tokenizer", "train_tokenizer"]


def given_tokenizer(
    config: TokenizerConfig, infill: bool = False, mask: bool = False, options: Options | None = None
) -> Tokenizer | None:
    """The tokenizer that ``config`` names; None if one is to be trained.

    Args:
        infill, mask: whether one that is read gets marks for infilling, and a mask, where it has none.
        options: how to reach the store that it is in.

    Raises:
        InputError: there is none at its path, or it cannot be used.
    """
    if config.path is None:
        return Bytes() if config.kind == "bytes" else AminoAcids() if config.kind == "amino-acids" else None
    given = Tokenizer.load(config.path, config.specials, config.add, options)
    missing = [*INFILL] if infill and given.infill is None else []
    missing += [MASK] if mask and given.mask is None else []
    if not missing:
        return given
    return Tokenizer.load(config.path, config.specials, [*config.add, *missing], options)
