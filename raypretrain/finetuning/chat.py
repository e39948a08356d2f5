"""Conversations as the text that a model reads: the tokenizer's chat template, or a plain one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raypretrain.errors import InputError
from raypretrain.finetuning.messages import Message

if TYPE_CHECKING:
    from raypretrain.finetuning.encode import Encoder

PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "### Answer:\n{{ message['content'] }}{{ eos_token }}\n"
    "{% elif message['role'] == 'system' %}{{ message['content'] }}\n\n"
    "{% else %}### Question:\n{{ message['content'] }}\n"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Answer:\n{% endif %}"
)
"""For a base model without a template: it needs no token that the model has not learned."""


@dataclass(frozen=True)
class Chat:
    """A chat template with the names of the special tokens that it may use.

    Args:
        source: the template, in Jinja, as ``transformers`` keeps it with a tokenizer.
    """

    source: str
    bos: str
    eos: str

    @classmethod
    def of(cls, encoder: Encoder) -> Chat:
        """The tokenizer's own, or the plain one."""
        source = encoder.settings.get("chat_template")
        names = {key: _name(encoder.settings.get(f"{key}_token")) for key in ("bos", "eos")}
        return cls(source if isinstance(source, str) else PLAIN_TEMPLATE, names["bos"], names["eos"])

    def render(self, messages: Sequence[Message], ask: bool) -> str:
        """The text of a conversation.

        Args:
            ask: it ends with what comes before an answer.
        """
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        template = environment.from_string(self.source)
        return template.render(
            messages=list(messages), add_generation_prompt=ask, bos_token=self.bos, eos_token=self.eos
        )

    def pieces(self, messages: Sequence[Message], where: str) -> Iterator[tuple[str, bool]]:
        """The text in pieces, each with whether it is an answer.

        Raises:
            InputError: the template renders a question otherwise when its answer follows.
        """
        done = ""
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            asked, answered = (
                self._rendered(messages[:i], True, where),
                self._rendered(messages[: i + 1], False, where),
            )
            if not (asked.startswith(done) and answered.startswith(asked)):
                raise InputError(
                    "the tokenizer's chat template renders a question otherwise when its answer follows",
                    where=where,
                    fix="take the chat_template out of the base model's tokenizer_config.json",
                )
            yield asked[len(done) :], False
            yield answered[len(asked) :], True
            done = answered

    def _rendered(self, messages: Sequence[Message], ask: bool, where: str) -> str:
        from jinja2 import TemplateError

        try:
            return self.render(messages, ask)
        except TemplateError as error:
            raise InputError(f"the tokenizer's chat template refuses it ({error})", where=where) from None


def _name(token: Any) -> str:
    return str(token["content"]) if isinstance(token, dict) else str(token or "")


def _refuse(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)
