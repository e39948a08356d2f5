"""A SentencePiece model as a ``tokenizer.json``. Its ids are ours on every text.

The pieces are written with their spaces as they are (SentencePiece writes U+2581 for them, so that a real U+2581
could not be told from a space), and the text is cut into the same words.
"""

from __future__ import annotations

from typing import Any

from raypretrain.tokens.tokenizer_json import sequence, split
from raypretrain.tokens.tokenizer_json import tokenizer_json as whole_json
from raypretrain.tokens.tokenizer_sentencepiece import SPACE, SentencePieceTokenizer

_LETTERS = r"[A-Za-z]++(?![^\x00-\x7f])"
_SIGNS = r"[!-@\[-`{-~]++(?![^A-Za-z \n\t])"
_WORDS = rf"[ \n\t]*+(?:{_LETTERS}|{_SIGNS}|[^ \n\t]++)|[ \n\t]++"
"""A regular expression that cuts any text into words, without rest, where no piece of ours spans the cut."""

_NEVER = -1e4  # the score of a piece that text must never match by its name, such as <0x0A>


def tokenizer_json(tokenizer: SentencePieceTokenizer) -> dict[str, Any]:
    """The content of the file."""
    names = [_name(tokenizer, i) for i in range(tokenizer.vocabulary)]
    decoders: list[dict[str, Any]] = [{"type": "ByteFallback"}, {"type": "Fuse"}]
    prefix = None
    if tokenizer.prefix:
        prefix = {"type": "Prepend", "prepend": tokenizer.prefix}
        decoders.append({"type": "Strip", "content": tokenizer.prefix, "start": 1, "stop": 0})
    return whole_json(
        _unigram(tokenizer, names) if tokenizer.kind == "unigram" else _bpe(tokenizer, names),
        added={i: name for i, name in enumerate(names) if tokenizer.is_special(i)},
        bos=tokenizer.bos,
        decoder=sequence("decoders", decoders),
        normalizer=prefix,
        pre_tokenizer=split(_WORDS),
    )


def _name(tokenizer: SentencePieceTokenizer, token: int) -> str:
    piece = tokenizer.token_name(token)
    return piece if tokenizer.is_special(token) or tokenizer.is_byte(token) else piece.replace(SPACE, " ")


def _bpe(tokenizer: SentencePieceTokenizer, names: list[str]) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": names[tokenizer.unk],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": {name: token for token, name in enumerate(names)},
        "merges": _merges(tokenizer, names),
    }


def _merges(tokenizer: SentencePieceTokenizer, names: list[str]) -> list[list[str]]:
    """Every pair of pieces whose sum is a piece, best piece first.

    SentencePiece merges the neighbours whose sum has the best score; so a pair ranks as its sum does.
    """
    normal = {
        name: token
        for token, name in enumerate(names)
        if not (tokenizer.is_special(token) or tokenizer.is_byte(token))
    }
    ranked = []
    for name, token in normal.items():
        rank = -tokenizer.pieces[token][1]
        for cut in range(1, len(name)):
            left, right = name[:cut], name[cut:]
            if left in normal and right in normal:
                ranked.append((rank, normal[left], normal[right], left, right))
    return [[left, right] for _, _, _, left, right in sorted(ranked)]


def _unigram(tokenizer: SentencePieceTokenizer, names: list[str]) -> dict[str, Any]:
    vocabulary = [
        [
            name,
            _NEVER if tokenizer.is_special(token) or tokenizer.is_byte(token) else tokenizer.pieces[token][1],
        ]
        for token, name in enumerate(names)
    ]
    return {"type": "Unigram", "unk_id": tokenizer.unk, "vocab": vocabulary, "byte_fallback": True}
