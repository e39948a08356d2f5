"""One small tokenizer of each kind, trained on real text where there is anything to train."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable
from typing import Any

import sentencepiece
from real_text import python_files, reviews
from tokenizers import Regex, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE, Unigram, WordPiece

from raypretrain.tokens.tokenizer import Tokenizer, TokenizerConfig, given_tokenizer, train_tokenizer
from raypretrain.tokens.tokenizer_huggingface import HuggingFaceTokenizer
from raypretrain.tokens.tokenizer_sentencepiece import SentencePieceTokenizer

VOCABULARY = 1500

# Letters with one sign before them, digits by three, signs with the newlines after them: the manner of many models.
LETTERS_AND_SIGNS = "|".join(
    (
        r"(?i:'[sdmt]|'ll|'ve|'re)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


@functools.cache
def texts() -> list[str]:
    """About 300 KB: half prose, half source."""
    return [*reviews(120), *(text[:8000] for text in python_files(20))]


def of_backend(backend: Any, **companions: Any) -> HuggingFaceTokenizer:
    """A tokenizer of the ``tokenizers`` library as ours."""
    files = {f"{name}.json": json.dumps(content).encode() for name, content in companions.items()}
    return HuggingFaceTokenizer(backend.to_str().encode(), files)


def byte_level(
    pre_tokenizer: Any, normalizer: Any = None, specials: tuple[str, ...] = ("<|endoftext|>",)
) -> Any:
    """A byte-level BPE, trained."""
    backend = Backend(BPE())
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts(), trainer)
    return backend


def like_gpt2() -> Any:
    """One token ends a document, begins it, and fills sequences."""
    return byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))


def like_llama3() -> Any:
    """An expression of its own for words, and a mark of begin by its post-processor."""
    split = pre_tokenizers.Split(Regex(LETTERS_AND_SIGNS), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend = byte_level(
        pre_tokenizers.Sequence([split, level]), specials=("<|begin|>", "<|end_of_text|>", "<|tool|>")
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
    )
    return backend


def like_qwen() -> Any:
    """Composes characters, and has tokens of its own that are no special ones."""
    split = pre_tokenizers.Split(Regex(LETTERS_AND_SIGNS), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend = byte_level(pre_tokenizers.Sequence([split, level]), normalizers.NFC())
    backend.add_tokens(["<tool>", "</tool>", "<think>", "    "])
    return backend


def like_roberta() -> Any:
    """Puts a space in front of a text."""
    backend = byte_level(
        pre_tokenizers.ByteLevel(add_prefix_space=True), specials=("<s>", "</s>", "<pad>", "<mask>")
    )
    backend.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    return backend


def like_bert() -> Any:
    """Small letters, no accents, no white space."""
    backend = Backend(WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=specials, show_progress=False)
    backend.train_from_iterator(texts(), trainer)
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.enable_truncation(32)
    backend.enable_padding(length=32)
    return backend


def like_t5() -> Any:
    """Unigram in a tokenizer.json, whose special tokens are in its vocabulary with the best score."""
    backend = Backend(Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    backend.train_from_iterator(texts(), trainer)
    return backend


def sentencepiece_model(**settings: Any) -> bytes:
    """A model that the sentencepiece library trains by itself."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in texts() for line in text.split("\n")),
        model_writer=out,
        vocab_size=VOCABULARY,
        minloglevel=2,
        **settings,
    )
    return out.getvalue()


def like_llama2() -> SentencePieceTokenizer:
    """A SentencePiece model from elsewhere: a space in front of each text, newlines as bytes, no padding."""
    settings = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    return SentencePieceTokenizer(
        sentencepiece_model(
            model_type="bpe",
            byte_fallback=True,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            **settings,
        )
    )


def trained(kind: str) -> Tokenizer:
    """As a run trains it."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        settings = TokenizerConfig(kind=kind, vocabulary=VOCABULARY)  # type: ignore[arg-type]
        return train_tokenizer(iter(texts()), settings, Path(folder) / "tokenizer.model", 1)


_MAKERS: dict[str, Callable[[], Tokenizer | None]] = {
    "bpe": lambda: trained("bpe"),
    "unigram": lambda: trained("unigram"),
    "like-llama2": like_llama2,
    "like-gpt2": lambda: of_backend(like_gpt2()),
    "like-llama3": lambda: of_backend(like_llama3()),
    "like-qwen": lambda: of_backend(like_qwen()),
    "like-roberta": lambda: of_backend(like_roberta()),
    "like-bert": lambda: of_backend(like_bert()),
    "like-t5": lambda: of_backend(like_t5()),
    "bytes": lambda: given_tokenizer(TokenizerConfig(kind="bytes")),
    "amino-acids": lambda: given_tokenizer(TokenizerConfig(kind="amino-acids")),
}

KINDS = list(_MAKERS)
LOSSLESS = ["bpe", "unigram", "like-llama2", "like-gpt2", "like-llama3", "bytes"]


@functools.cache
def tokenizer_of(kind: str) -> Tokenizer:
    """The tokenizer of a kind, the same for all tests of a process."""
    made = _MAKERS[kind]()
    assert made is not None
    return made
