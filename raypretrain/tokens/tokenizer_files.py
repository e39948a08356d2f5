"""Where a tokenizer is read from: a file or a folder, local or in a bucket, of any kind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from raypretrain import storage
from raypretrain.errors import InputError
from raypretrain.tokens.tokenizer_base import Tokenizer
from raypretrain.tokens.tokenizer_fixed import JSON_NAME, AminoAcids, Bytes
from raypretrain.tokens.tokenizer_huggingface import COMPANIONS, HuggingFaceTokenizer
from raypretrain.tokens.tokenizer_sentencepiece import MODEL_NAME, SentencePieceTokenizer


def load_tokenizer(
    path: str, specials: Mapping[str, str], add: Sequence[str], options: storage.Options | None
) -> Tokenizer:
    """The tokenizer at ``path``; see :meth:`~raypretrain.tokens.tokenizer_base.Tokenizer.load`."""
    beside = _files_beside(path, options)
    if beside is None:
        fix = f"name a .model of SentencePiece, a {JSON_NAME}, or a folder with {MODEL_NAME} or {JSON_NAME}"
        raise InputError("there is no such tokenizer", where=path, fix=fix)
    main, folder = beside
    read = partial(_read, folder=folder, specials=specials, add=add, options=options)
    if MODEL_NAME in main and JSON_NAME in main:
        try:
            return read(main[MODEL_NAME])
        except InputError:
            return read(main[JSON_NAME])  # says the same in more general terms
    return read(next(iter(main.values())))


def _files_beside(path: str, options: storage.Options | None) -> tuple[dict[str, str], dict[str, str]] | None:
    """The files to read, and all files of their folder: names and URLs. None if there is nothing to read."""
    names = (MODEL_NAME, JSON_NAME)
    if not storage.is_remote(path) and Path(path).is_file():
        return {Path(path).name: path}, _local(Path(path).parent)
    if not storage.is_remote(path):
        folder = _local(Path(path))
        main = {name: folder[name] for name in names if name in folder}
        return (main, folder) if main else None
    found = {info.url for info in storage.list_files(path, options)}
    above, _, last = path.rpartition("/")
    if path in found:
        return {last: path}, {
            name: url for name in COMPANIONS if storage.list_files(url := f"{above}/{name}", options)
        }
    folder = {url.rpartition("/")[2]: url for url in found if url.rpartition("/")[0] == path.rstrip("/")}
    main = {name: folder[name] for name in names if name in folder}
    return (main, folder) if main else None


def _local(folder: Path) -> dict[str, str]:
    names = (MODEL_NAME, JSON_NAME, *COMPANIONS)
    return {name: str(folder / name) for name in names if (folder / name).is_file()}


def _read(
    url: str,
    folder: dict[str, str],
    specials: Mapping[str, str],
    add: Sequence[str],
    options: storage.Options | None,
) -> Tokenizer:
    content = _content(url, options)
    if content.lstrip()[:1] != b"{":
        return SentencePieceTokenizer(content, url, specials, add)
    companions = {name: _content(folder[name], options) for name in COMPANIONS if name in folder}
    fixed = None if add else _fixed(content)
    return fixed or HuggingFaceTokenizer(content, companions, url, specials, add=add)


def _fixed(content: bytes) -> Tokenizer | None:
    """The fixed tokenizer whose file this is."""
    if len(content) > 100_000:
        return None
    try:
        values: Any = json.loads(content)
    except ValueError:
        return None
    return next((made for made in (Bytes(), AminoAcids()) if made.huggingface() == values), None)


def _content(url: str, options: storage.Options | None) -> bytes:
    with storage.open_read(url, options) as file:
        return file.read()
