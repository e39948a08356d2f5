"""Which of a network's weights are trained, and where each stands between the embeddings and the output."""

from __future__ import annotations

from raypretrain.errors import InputError
from raypretrain.models.families import LanguageModel

_AT_THE_BOTTOM = ("embedding.", "embedding_norm.", "positions.", "token_types.")


def layer_of(name: str, layers: int) -> int:
    """How far up a weight stands: 0 for the embeddings, i + 1 in ``blocks.i``, ``layers + 1`` for what follows.

    For learning rates that decay from layer to layer towards the input (ULMFiT, arXiv:1801.06146, section 3.2):
    ``rate · decay ** (layers + 1 - layer_of(name, layers))``. A tied output matrix is the embedding, and counts as it.

    Args:
        name: as the networks of all families have it; other names follow the layers.
    """
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return 0 if name.startswith(_AT_THE_BOTTOM) else layers + 1


def freeze_below(network: LanguageModel, top_layers: int) -> None:
    """Have the top layers trained, and what follows them: norm, head, and an output matrix of its own.

    Args:
        top_layers: how many; 0 leaves what follows the layers alone.

    Raises:
        InputError: the network has fewer layers.
    """
    layers = network.shape.layers
    if not 0 <= top_layers <= layers:
        raise InputError(
            f"{top_layers} top layers of a model that has {layers}",
            where="top_layers",
            fix=f"give 0 to {layers}",
        )
    for name, weight in network.named_parameters():
        weight.requires_grad_(layer_of(name, layers) > layers - top_layers)
