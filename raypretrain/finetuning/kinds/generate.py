"""``generate``: answers in a conversation are learned, token by token, as instruction tuning does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from raypretrain.errors import InputError
from raypretrain.finetuning.chat import Chat
from raypretrain.finetuning.encode import NO_TARGET, Encoded, Encoder, flat, starts_of
from raypretrain.finetuning.kinds.kind import Batch, Details, Kind, Row
from raypretrain.finetuning.labelled import Example
from raypretrain.finetuning.messages import Message, as_messages
from raypretrain.finetuning.rows import LabelledFile

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raypretrain.finetuning.tasks import TaskConfig
    from raypretrain.models.families import LanguageModel
    from raypretrain.models.releasing import Special


class Whole:
    """The language model alone, as the other kinds' models hold it: made a module when torch is there."""

    @staticmethod
    def of(network: LanguageModel) -> nn.Module:
        """A module with the attribute ``network``."""
        from torch import nn

        module = nn.Module()
        module.network = network
        return module


@dataclass(frozen=True)
class Generate(Kind):
    """Messages in the usual format; the loss is the mean cross-entropy of the answers' tokens."""

    metrics: ClassVar[dict[str, bool]] = {"loss": False, "perplexity": False}
    objectives = ("causal",)
    learns_output = True
    packs = True
    divisible = True

    @classmethod
    def parse(cls, row: Row, where: str, file: LabelledFile) -> Example:
        messages = as_messages(row, where)
        return Example("\n".join(message["content"] for message in messages), None, where, messages)

    @classmethod
    def fit(cls, config: TaskConfig, train: Sequence[Example]) -> Generate:
        return cls()

    def encode(self, examples: Sequence[Example], encoder: Encoder) -> Encoded:
        chat = Chat.of(encoder)
        rows = [answer_tokens(chat, encoder, example.parts, example.where) for example in examples]
        if rows and not any((targets != NO_TARGET).any() for _, targets in rows):
            raise InputError(
                f"no answer begins within {encoder.length} tokens",
                where=examples[0].where,
                fix="raise adapt.length, or give shorter questions",
            )
        starts = starts_of([len(ids) for ids, _ in rows])
        ids, targets = flat([ids for ids, _ in rows]), flat([targets for _, targets in rows], np.int64)
        return Encoded(ids, starts, targets, of_tokens=True)

    def model(self, network: LanguageModel, pooling: str | None) -> nn.Module:
        return Whole.of(network)

    def loss(self, model: Any, batch: Batch, weights: Tensor | None) -> Tensor:
        loss: Tensor = model.network(batch.ids, batch.targets, starts=batch.starts)
        return loss

    def divisor(self, batch: Batch, weights: Tensor | None) -> float:
        return float((batch.targets != NO_TARGET).sum())

    def outputs(self, model: Any, batch: Batch) -> Sequence[np.ndarray]:
        import torch

        each = torch.full(batch.ids.shape, float("nan"), device=batch.ids.device)
        if (batch.targets != NO_TARGET).any():
            model.network(batch.ids, batch.targets, each)
        counted = (batch.targets != NO_TARGET).cpu().numpy()
        losses = each.cpu().numpy()
        return [row[own] for row, own in zip(losses, counted, strict=True)]

    def scores(self, outputs: Sequence[np.ndarray], data: Encoded) -> dict[str, float]:
        loss = float(np.concatenate(outputs).astype(np.float64).mean())
        return {"loss": loss, "perplexity": float(np.exp(min(loss, 700.0)))}

    def details(self, outputs: Sequence[np.ndarray], data: Encoded) -> Details:
        losses = np.array([float(row.mean()) if len(row) else 0.0 for row in outputs])
        return Details([""] * len(losses), [""] * len(losses), losses)

    def release(self, model: Any, folder: Path, special: Special) -> None:
        from raypretrain.models.huggingface import save_language_model

        network = model.network
        save_language_model(
            network.state_dict(), network.shape, folder, bos=special.bos, eos=special.eos, pad=special.pad
        )


def answer_tokens(
    chat: Chat, encoder: Encoder, messages: Sequence[Message], where: str
) -> tuple[np.ndarray, np.ndarray]:
    """A conversation's ids and, for each, the token after it if an answer has it, else -100; cut to the length.

    Question and answer are tokenized apart, as they are when the model is asked.
    """
    ids: list[int] = []
    answered: list[bool] = []
    for text, is_answer in chat.pieces(messages, where):
        tokens = encoder.plain(text, specials=True)
        ids += tokens
        answered += [is_answer] * len(tokens)
    own = np.array(ids[: encoder.length], dtype=np.int32)
    targets = np.full(len(own), NO_TARGET, dtype=np.int64)
    learned = np.array(answered[1 : len(own)], dtype=bool)
    targets[:-1][learned] = own[1:][learned]
    return own, targets
