"""A ``tokenizer.json`` of Hugging Face, read by the ``tokenizers`` library: what public models come with.

Speed: where its text can be cut into words without changing what the model gets (:mod:`tokenizer_cuts` tries it), a
word that was met before is looked up.
"""

from __future__ import annotations

import json
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypretrain.errors import InputError
from raypretrain.tokens.tokenizer_base import Tokenizer, bytes_of_spans
from raypretrain.tokens.tokenizer_cuts import CUTS, cut_of
from raypretrain.tokens.tokenizer_json import begin
from raypretrain.tokens.tokenizer_specials import COMPANIONS, find_specials, infill_marks
from raypretrain.tokens.tokenizer_values import (
    FIX,
    declare,
    is_lossless,
    parsed,
    steps_of,
    texts_of_tokens,
    with_tokens,
)
from raypretrain.tokens.words import Cut, Words, pieces

JSON_NAME = "tokenizer.json"

_known_cuts: dict[str, Cut | None] = {}  # trying takes some tenths of a second


class HuggingFaceTokenizer(Tokenizer):
    """A ``tokenizer.json``. The names of special tokens inside a text are text."""

    def __init__(
        self,
        content: bytes,
        companions: Mapping[str, bytes],
        where: str = JSON_NAME,
        specials: Mapping[str, str] | None = None,
        cut: int | None = None,
        add: Sequence[str] = (),
    ) -> None:
        """Read it.

        Args:
            content: of the file.
            companions: contents of the files beside it that name its special tokens.
            where: its name for error messages.
            specials: names for ``bos``, ``eos`` and ``pad`` that the recipe gives.
            cut: which of :data:`~raypretrain.tokens.tokenizer_cuts.CUTS` is right, if that is known; -1 is none.
            add: names of special tokens that it gets if it has not got them.
        """
        # A task of the stream has one CPU, and many run beside each other.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.content, self.added = with_tokens(content, add, where) if add else (content, 0)
        self._values, names = parsed(self.content, where)
        roles = find_specials(self._values, names, companions, specials or {}, where)
        self.bos, self.eos, self.pad, self.mask = roles["bos"], roles["eos"], roles["pad"], roles.get("mask")
        self._names = {token: name for name, token in names.items()}
        self.vocabulary = max(self._names) + 1
        model = self._values["model"]
        self.kind = str(model["type"]).lower()
        self.unk = model["unk_id"] if "unk_id" in model else names.get(model.get("unk_token") or "")
        declare(self._values, {roles[role]: self._names[roles[role]] for role in roles})
        self._backend = _backend(self._values, where)
        added = self._values["added_tokens"]
        self._special = {token["id"] for token in added if token["special"]}
        self._special |= set() if self.unk is None else {self.unk}
        self.infill = infill_marks({self._names[token]: token for token in self._special})
        self.texts = texts_of_tokens(self._values, self._names, self._special, self.vocabulary)
        self.byte_lengths = np.array([len(text) for text in self.texts], np.int32)
        self.lossless = is_lossless(self._values, names)
        self._refuse_specials_in_text(where)
        own = sorted((token["content"].encode() for token in self._own_tokens()), key=len, reverse=True)
        self._own = re.compile(b"|".join(map(re.escape, own))) if own else None
        self._cut = self._find_cut() if cut is None else None if cut < 0 else CUTS[cut]
        if self._cut is not None:
            self._words = Words(self._cut, self._encode_words, self._own)
            if cut is None and not self._words_agree():
                self._cut = None

    def decode(self, ids: Iterable[int]) -> str:
        if self.lossless:
            texts = self.texts
            return b"".join([texts[i] for i in ids]).decode("utf-8", errors="replace")
        return str(self._backend.decode([i for i in ids if not self.is_special(i)]))

    def is_special(self, token: int) -> bool:
        return token in self._special

    def token_name(self, token: int) -> str:
        return self._names[token]

    def spans(self, text: str) -> NDArray[np.int64]:
        if self.lossless:
            return super().spans(text)
        found, begun = [np.empty((0, 2), np.int64)], 0
        for piece in self._pieces(text):
            offsets = self._backend.encode(piece, add_special_tokens=False).offsets
            found.append(np.array(offsets, np.int64).reshape(-1, 2) + begun)
            begun += len(piece)
        return np.concatenate(found)

    def token_bytes(self, text: str) -> NDArray[np.int64]:
        return super().token_bytes(text) if self.lossless else bytes_of_spans(text, self.spans(text))

    def joins(self) -> NDArray[np.bool_]:
        if not (prefix := self._values["model"].get("continuing_subword_prefix")):
            return super().joins()
        names = [self._names.get(token, "") for token in range(self.vocabulary)]
        goes_on = [name.startswith(prefix) and len(name) > len(prefix) for name in names]
        return np.array([goes_on, [not self.is_special(token) for token in range(self.vocabulary)]])

    def files(self) -> dict[str, bytes]:
        settings = self.special_names() | {"tokenizer_class": "PreTrainedTokenizerFast"}
        return {COMPANIONS[0]: json.dumps(settings, indent=2).encode(), JSON_NAME: self.content}

    def special_names(self) -> dict[str, str]:
        """``bos_token`` and so on, as ``tokenizer_config.json`` names them."""
        roles = {"bos": self.bos, "eos": self.eos, "pad": self.pad, "unk": self.unk, "mask": self.mask}
        return {f"{role}_token": self._names[token] for role, token in roles.items() if token is not None}

    def huggingface(self) -> dict[str, Any]:
        return self._values | {"post_processor": begin(self.bos, self._names[self.bos])}

    def _identity(self) -> bytes:
        # Not what is put around a text, nor how the file is laid out: a released copy is the same tokenizer.
        around = ("version", "truncation", "padding", "post_processor")
        values = {key: value for key, value in self._values.items() if key not in around}
        return json.dumps([values, self.bos, self.eos, self.pad], sort_keys=True).encode()

    def _encode(self, texts: list[str]) -> list[NDArray[np.int32]]:
        if self._cut is None:
            encoded = self._backend.encode_batch_fast(texts, add_special_tokens=False)
            return [np.array(one.ids, np.int32) for one in encoded]
        return self._words.ids(texts)

    def _encode_words(self, words: list[str]) -> list[bytes]:
        encoded = self._backend.encode_batch_fast(words, add_special_tokens=False)
        return [array("i", one.ids).tobytes() for one in encoded]

    def _pieces(self, text: str) -> Iterator[str]:
        longest = max((len(token["content"]) for token in self._own_tokens()), default=1)
        if self._cut is None:
            return iter([text])
        return pieces(text, partial(self._cut.words, whole=self._own), longest)

    def _own_tokens(self) -> list[dict[str, Any]]:
        """Tokens that are looked for in a text before it is cut, and that are no special ones."""
        return [token for token in self._values["added_tokens"] if not token["special"]]

    def _find_cut(self) -> Cut | None:
        """How a text can be cut into words."""
        for token in self._own_tokens():
            flags = token["lstrip"] or token["rstrip"] or token["single_word"]
            changed = token.get("normalized", False) and not self._keeps_ascii(token["content"])
            if flags or changed or re.search(r"\S\s|\s\S", token["content"]):
                return None
        key = json.dumps([self._values.get("normalizer"), self._values.get("pre_tokenizer")])
        if key not in _known_cuts:
            _known_cuts[key] = cut_of(self._backend.normalizer, self._backend.pre_tokenizer)
        return _known_cuts[key]

    def _keeps_ascii(self, content: str) -> bool:
        """Whether the normalizer leaves this name as it is."""
        steps = steps_of(self._values.get("normalizer"), "normalizers")
        return content.isascii() and all(step["type"] in ("NFC", "NFD") for step in steps)

    def _words_agree(self) -> bool:
        """Whether what stands beside the own tokens is encoded by words as it is within the text."""
        names = [token["content"] for token in self._own_tokens()]
        texts = [f"{name}a {name} b{name}\n{name}{other}5." for name in names for other in names[:8]]
        whole = [self._backend.encode(text, add_special_tokens=False).ids for text in texts]
        return whole == [ids.tolist() for ids in self._encode(texts)]

    def _refuse_specials_in_text(self, where: str) -> None:
        for token in {self.bos, self.eos, self.pad} - {self.unk}:
            name = self._names[token]
            ids = self._backend.encode(f"a {name} b{name}", add_special_tokens=False).ids
            if token in ids:
                what = f"the text '{name}' would become the special token of this name"
                raise InputError(what, where=where, fix="take another tokenizer, or remove the text's match")

    def __reduce__(self) -> tuple[Any, ...]:
        cut = -1 if self._cut is None else CUTS.index(self._cut)
        files = self.files()
        return (
            HuggingFaceTokenizer,
            (self.content, {COMPANIONS[0]: files[COMPANIONS[0]]}, JSON_NAME, None, cut),
        )


def _backend(values: dict[str, Any], where: str) -> Any:
    from tokenizers import Tokenizer as Backend

    try:
        # A post-processor would add marks, and take white space out of the tokens' places.
        backend = Backend.from_str(json.dumps(values | {"post_processor": None}))
    except Exception as error:  # the library raises bare Exceptions, of a file that it cannot parse
        raise InputError(f"is no tokenizer ({str(error)[:200]})", where=where, fix=FIX) from None
    for token in values["added_tokens"]:
        if backend.token_to_id(token["content"]) != token["id"]:
            raise InputError(f"gives '{token['content']}' an id that is taken", where=where, fix=FIX)
    backend.encode_special_tokens = True
    return backend
