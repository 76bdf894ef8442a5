"""What conversations are made of: messages, calls of functions in them, descriptions of the functions; and the ground truth.

Each `as_...` reads the forms that data sets and APIs have. Numpy and torch are not needed here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

ROLES = ("system", "user", "assistant", "tool")
REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
"""Names that a message's reasoning has in data sets and APIs, the first that is there counts, as in transformers."""

ROLE_NAMES: Mapping[str, str] = {
    **{role: role for role in ROLES},
    **dict.fromkeys(("developer",), "system"),
    **dict.fromkeys(("human", "prompter", "instructor"), "user"),
    **dict.fromkeys(("gpt", "model", "chatgpt", "chatbot", "ai", "function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("function", "observation", "function_response", "tool_response", "tool_result", "ipython"), "tool"),
}
"""What roles are called in data sets, in small letters -> what they are here."""

ROLE_FIELDS = ("role", "from", "speaker", "author", "sender")
CONTENT_FIELDS = ("content", "value", "text", "message", "utterance")
_CALL_ROLES = ("function_call", "tool_call")  # roles of turns whose text is the call
_MEDIA = ("image", "audio", "video", "file", "document")
_TEXT_PARTS = ("text", "input_text", "output_text")
_UNREADABLE = "tool calls or reasoning cannot be read"
_SPACED = re.compile(r"\S\s+\S")


class MessageError(ValueError):
    """An entry that is no message. reason: the short form that rows are counted under."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


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
    """One message: a mapping as in OpenAI's API, ShareGPT (from, value) and chat templates, or the fields of `Message` in order.

    Roles are read by all their names (`ROLE_NAMES`), parts of text are joined. Reasoning is read from reasoning_content, thinking
    or reasoning, or from parts. `content` may be missing beside tool calls and reasoning.
    Raises MessageError, a ValueError, for an unknown role, a content that is no text (images and audio by name), and extras of
    another kind.
    """
    if isinstance(entry, Message) and entry[2:] == _NO_EXTRAS and entry.role in ROLES and isinstance(entry.content, str):
        return entry  # most of them, and often
    if isinstance(entry, Mapping) and len(entry) == 2 and entry.get("role") in ROLES and isinstance(entry.get("content"), str):
        return Message(entry["role"], entry["content"])
    fields: list[Any] = list(_fields_of(entry) if isinstance(entry, Mapping) else entry)
    role, content, calls, call_id, name, reasoning = fields + [None] * (len(Message._fields) - len(fields))
    if role not in ROLES:
        raise MessageError(f"unknown message role {role!r}: use one of {', '.join(ROLES)}", f"unknown role {str(role)[:20]!r}")
    if content is None and (calls or reasoning):
        content = ""
    if not isinstance(content, str):
        kind = type(content).__name__
        short = "empty" if content is None else "not text"
        raise MessageError(f"message content is {kind}, not text: give text, or a list of parts of text", short)
    if not all(text is None or isinstance(text, str) for text in (call_id, name, reasoning)):
        said = f"tool_call_id {call_id!r:.40}, name {name!r:.40} and reasoning {reasoning!r:.40} of a message must be text"
        raise MessageError(said, _UNREADABLE)
    return Message(role, content, _as_calls(calls), call_id or "", name or "", reasoning or "")


def role_in(entry: Any) -> str | None:
    """The role that a mapping names, as it is called here; None for what names none."""
    return _role_of(entry) if isinstance(entry, Mapping) else None


def _role_of(entry: Mapping[str, Any]) -> Any:
    name = next((entry[field] for field in ROLE_FIELDS if entry.get(field) is not None), None)
    if isinstance(name, Mapping):  # {"author": {"role": "user"}}
        name = name.get("role")
    return ROLE_NAMES.get(name.strip().lower(), name) if isinstance(name, str) else name


def _fields_of(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """The fields of `Message` in a mapping. Raises MessageError for images and the like, and for text under an unknown name."""
    role = _role_of(entry)
    content = next((entry[field] for field in CONTENT_FIELDS if entry.get(field) is not None), None)
    calls, name, call_id = entry.get("tool_calls"), entry.get("name"), entry.get("tool_call_id")
    reasoning = next((entry[field] for field in REASONING_FIELDS if entry.get(field)), None)
    _refuse_unknown(entry)
    if not calls and entry.get("function_call"):
        calls = [entry["function_call"]]
    named_role = next((entry[field] for field in ROLE_FIELDS if entry.get(field) is not None), None)
    if named_role in _CALL_ROLES and isinstance(content, str | Mapping):
        calls, content = _calls_in(content), ""
    if isinstance(content, Mapping):
        content = content["parts"] if isinstance(content.get("parts"), list) else [content]
    if isinstance(content, list):
        read = _joined_parts(content)
        content, reasoning, calls = read.text, reasoning or read.reasoning, calls or read.calls
        if read.answers:
            role, call_id = "tool", call_id or read.answers
    if content is None and isinstance(entry.get("refusal"), str):
        content = entry["refusal"]
    return role, content, calls, call_id, name, reasoning


_KNOWN_FIELDS = {
    *ROLE_FIELDS, *CONTENT_FIELDS, *REASONING_FIELDS, "tool_calls", "tool_call_id", "name", "function_call", "refusal", "parts",
    "id", "model", "timestamp", "created", "date", "language", "user-agent", "title", "annotations",
}  # fmt: skip


def _refuse_unknown(entry: Mapping[str, Any]) -> None:
    for field, value in entry.items():
        if field in _KNOWN_FIELDS or not value:
            continue
        if (kind := media_kind(field)) is not None:
            raise MessageError(f"a message has {field}, and only text is read: leave such rows out", f"{kind} in a message")
        if isinstance(value, str) and _SPACED.search(value):
            said = f"a message has the unknown field {field!r} with text {value[:40]!r}: rename it, or take it out"
            raise MessageError(said, f"unknown field {field[:20]!r} of a message")


def media_kind(name: str) -> str | None:
    """What a field or a part of that name holds beside text: "image", "audio", "video" ..., None for others."""
    words = name.lower().replace("-", "_").split("_")
    return next((kind for kind in _MEDIA for word in words if word in (kind, f"{kind}s", f"{kind}url")), None)


class _Parts(NamedTuple):
    """What a list of content parts holds. answers: the id of the call whose result it is."""

    text: str
    reasoning: str
    calls: list[Any]
    answers: str


def _joined_parts(parts: Sequence[Any]) -> _Parts:
    """Parts of a message as one text: a line break goes between parts that would run into each other."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Any] = []
    answers = ""
    for part in parts:
        part = {"text": part} if isinstance(part, str) else part
        if not isinstance(part, Mapping):
            raise MessageError(f"a content part is {type(part).__name__}, not text", "not text")
        given = {name: value for name, value in part.items() if value is not None}
        kind = str(given.get("type", "text"))
        if (media := media_kind(kind) or next(filter(None, map(media_kind, given)), None)) is not None:
            raise MessageError(f"a message has {media}, and only text is read: leave such rows out", f"{media} in a message")
        match kind:
            case "thinking" | "reasoning":
                thoughts.append(_part_text(given, ("thinking", "reasoning", "text", "content")))
            case "tool_use" | "tool_call":
                calls.append(
                    {"id": given.get("id"), "name": given.get("name"), "arguments": given.get("input", given.get("arguments"))}
                )
            case "tool_result":
                result = given.get("content", "")
                texts.append(result if isinstance(result, str) else _joined_parts(result).text)
                answers = str(given.get("tool_use_id", ""))
            case "refusal":
                texts.append(_part_text(given, ("refusal", "text")))
            case _ if kind in _TEXT_PARTS:
                texts.append(_part_text(given, ("text", "content", "value")))
            case _:
                raise MessageError(f"unknown content part {kind!r}: only text is read", f"unknown content part {kind[:20]!r}")
    return _Parts(_run_together(texts), _run_together(thoughts), calls, answers)


def _part_text(part: Mapping[str, Any], names: Sequence[str]) -> str:
    text = next((part[name] for name in names if name in part), None)
    if isinstance(text, Mapping):  # {"text": {"value": "..."}}
        text = text.get("value")
    if not isinstance(text, str):
        raise MessageError(f"message content is a list, not text: its part {str(part)[:60]!r} has none", "not text")
    return text


def _run_together(texts: Sequence[str]) -> str:
    joined = ""
    for text in texts:
        needs_break = joined and text and not joined[-1].isspace() and not text[0].isspace()
        joined += ("\n" if needs_break else "") + text
    return joined


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


def _calls_in(content: str | Mapping[str, Any]) -> list[Any]:
    """The calls that a turn of the role function_call is: JSON text of one or of several, or one as a mapping."""
    try:
        found = json.loads(content) if isinstance(content, str) else content
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict | list):
        raise MessageError(f"a call is {str(content)[:60]!r}: give JSON text with name and arguments", _UNREADABLE)
    return found if isinstance(found, list) else [found]


def _as_calls(calls: Any) -> tuple[ToolCall, ...]:
    """Calls as a list, or as JSON text of one. Raises MessageError."""
    try:
        found = json.loads(calls or "[]") if isinstance(calls, str) else calls
        return tuple(_as_call(call) for call in found or ())
    except MessageError:
        raise
    except (ValueError, TypeError, RecursionError):
        raise MessageError(f"tool calls {str(calls)[:80]!r} are no list of calls with a name each", _UNREADABLE) from None


def _as_call(call: Any) -> ToolCall:
    """A call as in OpenAI's API, {"id", "type", "function": {"name", "arguments"}}, without the wrapping, or a `ToolCall`."""
    if isinstance(call, Mapping):
        function = call.get("function") or call
        call = (function.get("name"), function.get("arguments"), call.get("id"))
    name, arguments, id = call
    if isinstance(arguments, str):
        arguments = _mapping_in(arguments) or arguments
    if not (isinstance(name, str) and name and isinstance(arguments, str | Mapping | None) and isinstance(id, str | None)):
        said = f"a tool call is {str(call)[:80]!r}: give a name, arguments as a mapping or JSON text, and perhaps an id"
        raise MessageError(said, _UNREADABLE)
    return ToolCall(name, arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False), id or "")


def _mapping_in(text: str) -> dict[str, Any] | None:
    """The mapping that a JSON text holds, None for other text."""
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
