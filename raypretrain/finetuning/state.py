"""Where a trial is between two epochs, in a folder from which it, or another, goes on. No pickles.

``state.safetensors`` holds the weights that are trained, of those in 16 bits what the optimizer moves, its moments by
the weights' names (another setting may put the weights into other groups), torch's random state and the best epoch's
weights; ``state.json`` the rest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from raypretrain.finetuning.best_epoch import BestEpoch

if TYPE_CHECKING:
    from raypretrain.finetuning.trial import RunningTrial

_TENSORS, _REST = "state.safetensors", "state.json"


def write_state(trial: RunningTrial, best: BestEpoch, name: str, folder: Path) -> None:
    """Write where a trial with this name is into ``folder``, which is there."""
    waited, weights = best.state()
    steps = trial.begun()
    tensors = {f"trained/{key}": tensor for key, tensor in trial.trained().items()}
    for key, weight in trial.model.named_parameters():
        moved = steps.masters.of(weight)
        if moved is not weight:
            tensors[f"masters/{key}"] = moved.detach()
        moments = steps.optimizer.state.get(moved, {})
        tensors |= {f"moments/{moment}/{key}": tensor for moment, tensor in moments.items()}
    tensors |= {f"best/{key}": tensor for key, tensor in weights.items()}
    tensors["random/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    save_file({key: tensor.cpu().contiguous() for key, tensor in tensors.items()}, folder / _TENSORS)
    order = steps.random.bit_generator.state
    rest = {"trial": name, "epoch": trial.epoch, "order": order, "best": waited}
    (folder / _REST).write_text(json.dumps(rest) + "\n", encoding="utf-8")


def read_state(trial: RunningTrial, best: BestEpoch, name: str, folder: Path) -> None:
    """Set ``trial``, ``best`` and torch's random state to what :func:`write_state` wrote into ``folder``.

    Where a trial with another name wrote it, patience begins anew, for the settings are others.
    """
    model, steps = trial.model, trial.begun()
    rest: dict[str, Any] = json.loads((folder / _REST).read_text(encoding="utf-8"))
    names = ("trained", "masters", "moments", "best", "random")
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    for key, tensor in load_file(folder / _TENSORS).items():
        part, _, own = key.partition("/")
        parts[part][own] = tensor
    model.load_state_dict(parts["trained"], strict=False)
    weights = dict(model.named_parameters())
    for key, tensor in parts["masters"].items():
        steps.masters.of(weights[key]).data.copy_(tensor)
    for key, tensor in parts["moments"].items():
        moment, _, own = key.partition("/")
        weight = steps.masters.of(weights[own])
        steps.optimizer.state[weight][moment] = tensor.to(weight.device)
    torch.set_rng_state(parts["random"]["cpu"])
    if "cuda" in parts["random"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(parts["random"]["cuda"])
    trial.epoch, steps.random.bit_generator.state = rest["epoch"], rest["order"]
    known = rest["best"] if rest["trial"] == name else rest["best"] | {"waited": 0}
    best.load(known, {key: tensor.to(weights[key].device) for key, tensor in parts["best"].items()})
