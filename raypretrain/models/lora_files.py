"""Low-rank adapters as the library ``peft`` reads them: ``adapter_config.json`` and ``adapter_model.safetensors``.

Nothing here needs ``peft`` or ``transformers``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file
from torch import Tensor

from raypretrain.models.layout import NAMES
from raypretrain.models.lora_config import LoraConfig
from raypretrain.models.shape import ModelShape

TaskType = Literal["CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS"]
"""For which class of ``transformers`` adapters are meant, in the words of ``peft``."""

_KINDS = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
_ROOT = "base_model.model"
"""Where ``peft`` has the model that it adapts."""


def save_peft(
    adapters: Mapping[str, Tensor],
    shape: ModelShape,
    config: LoraConfig,
    folder: str | Path,
    base_name: str,
    *,
    task_type: TaskType | None = None,
    head: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> None:
    """Write a folder that ``peft.PeftModel.from_pretrained(base, folder)`` loads.

    Args:
        adapters: as :func:`raypretrain.models.lora.adapter_state` gives them.
        shape: of the network that they are for.
        config: that they were made with.
        base_name: the folder, or the name on the Hub, of the model that they are for.
        task_type: None: that of the language model, which is none for an encoder.
        head: what was trained beside them, and takes the place of what the base has: the tensors of each module, both
            under Hugging Face's names, e.g. ``{"classifier": {"weight": …, "bias": …}}``.
    """
    names, tensors, targets = NAMES[shape.family], {}, set()
    for name, tensor in adapters.items():
        _, layer, *path, kind = name.split(".")
        module = names.layer[".".join((*path, "weight"))].removesuffix(".weight")
        targets.add(module)
        tensors[f"{_ROOT}.{names.layers}.{layer}.{module}.{_KINDS[kind]}"] = tensor
    head = head or {}
    for module, own in head.items():
        tensors |= {f"{_ROOT}.{module}.{name}": tensor for name, tensor in own.items()}
    values = {
        "peft_type": "LORA",
        "task_type": task_type or ("CAUSAL_LM" if shape.objective == "causal" else None),
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": int(config.alpha) if config.alpha.is_integer() else config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rank_stabilised,
        "use_dora": config.dora,
        "bias": "none",
        "fan_in_fan_out": bool(names.transposed),
        "target_modules": sorted(targets),
        "exclude_modules": _also_named(targets, shape.family) or None,
        "modules_to_save": list(head) or None,
    }
    _write(tensors, values, Path(folder))


def _also_named(targets: set[str], family: str) -> list[str]:
    """The modules of a layer whose names end like a target's, which ``peft`` would take for one of them.

    BERT's ``attention.output.dense`` is one, if ``output.dense`` alone, that of the feed-forward block, is a target.
    """
    others = {name.rpartition(".")[0] for name in NAMES[family].layer.values()} - targets
    return sorted(name for name in others if any(name.endswith(f".{target}") for target in targets))


def _write(tensors: Mapping[str, Tensor], values: dict[str, Any], folder: Path) -> None:
    """The tensors, and then the config that makes a model of them."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    # A copy of each: safetensors refuses weights that share memory.
    own = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    save_file(own, f"{weights}.tmp", metadata={"format": "pt"})
    os.replace(f"{weights}.tmp", weights)
    config.with_name(f"{config.name}.tmp").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    os.replace(f"{config}.tmp", config)
