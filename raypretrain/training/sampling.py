"""Text from a released model, with our own network: neither Ray nor transformers is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raypretrain.errors import InputError


def sample(
    folder: Path, prompt: str, tokens: int, temperature: float, top_p: float, seeds: Sequence[int]
) -> list[str]:
    """Continuations of ``prompt``, one for each seed.

    Args:
        folder: a released model: config.json, safetensors, tokenizer.json.

    Raises:
        InputError: it is no such folder.
    """
    from tokenizers import Tokenizer

    from raypretrain.models.huggingface import load_base
    from raypretrain.models.sample import generate
    from raypretrain.models.transformer import CausalLM

    shape, state = load_base(folder)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(
            "there is no tokenizer.json", where=str(folder), fix="give a released model's folder"
        )
    tokenizer = Tokenizer.from_file(str(path))
    model = CausalLM(shape)
    model.load_state_dict(state)
    model.eval()
    ids = tokenizer.encode(prompt).ids
    eos = tokenizer.token_to_id("</s>")
    drawn = (generate(model, ids, tokens, temperature, top_p=top_p, seed=seed, eos=eos) for seed in seeds)
    return [tokenizer.decode(new) for new in drawn]
