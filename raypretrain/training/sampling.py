"""Text from a released model, with our own network: neither Ray nor transformers is needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raypretrain.errors import InputError


def sample(
    folder: Path, prompt: str, tokens: int, temperature: float, top_p: float, seeds: Sequence[int]
) -> list[str]:
    """Continuations of ``prompt``, one for each seed.

    Args:
        folder: a released model: config.json, safetensors, tokenizer.json.

    Raises:
        InputError: it is no such folder, or the model is an encoder.
    """
    from tokenizers import Tokenizer

    from raypretrain.models.families import build
    from raypretrain.models.loading import load_base
    from raypretrain.models.sample import generate

    shape, state = load_base(folder)
    if shape.objective != "causal":
        raise InputError(
            f"is an encoder ('{shape.family}'), which fills gaps in a text but continues none",
            where=str(folder / "config.json"),
            fix="give a decoder, e.g. of type 'llama' or 'gpt2'",
        )
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(
            "there is no tokenizer.json", where=str(folder), fix="give a released model's folder"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions, of a file that it cannot parse
        raise InputError(f"is no tokenizer ({error})", where=str(path)) from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    bos, eos = (_special(folder, name) for name in ("bos_token_id", "eos_token_id"))
    model: Any = build(shape)
    model.load_state_dict(state)
    model.eval()
    ids = tokenizer.encode(prompt).ids or ([] if bos is None else [bos])
    if not ids:
        raise InputError("an empty prompt is nothing to go on from", where="--prompt", fix="give a few words")
    drawn = (generate(model, ids, tokens, temperature, top_p=top_p, seed=seed, eos=eos) for seed in seeds)
    return [tokenizer.decode(new) for new in drawn]


def _special(folder: Path, name: str) -> int | None:
    """An id of the model's config, the first where it names several."""
    value = json.loads((folder / "config.json").read_text(encoding="utf-8")).get(name)
    return value[0] if isinstance(value, list) else value
