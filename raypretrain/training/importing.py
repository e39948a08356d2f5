"""A public model brought in: checked, its weights in our families' layout, its tokenizer as it is; and what it is."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from raypretrain.errors import InputError
from raypretrain.models.files import TOKENIZER
from raypretrain.models.huggingface import save_language_model
from raypretrain.models.loading import Loaded, load_completed
from raypretrain.models.shape import ModelShape
from raypretrain.storage import check_writable, is_remote
from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.training.fetching import fetch_model

_SEED = 0


def import_model(model: str | Path, to: Path, endpoint_url: str | None = None) -> dict[str, Any]:
    """Write the model in a folder to ``to``, in Hugging Face's layout; returns what was found.

    What our families have not (BERT's pooler) is left out, and an output that it was saved without is drawn.

    Args:
        model: the folder; or the URL of one, which is fetched first, to a temporary folder.
        endpoint_url: of the store, if it is not AWS.

    Raises:
        InputError: it is no model of a family of ours, is damaged, or its tokenizer is not there or does not fit.
        StorageError: it cannot be fetched, or ``to`` not be written to.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError("is not empty", where=str(to), fix="give --to a new folder")
    url = str(model)
    if not is_remote(url):
        return _import(Path(url.removeprefix("file://")), to)
    url = url.rstrip("/")
    check_writable(to)
    with tempfile.TemporaryDirectory(prefix="raypretrain-import-") as temporary:
        fetched = Path(temporary) / "model"
        fetch_model(url, fetched, {"endpoint_url": endpoint_url} if endpoint_url else None)
        try:
            return _import(fetched, to)
        except InputError as error:  # of the files there, and not of where they are for now
            where = (error.where or url).replace(str(fetched), url)
            raise InputError(error.what, where=where, fix=error.fix) from None


def _import(folder: Path, to: Path) -> dict[str, Any]:
    if not folder.is_dir():
        fix = "give the folder of a model in Hugging Face's layout"
        raise InputError("there is no such folder", where=str(folder), fix=fix)
    loaded = load_completed(folder, _SEED)
    tokenizer = tokenizer_of(folder, loaded.shape)
    check_writable(to)
    to.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, to / name)
    bos, eos, pad = tokenizer.bos, tokenizer.eos, tokenizer.pad
    save_language_model(loaded.state, loaded.shape, to, bos=bos, eos=eos, pad=pad)
    return describe(loaded, tokenizer) | {"model": str(to)}


def tokenizer_of(folder: Path, shape: ModelShape) -> Tokenizer:
    """The tokenizer of the model in ``folder``.

    Raises:
        InputError: it is not there, cannot be used, or has ids that the embedding has no row for.
    """
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocabulary > shape.vocabulary:
        raise InputError(
            f"the tokenizer has {tokenizer.vocabulary:,} tokens, the model {shape.vocabulary:,} rows for them",
            where=str(folder),
            fix="give the tokenizer that the model was trained with",
        )
    return tokenizer


def describe(loaded: Loaded, tokenizer: Tokenizer) -> dict[str, Any]:
    """What a model is, as plain values."""
    shape = loaded.shape
    roles = {"bos": tokenizer.bos, "eos": tokenizer.eos, "pad": tokenizer.pad, "mask": tokenizer.mask}
    named = {role: tokenizer.token_name(token) for role, token in roles.items() if token is not None}
    return {
        "family": shape.family,
        "objective": shape.objective,
        "parameters": shape.parameters,
        "dtype": str(next(iter(loaded.state.values())).dtype).removeprefix("torch."),
        "layers": shape.layers,
        "width": shape.width,
        "heads": shape.heads,
        "key_value_heads": getattr(shape, "key_value_heads", shape.heads),
        "feed_forward": shape.feed_forward,
        "tied": shape.tied,
        "vocabulary": shape.vocabulary,
        "positions": shape.max_length,
        "learned_positions": shape.learns_positions,
        "tokenizer": {"kind": tokenizer.kind, "tokens": tokenizer.vocabulary, "lossless": tokenizer.lossless}
        | named,
        "left_out": loaded.left_out,
        "drawn": loaded.drawn,
    }


def as_lines(found: dict[str, Any]) -> list[str]:
    """What :func:`import_model` found, as people read it."""
    grouped = found["key_value_heads"] != found["heads"]
    keys = f" ({found['key_value_heads']} of keys and values)" if grouped else ""
    tokenizer = found["tokenizer"]
    names = ", ".join(
        f"{role} {tokenizer[role]}" for role in ("bos", "eos", "pad", "mask") if role in tokenizer
    )
    lines = [
        f"{found['family']}, {found['parameters']:,} parameters in {found['dtype']}: {found['layers']} layers of "
        f"width {found['width']:,}, {found['heads']} heads{keys}, feed-forward {found['feed_forward']:,}, "
        f"{'output tied to the embedding' if found['tied'] else 'an output of its own'}",
        f"{'learned' if found['learned_positions'] else 'rotary'} positions, {found['positions']:,}; learns the "
        f"{'next token' if found['objective'] == 'causal' else 'tokens hidden from it'}",
        f"tokenizer: {tokenizer['kind']}, {tokenizer['tokens']:,} tokens for {found['vocabulary']:,} rows; {names}",
    ]
    if not tokenizer["lossless"]:
        lines.append(
            "note: this tokenizer does not keep every text as it is; bits per byte count the whole text"
        )
    if found["left_out"]:
        lines.append(f"left out: {', '.join(found['left_out'])}")
    if found["drawn"]:
        lines.append(f"drawn, because it was saved without: {', '.join(found['drawn'])}")
    return [*lines, f"written to {found['model']}"]
