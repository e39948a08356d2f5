"""Conversations and preferences in the forms in which they are published."""

from __future__ import annotations

from typing import Any

import pytest

from raypretrain.errors import InputError
from raypretrain.finetuning.messages import as_messages, as_preference


def _said(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"messages": _said("q", "a", "q2", "a2")}, _said("q", "a", "q2", "a2")),
        ({"messages": _said("q", "a", system="s"), "prompt": "ignored"}, _said("q", "a", system="s")),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            _said("q", "a"),
        ),
        ({"prompt": "q", "response": "a"}, _said("q", "a")),
        ({"instruction": "q", "input": "", "output": "a"}, _said("q", "a")),
        ({"instruction": "q", "input": "x", "output": "a", "messages": None}, _said("q\n\nx", "a")),
        ({"system": "s", "prompt": "q", "completion": "a"}, _said("q", "a", system="s")),
        ({"prompt": _said("q", "a", "q2"), "completion": _said("", "a2")[1:]}, _said("q", "a", "q2", "a2")),
    ],
)
def test_every_form_of_a_conversation_gives_messages(row, messages):
    assert as_messages(row, "f:1") == messages


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x"}, "holds no conversation, only the columns 'text'; give messages"),
        ({"messages": []}, "[] is neither a text nor a list of messages"),
        ({"messages": _said("q")}, "the last message is not the assistant's"),
        ({"messages": _said("q", "a", "q2")}, "the last message is not the assistant's"),
        ({"messages": _said("", "a")}, "message 1 (user) has no text"),
        ({"messages": _said("q", "a")[1:]}, "message 1 is of 'assistant', not of 'user'"),
        ({"messages": _said("q", "a", system="s")[::2]}, "message 2 is of 'assistant', not of 'user'"),
        ({"messages": [*_said("q"), *_said("q", "a")]}, "message 2 is of 'user', not of 'assistant'"),
        ({"messages": [*_said("q", "a"), *_said(system="s")]}, "message 3 is of 'system', not of 'user'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "message 1 has the role 'tool'; known: system"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "message 1 has the role ['user']"),
        ({"messages": ["q", "a"]}, "message 1 is no object with a role and a content"),
        ({"messages": [{"role": "user", "content": None}]}, "message 1 (user) has no text"),
        ({"messages": _said(system="s")}, "the last message is not the assistant's"),
        ({"prompt": "q", "response": 3}, "3 is neither a text nor a list of messages"),
        ({"prompt": "q"}, "holds no conversation, only the columns 'prompt'"),
    ],
)
def test_what_is_no_conversation_is_said_in_one_line_with_its_place(row, message):
    with pytest.raises(InputError) as caught:
        as_messages(row, "f.jsonl:7")
    assert str(caught.value).startswith(f"f.jsonl:7: {message}")


ANSWERED = {"prompt": _said("q"), "chosen": _said("", "a")[1:], "rejected": _said("", "b")[1:]}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        ANSWERED,
        {"messages": _said("q"), "chosen": "a", "rejected": "b"},
        {"chosen": _said("q", "a"), "rejected": _said("q", "b")},
        {"prompt": "q", "chosen": _said("q", "a"), "rejected": _said("q", "b")},
    ],
)
def test_every_form_of_a_preference_gives_a_prompt_and_two_answers(row):
    assert as_preference(row, "f:1") == ANSWERED


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": None}, "there is no column 'chosen', there are: 'prompt', 'chosen', 'rejected'"),
        ({"rejected": "a"}, "'chosen' and 'rejected' are the same"),
        ({"rejected": " "}, "message 1 (assistant) has no text"),
        ({"prompt": None}, "there is no prompt; give the column prompt"),
        ({"chosen": _said("x", "a")}, "message 2 (of prompt and 'chosen') is of 'user', not of 'assistant'"),
        ({"chosen": _said("q")}, "'chosen' holds no answer to the prompt"),
        ({"prompt": _said("q", "a")}, "message 3 (of prompt and 'chosen') is of 'assistant', not of 'user'"),
    ],
)
def test_what_is_no_preference_is_said_in_one_line_with_its_place(change: dict[str, Any], message):
    with pytest.raises(InputError) as caught:
        as_preference({"prompt": "q", "chosen": "a", "rejected": "b"} | change, "f:3")
    assert str(caught.value).startswith(f"f:3: {message}")
