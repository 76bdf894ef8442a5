"""What conversations are made of: messages, calls of functions in them, descriptions of the functions; and the ground truth.

Each `as_...` reads the forms that data sets and APIs have. Numpy and torch are not needed here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

ROLES = ("system", "user", "assistant", "tool")
REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
"""Names that a message's reasoning has in data sets and APIs, the first that is there counts, as in transformers."""


class ToolCall(NamedTuple):
    """A function call in an assistant's message. arguments: JSON text of a mapping; other text stays as the model wrote it.

    Text and not a mapping, since a `Message` is hashed: prompts are grouped by their messages.
    """

    name: str
    arguments: str = "{}"
    id: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The call in the form of chat templates, which read the arguments as a mapping."""
        arguments = _mapping_in(self.arguments)
        function = {"name": self.name, "arguments": self.arguments if arguments is None else arguments}
        return {**({"id": self.id} if self.id else {}), "type": "function", "function": function}


class Message(NamedTuple):
    """One turn of a conversation.

    tool_calls: the calls that an assistant makes. tool_call_id, name: of a tool's message, the call it answers and the function.
    reasoning: what an assistant thought before its answer. All four are empty in most messages.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    reasoning: str = ""

    def __repr__(self) -> str:
        """Without the fields that are empty."""
        shown = {"role": self.role, "content": self.content, **{name: value for name, value in self._asdict().items() if value}}
        return f"Message({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @property
    def extras(self) -> dict[str, Any]:
        """What the message has beside role and content, in the form of chat templates; empty for most messages."""
        if self[2:] == _NO_EXTRAS:
            return {}
        calls = [call.as_dict() for call in self.tool_calls]
        named = {"reasoning_content": self.reasoning, "tool_calls": calls, "tool_call_id": self.tool_call_id, "name": self.name}
        return {name: value for name, value in named.items() if value}

    @property
    def is_blank(self) -> bool:
        """Whether the message says nothing: no text, no tool call, no reasoning."""
        return not (self.content.strip() or self.tool_calls or self.reasoning)

    def as_dict(self) -> dict[str, Any]:
        """The message in the form of chat templates and of OpenAI's API; what it does not have is left out."""
        return {"role": self.role, "content": self.content, **self.extras}

    def as_answer(self) -> str | dict[str, Any]:
        """The text, or the whole message where it has more: how an answer is written in files and requests."""
        return self.as_dict() if self.extras else self.content

    def hashed(self) -> list[Any]:
        """What digests are made of: role and content, and the extras where there are any."""
        extras = self.extras
        return [self.role, self.content, extras] if extras else [self.role, self.content]


Messages: TypeAlias = tuple[Message, ...]
_NO_EXTRAS = Message("", "")[2:]


def as_messages(prompt: str | Iterable[Message | Mapping[str, Any] | Sequence[Any]]) -> Messages:
    """A prompt in any of its usual forms as a tuple of `Message`: a string is one user turn.

    Raises ValueError for an entry without a text `content` or with an unknown `role`; see `as_message`.
    """
    return (Message("user", prompt),) if isinstance(prompt, str) else tuple(as_message(entry) for entry in prompt)


def as_message(entry: Message | Mapping[str, Any] | Sequence[Any]) -> Message:
    """One message: a mapping as in OpenAI's API and in chat templates, or the fields of `Message` in order.

    Reasoning is read from reasoning_content, thinking or reasoning. `content` may be missing beside tool calls and reasoning.
    Raises ValueError for an unknown role, a content that is no text, and extras of another kind.
    """
    if isinstance(entry, Message) and entry[2:] == _NO_EXTRAS and entry.role in ROLES and isinstance(entry.content, str):
        return entry  # most of them, and often
    if isinstance(entry, Mapping):
        reasoning = next((entry[name] for name in REASONING_FIELDS if entry.get(name)), None)
        entry = (*(entry.get(name) for name in ("role", "content", "tool_calls", "tool_call_id", "name")), reasoning)
    fields: list[Any] = list(entry)
    role, content, calls, call_id, name, reasoning = fields + [None] * (len(Message._fields) - len(fields))
    if role not in ROLES:
        raise ValueError(f"unknown message role {role!r}: use one of {', '.join(ROLES)}")
    if content is None and (calls or reasoning):
        content = ""
    if not isinstance(content, str):
        raise ValueError(f"message content is {type(content).__name__}, not text: join content parts into one string")
    if not all(text is None or isinstance(text, str) for text in (call_id, name, reasoning)):
        raise ValueError(
            f"tool_call_id {call_id!r:.40}, name {name!r:.40} and reasoning {reasoning!r:.40} of a message must be text"
        )
    return Message(role, content, tuple(_as_call(call) for call in calls or ()), call_id or "", name or "", reasoning or "")


def as_tools(tools: Any) -> tuple[Mapping[str, Any], ...]:
    """Descriptions of functions (JSON schema, as chat templates take them): mappings, JSON texts of them, or JSON text of all.

    Raises ValueError for what is not a list of mappings with a name each.
    """
    try:
        found = json.loads(tools or "[]") if isinstance(tools, str) else tools or ()
        read = tuple(json.loads(tool) if isinstance(tool, str) else tool for tool in found)
        if all(isinstance(tool.get("function", tool)["name"], str) for tool in read):
            return read
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise ValueError(f"tools {str(tools)[:80]!r} are no list of function descriptions: give mappings with a name each")


def as_ground_truth(value: Any) -> Mapping[str, Any] | None:
    """What is known to be right, as a mapping: a mapping as it is, JSON text of one read, anything else under "answer".

    None and empty text are none.
    """
    if value is None or (isinstance(value, str) and not value):
        return None
    mapping = _mapping_in(value) if isinstance(value, str) else value
    return mapping if isinstance(mapping, Mapping) else {"answer": value}


def answer_message(text: str, message: Message | None) -> Message | None:
    """The message of an answer whose text this is now, None where it has no more than the text."""
    if message is None or not (message := as_message(message)).extras:
        return None
    if message.role != "assistant":
        raise ValueError(f"the message of an answer is of the role {message.role!r}: it must be the assistant's")
    return message._replace(content=text)


def prompt_key(prompt: Messages) -> str:
    """Content hash of a prompt's text (sha256, 32 hex digits), surrounding white space apart."""
    return digest([(turn.role, turn.content.strip()) for turn in prompt])


def size_of(message: Message) -> int:
    """Characters of a message, its extras included."""
    extras = message.extras
    return len(message.content) + (len(json.dumps(extras)) if extras else 0)


def digest(content: object, *, sort_keys: bool = False) -> str:
    """Hash of what JSON can hold (sha256, 32 hex digits)."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _as_call(call: Any) -> ToolCall:
    """A call as in OpenAI's API, {"id", "type", "function": {"name", "arguments"}}, without the wrapping, or a `ToolCall`."""
    if isinstance(call, Mapping):
        function = call.get("function") or call
        call = (function.get("name"), function.get("arguments"), call.get("id"))
    name, arguments, id = call
    if isinstance(arguments, str):
        arguments = _mapping_in(arguments) or arguments
    if not (isinstance(name, str) and name and isinstance(arguments, str | Mapping | None) and isinstance(id, str | None)):
        raise ValueError(f"a tool call is {str(call)[:80]!r}: give a name, arguments as a mapping or JSON text, and perhaps an id")
    return ToolCall(name, arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False), id or "")


def _mapping_in(text: str) -> dict[str, Any] | None:
    """The mapping that a JSON text holds, None for other text."""
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
