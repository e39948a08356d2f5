"""A model fetched from a store: those files of its folder that are read here, and never a pickle. Imports no torch."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raypretrain.errors import InputError
from raypretrain.models.files import CONFIG, INDEX, TOKENIZER, WEIGHTS, weight_files
from raypretrain.storage import (
    FileInfo,
    Options,
    check_writable,
    download,
    is_remote,
    list_files,
    open_read,
    write_atomic,
)

KEPT = "base.json"
"""What a run's folder has of its base model."""
LISTED = "LISTED.json"
"""What a fetched model was in its store, file by file."""

_AT_ONCE = 4


def tell_config(model: Any, context: dict[str, Any] | None, run: Path | None) -> None:
    """Put the ``config.json`` of a base model in a store where ``ModelConfig`` looks for it: it knows no stores.

    Args:
        model: what a recipe says of the model.
        context: of the validation; takes ``base_config``, if it has none.
        run: the run's folder, which may have kept it.

    Raises:
        InputError: it is no JSON object.
        StorageError: it cannot be read.
    """
    base = model.get("from") if isinstance(model, dict) else None
    if context is None or "base_config" in context or not isinstance(base, str) or not is_remote(base):
        return
    kept = json.loads((run / KEPT).read_text(encoding="utf-8")) if run and (run / KEPT).is_file() else {}
    if kept.get("folder") == base:
        context["base_config"] = kept["config"]
    else:
        url = model.get("endpoint_url")
        options = {"endpoint_url": url} if isinstance(url, str) else None
        context["base_config"] = _read_json(f"{base.rstrip('/')}/{CONFIG}", options)


def fetch_model(url: str, folder: Path, options: Options | None) -> None:
    """Copy the model at ``url`` to ``folder``, which is there whole or not at all; nothing if that is just it already.

    Raises:
        InputError: it is no model in Hugging Face's layout, or has pickled weights only.
        StorageError: it cannot be read, changes meanwhile, or ``folder`` cannot be written.
    """
    files = _files_of_model(url.rstrip("/"), options)
    listed = json.dumps({name: asdict(info) for name, info in files.items()}, indent=1)
    if is_fetched(folder) and (folder / LISTED).read_text(encoding="utf-8") == listed:
        return
    partial = folder.with_name(f"{folder.name}.partial")
    for stale in (partial, folder):
        shutil.rmtree(stale, ignore_errors=True)
    check_writable(partial, need_bytes=sum(info.size for info in files.values()))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda name: download(files[name], partial / name, options), files))
    write_atomic(partial / LISTED, listed)
    partial.rename(folder)


def is_fetched(folder: Path) -> bool:
    """Whether ``folder`` is what :func:`fetch_model` made."""
    return (folder / LISTED).is_file()


def _files_of_model(url: str, options: Options | None) -> dict[str, FileInfo]:
    """Name → file, of those right in the folder that are read."""
    found = {info.url.removeprefix(f"{url}/"): info for info in list_files(f"{url}/", options)}
    if CONFIG not in found:
        fix = "give the folder of a model in Hugging Face's layout"
        raise InputError(f"holds no {CONFIG}", where=url, fix=fix)
    weights = weight_files(found, url, lambda: _read_json(f"{url}/{INDEX}", options))
    for name in weights:
        if name not in found or "/" in name or not name.endswith(".safetensors"):
            what = f"names '{name}', which is no safetensors file beside it"
            raise InputError(what, where=f"{url}/{INDEX}")
    index = [] if WEIGHTS in found else [INDEX]
    return {name: found[name] for name in (CONFIG, *TOKENIZER, *index, *weights) if name in found}


def _read_json(url: str, options: Options | None) -> dict[str, Any]:
    with open_read(url, options) as file:
        try:
            values = json.loads(file.read())
        except ValueError as error:
            raise InputError(f"cannot be read as JSON ({error})", where=url) from None
    if not isinstance(values, dict):
        raise InputError("holds no JSON object", where=url)
    return values
