"""Conversations: rows of instruction tuning and of preferences as lists of messages, checked."""

from __future__ import annotations

from collections.abc import Sequence

from raypretrain.errors import InputError

Message = dict[str, str]
"""``role`` (system, user or assistant) and ``content``."""

_ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
_ASKED = ("prompt", "instruction")
_ANSWERED = ("response", "output", "completion")


def as_messages(row: dict[str, object], where: str) -> list[Message]:
    """The conversation of a row: an optional system message, then user and assistant in turns, the assistant last.

    A row has ``messages`` (``role`` and ``content``), or ``conversations`` (``from`` and ``value``, as ShareGPT has
    them: ``human`` and ``gpt``), or ``prompt`` or ``instruction`` (with an ``input`` below it, and a ``system`` message
    before it, if there are any) and ``response``, ``output`` or ``completion``.

    Raises:
        InputError: it has none of them, or they are no such conversation.
    """
    given = _first(row, ("messages", "conversations"))
    if given is not None:
        return _checked(_messages(given, "assistant", where), where)
    asked, answered = _first(row, _ASKED), _first(row, _ANSWERED)
    if asked is None or answered is None:
        raise InputError(
            f"holds no conversation, only the columns {', '.join(f'{key!r}' for key in row) or 'none'}",
            where=where,
            fix="give messages, conversations, or prompt and response",
        )
    more = row.get("input")
    if isinstance(asked, str) and isinstance(more, str) and more.strip():
        asked = f"{asked}\n\n{more}"
    system = row.get("system")
    before = [{"role": "system", "content": system}] if isinstance(system, str) and system.strip() else []
    made = [*before, *_messages(asked, "user", where), *_messages(answered, "assistant", where)]
    return _checked(made, where)


def as_preference(row: dict[str, object], where: str) -> dict[str, list[Message]]:
    """The ``prompt`` of a row, and its ``chosen`` and ``rejected`` answers, each as messages.

    The prompt is in ``prompt`` or ``messages``, or what ``chosen`` and ``rejected`` begin with alike; each of the three
    is a text or a list of messages, and an answer may begin with the prompt.

    Raises:
        InputError: one of them is not there, the two answers are the same, or an answer does not make a
            conversation of the prompt.
    """
    chosen, rejected = (_answer(row, key, where) for key in ("chosen", "rejected"))
    given = _first(row, ("prompt", "messages"))
    if given is not None:
        prompt = _messages(given, "user", where)
    else:
        same = [one == other for one, other in zip(chosen, rejected, strict=False)]
        prompt = chosen[: same.index(False) if False in same else len(same)]
    if not prompt:
        raise InputError("there is no prompt", where=where, fix="give the column prompt")
    answers = []
    for key, answer in (("chosen", chosen), ("rejected", rejected)):
        answer = answer[len(prompt) :] if answer[: len(prompt)] == prompt else answer
        if not answer:
            raise InputError(f"'{key}' holds no answer to the prompt", where=where)
        _checked(prompt + answer, where, key)
        answers.append(answer)
    if answers[0] == answers[1]:
        raise InputError("'chosen' and 'rejected' are the same", where=where)
    return {"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}


def _answer(row: dict[str, object], key: str, where: str) -> list[Message]:
    value = row.get(key)
    if value is None:
        there = ", ".join(f"'{name}'" for name in row) or "none"
        raise InputError(f"there is no column '{key}', there are: {there}", where=where)
    return _messages(value, "assistant", where)


def _first(row: dict[str, object], keys: Sequence[str]) -> object:
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _messages(value: object, role: str, where: str) -> list[Message]:
    """A text, which is a message of ``role``, or a list of messages; roles by the names that are ours."""
    if isinstance(value, str):
        value = [{"role": role, "content": value}]
    if not isinstance(value, list) or not value:
        raise InputError(f"{value!r:.60} is neither a text nor a list of messages", where=where)
    found = []
    for number, message in enumerate(value, start=1):
        if not isinstance(message, dict):
            raise InputError(f"message {number} is no object with a role and a content", where=where)
        said, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
        if not isinstance(said, str) or said not in _ROLES:
            raise InputError(
                f"message {number} has the role {said!r}", where=where, fix=f"known: {', '.join(_ROLES)}"
            )
        if not isinstance(content, str) or not content.strip():
            raise InputError(f"message {number} ({said}) has no text", where=where)
        found.append({"role": _ROLES[said], "content": content})
    return found


def _checked(messages: list[Message], where: str, key: str | None = None) -> list[Message]:
    begin = 1 if messages[0]["role"] == "system" else 0
    behind = f" (of prompt and '{key}')" if key else ""
    for number, message in enumerate(messages[begin:]):
        wanted = "assistant" if number % 2 else "user"
        if message["role"] != wanted:
            what = f"message {begin + number + 1}{behind} is of '{message['role']}', not of '{wanted}'"
            raise InputError(what, where=where, fix="user and assistant speak in turns")
    if messages[-1]["role"] != "assistant":
        raise InputError(f"the last message{behind} is not the assistant's", where=where)
    return messages
