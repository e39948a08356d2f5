"""Forgetting: the base's own objective on its held-out text, before a trial and after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raypretrain.finetuning.base_text import BaseText
from raypretrain.training.evaluation import Rows, bits_per_byte, losses_by_source

BATCH = 16
"""Sequences that are measured at once."""


def base_loss(network: nn.Module, rows: Rows, boundaries: bool) -> Tensor:
    """The loss of the base's own objective, a scalar in nats a target.

    Args:
        network: as ``families.build`` makes one.
        boundaries: whether a token sees its own document alone.
    """
    device = next(network.parameters()).device
    starts = torch.from_numpy(rows.starts).to(device) if boundaries else None
    ids, targets = (torch.from_numpy(values).to(device) for values in (rows.ids, rows.targets))
    loss: Tensor = network(ids, targets, starts=starts)
    return loss


@torch.no_grad()
def recall(network: nn.Module, text: BaseText, batch: int = BATCH) -> dict[str, Any]:
    """How well a network still does what the base was trained for.

    The numbers are those that the base's run logs of the same weights and text (``evaluations.jsonl``): the mean over
    all targets, and of masked tokens always the same ones hidden.

    Args:
        network: as ``families.build`` makes one, whatever a trial did to it.
        batch: sequences at once.

    Returns:
        ``nats`` (a target), ``bits_per_byte`` (None where not all tokens are predicted) and ``sources``: the same two
        of each source by name, where there are several. A source without held-out text is left out.
    """
    trains = network.training
    network.eval()
    parts = text.held_out.parts()
    nats, means = losses_by_source(
        text.held_out,
        text.objective,
        (0, 1),
        batch,
        lambda rows: base_loss(network, rows, text.boundaries),
        lambda sums: sums,
    )
    network.train(trains)
    of_sources = {
        text.names[source]: {
            "nats": mean,
            "bits_per_byte": bits_per_byte(mean, parts[source], text.objective),
        }
        for source, mean in means.items()
    }
    return {
        "nats": nats,
        "bits_per_byte": bits_per_byte(nats, text.held_out, text.objective),
        "sources": of_sources if text.held_out.sources is not None else {},
    }


def forgotten(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float]:
    """What a trial's row says of two results of :func:`recall`: of the base, and of what a trial made of it.

    Returns:
        ``base_nats``, ``tuned_nats``, ``forgetting`` (the second less the first: nats a target, negative where the
        trial improved it), ``forgetting.SOURCE``; and ``base_bits_per_byte``, ``tuned_bits_per_byte`` where these are
        known.
    """
    row: dict[str, float] = {
        "base_nats": before["nats"],
        "tuned_nats": after["nats"],
        "forgetting": after["nats"] - before["nats"],
    }
    if before["bits_per_byte"] is not None:
        row["base_bits_per_byte"] = before["bits_per_byte"]
        row["tuned_bits_per_byte"] = after["bits_per_byte"]
    for name, tuned in after["sources"].items():
        row[f"forgetting.{name}"] = tuned["nats"] - before["sources"][name]["nats"]
    return row
