"""Conversations inside of text: written as JSON or as Python shows it, or rendered by a chat template.

`conversation_in` takes such text apart, and leaves all other text as it is. What was rendered and cannot be taken apart is refused:
it would be rendered a second time. Marks that are plain words ("### Response:", "Human:") may be meant as text: `transcript_in` is
asked only where something else says that they are marks.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from assay.data.raw.cells import BadRow, turns_of
from assay.messages import CONTENT_FIELDS, ROLE_NAMES, Message, Messages, role_in

LARGEST_LITERAL = 1_000_000
"""Characters of Python text that are read at most."""


class _Template(NamedTuple):
    """How a family of chat templates marks a turn. turn: its head, with the role as a group. ends: what stands after turns.

    starts: what may stand before the first turn. first: the role of text before the first head, "" where there is none.
    """

    name: str
    turn: re.Pattern[str]
    ends: tuple[str, ...]
    starts: tuple[str, ...] = ()
    first: str = ""


_BEGIN = ("<|begin_of_text|>", "<|endoftext|>", "<bos>", "<s>", "<BOS_TOKEN>", "<｜begin▁of▁sentence｜>", "[gMASK]<sop>", "[gMASK]")
_ROLE = "(?P<role>[A-Za-z_]+)"
_TEMPLATES = (
    _Template("ChatML", re.compile(rf"<\|im_start\|>{_ROLE}(?:<\|im_sep\|>|\s*\n|$)"), ("<|im_end|>",)),
    _Template(
        "Llama 3", re.compile(rf"<\|start_header_id\|>{_ROLE}<\|end_header_id\|>"), ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")
    ),
    _Template("Llama 4", re.compile(rf"<\|header_start\|>{_ROLE}<\|header_end\|>"), ("<|eot|>", "<|eom|>", "<|end_of_text|>")),
    _Template("Gemma", re.compile(rf"<start_of_turn>{_ROLE}(?:\n|$)"), ("<end_of_turn>", "<eos>")),
    _Template(
        "Command R",
        re.compile(r"<\|START_OF_TURN_TOKEN\|><\|(?P<role>[A-Z]+)_TOKEN\|>"),
        ("<|END_OF_TURN_TOKEN|>", "<|END_RESPONSE|>"),
    ),
    _Template("DeepSeek", re.compile(r"<｜(?P<role>User|Assistant)｜>"), ("<｜end▁of▁sentence｜>",), first="system"),
    _Template(
        "Zephyr",
        re.compile(r"<\|(?P<role>system|user|assistant|model|observation)\|>"),
        ("</s>", "<|end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>"),
    ),
    _Template("OpenChat", re.compile(r"GPT4 (?:Correct )?(?P<role>User|Assistant):"), ("<|end_of_turn|>",)),
    _Template("SteerLM", re.compile(r"<extra_id_[01]>(?P<role>System|User|Assistant)(?:\n|$)"), (), first="user"),
)
_PLAIN_TEMPLATES = (
    _Template(
        "Alpaca", re.compile(r"(?:^|\n)\s*### ?(?P<role>Instruction|Response|Input|System|Question|Answer):", re.I), ("</s>",)
    ),
    _Template("Guanaco", re.compile(r"### ?(?P<role>Human|User|Assistant|System):", re.I), ("</s>", "###")),
    _Template("Vicuna", re.compile(r"(?:^|\s|</s>)(?P<role>USER|ASSISTANT):"), ("</s>",), first="system"),
    _Template("transcript", re.compile(r"(?:^|\n)[ \t]*(?P<role>Human|User|Assistant|AI):", re.I), ("</s>",)),
)
_ROLES = dict(ROLE_NAMES) | {"instruction": "user", "question": "user", "response": "assistant", "answer": "assistant"}
_ALPACA_PREAMBLE = re.compile(r"Below is an instruction that describes a task.{0,200}?appropriately completes the request\.", re.S)
_LLAMA_DATES = re.compile(r"\ACutting Knowledge Date:[^\n]*\nToday Date:[^\n]*\n*")
_SPECIAL = re.compile(
    r"<\|(?:im_start|im_end|start_header_id|end_header_id|eot_id|eom_id|header_start|eot|START_OF_TURN_TOKEN|END_OF_TURN_TOKEN|end_of_turn"
    r"|system|user|assistant|end|endoftext|begin_of_text|end_of_text|start|message|channel|return)\|>"
    r"|<(?:start|end)_of_turn>|<｜(?:User|Assistant|begin▁of▁sentence|end▁of▁sentence)｜>|<extra_id_[01]>(?:System|User|Assistant)\n"
)
_HARMONY = re.compile(r"<\|start\|>.*?<\|message\|>", re.S)
_ENDS = tuple(dict.fromkeys(end for template in _TEMPLATES for end in template.ends))
_END_TOKENS = tuple(dict.fromkeys(end for template in _TEMPLATES for end in template.ends))
_OPENED_THOUGHT = re.compile(r"<think>\s*(?:</think>\s*)?\Z")
_LITERAL = re.compile(r"""\A\s*(?:array\(\s*)?\[?\s*\{\s*(?:u?["'])(?P<name>\w+)["']\s*:""")


def conversation_in(text: str) -> str | Messages:
    """The turns of a conversation that the text holds; other text as it is, without a template's mark of its end.

    Raises BadRow for a conversation that was written or rendered, and cannot be taken apart.
    """
    if text.lstrip()[:6].startswith(("[", "{", "array(")) and (literal := _LITERAL.match(text)) is not None:
        written = _literal(text, literal["name"])
        return text if written is None else written
    return rendered_in(text)


def rendered_in(text: str) -> str | Messages:
    """The turns of a text that a chat template rendered; other text as it is, without a template's mark of its end.

    Raises BadRow for what cannot be taken apart.
    """
    if not ("<" in text or "[INST]" in text or "GPT4 " in text):  # most texts have no mark at all
        return text
    if (turns := _instructed(text)) is not None:
        return turns
    for template in _TEMPLATES:
        if template.turn.search(text):
            return _parted(text, template)
    return _without_end(text)


def parted_query(query: str, prompt: str) -> tuple[str | Messages, str]:
    """Prompt and answer of a trainer's text, in which the rendered prompt stands before the answer: (prompt, answer).

    The prompt is taken apart into its turns where its template is known, and is else one text. The answer is what follows, without
    a template's marks of its end; a thought that the template opens in the prompt is the answer's. Raises BadRow for a query that
    does not begin with its prompt: where the answer begins is not known then.
    """
    if not prompt.strip() or not query.startswith(prompt):
        what = "does not begin with its prompt" if prompt.strip() else "came without its prompt"
        raise BadRow(f"the query {what}, so that it is not known where the answer begins: was the prompt cut to fit?")
    opened = _OPENED_THOUGHT.search(prompt)
    end = len(prompt) if opened is None else opened.start()
    try:
        asked = rendered_in(prompt[:end])
    except BadRow:  # a template that is not known: as a text it says the same
        asked = prompt[:end]
    answer = query[end:]
    bare = _trimmed(answer, [mark for mark in _END_TOKENS if mark != "</s>" or "<s>" not in answer])
    return asked, answer if bare == answer.strip() else bare


def transcript_in(text: str) -> Messages | None:
    """The turns of a text with words as marks, which begins with a user's turn and has an assistant's; None for other text.

    The head of an answer to come is left out.
    """
    if not ("###" in text or "USER:" in text or text.lstrip()[:5].lower() in ("human", "user:")):
        return None
    return next((turns for template in _PLAIN_TEMPLATES if (turns := _parted_plain(text, template)) is not None), None)


def _literal(text: str, first_name: str) -> Messages | None:
    """The messages that JSON or Python text holds, None for text that holds something else."""
    found = parsed_text(text)
    if found is None:
        if first_name in ("role", "from") and re.search(r"""["'](?:content|value)["']""", text):
            raise BadRow("a conversation in a string that is neither JSON nor Python")
        return None
    entries = [found] if isinstance(found, Mapping) else found
    if not isinstance(entries, list) or not entries or not all(_is_turn(entry) for entry in entries):
        return None
    return turns_of(entries)


def parsed_text(text: str) -> Any:
    """What a JSON or Python text holds, None where it is neither. Python's is read as a literal, within bounds; it is never run."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if len(text) > LARGEST_LITERAL:
        return None
    bare = re.sub(r"\}\s*\n\s*\{", "}, {", text)  # numpy prints arrays of objects without commas
    bare = re.sub(r"\Aarray\((.*?)(?:,\s*dtype=object)?\)\Z", r"\1", bare.strip(), flags=re.S)
    try:
        return ast.literal_eval(bare)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None


def _is_turn(entry: Any) -> bool:
    has_content = isinstance(entry, Mapping) and any(name in entry for name in (*CONTENT_FIELDS, "tool_calls"))
    return has_content and role_in(entry) in _ROLES.values()


def _parted(text: str, template: _Template) -> Messages:
    """The turns of a text with a template's own marks."""
    before, *parts = template.turn.split(text)
    before = _without(before, _BEGIN).strip()
    if _SPECIAL.search(before) or (before and not template.first):
        raise BadRow(f"marks of a chat template ({template.name}) inside of the text")
    turns = [Message(template.first, before)] if before else []
    for role, content in zip(parts[::2], parts[1::2], strict=True):
        turns.append(Message(_role(role), _trimmed(content, template.ends)))
    return _checked(turns, template.name)


def _parted_plain(text: str, template: _Template) -> Messages | None:
    """The turns of a text whose marks are plain words: only where it begins as a user's turn and has an assistant's."""
    bare = _without(text, _BEGIN).strip()
    preamble = _ALPACA_PREAMBLE.match(bare)
    bare = bare[preamble.end() :].strip() if preamble else bare
    before, *parts = template.turn.split(bare)
    roles = [_ROLES.get(role.lower(), role.lower()) for role in parts[::2]]
    begins = [role for role in roles if role != "system"][:1] == ["user"]
    if not begins or "assistant" not in roles or (before.strip() and (not template.first or len(before) > 600)):
        return None
    turns = [Message(template.first, before.strip())] if before.strip() else []
    for role, content in zip(roles, parts[1::2], strict=True):
        text_of_turn = _trimmed(content, template.ends)
        if role == "input" and turns and turns[-1].role == "user":  # Alpaca's input belongs to the instruction before it
            turns[-1] = Message("user", f"{turns[-1].content}\n\n{text_of_turn}".strip())
        else:
            turns.append(Message(_role(role), text_of_turn))
    return _checked(turns, template.name)


def _instructed(text: str) -> Messages | None:
    """The turns of Llama 2's and Mistral's form: [INST] question [/INST] answer </s>, the system's text in the first question."""
    bare = _without(text, _BEGIN).strip()
    if not bare.startswith("[INST]"):
        return None
    turns: list[Message] = []
    for part in bare.split("[INST]")[1:]:
        question, mark, answer = part.partition("[/INST]")
        if not mark:
            raise BadRow("marks of a chat template (Llama 2) that cannot be taken apart")
        if (system := re.match(r"\s*<<SYS>>(.*?)<</SYS>>", question, re.S)) is not None:
            turns.append(Message("system", system[1].strip()))
            question = question[system.end() :]
        turns += [Message("user", question.strip()), Message("assistant", _trimmed(answer, ("</s>", "<s>")))]
    return _checked(turns, "Llama 2")


def _checked(turns: Sequence[Message], name: str) -> Messages:
    """The turns without those that say nothing: a template's date, an empty system turn, the head of an answer to come."""
    kept = [turn._replace(content=_LLAMA_DATES.sub("", turn.content)) if turn.role == "system" else turn for turn in turns]
    kept = [turn for turn in kept if turn.role != "system" or turn.content]
    if kept and kept[-1] == Message("assistant", ""):
        kept = kept[:-1]
    if not kept or any(_SPECIAL.search(turn.content) for turn in kept):
        raise BadRow(f"marks of a chat template ({name}) that cannot be taken apart")
    return tuple(kept)


def _role(name: str) -> str:
    role = _ROLES.get(name.strip().lower())
    if role is None:
        raise BadRow(f"unknown role {name[:20]!r}")
    return role


def _trimmed(content: str, ends: Sequence[str]) -> str:
    """A turn's text without the marks after it."""
    content = content.strip()
    while (end := next((end for end in (*ends, "<|endoftext|>") if content.endswith(end)), None)) is not None:
        content = content.removesuffix(end).strip()
    return content


def _without(text: str, starts: Sequence[str]) -> str:
    text = text.lstrip()
    while (start := next((start for start in starts if text.startswith(start)), None)) is not None:
        text = text.removeprefix(start).lstrip()
    return text


def _without_end(text: str) -> str:
    """Plain text without a template's mark at its end. Raises BadRow for such marks elsewhere."""
    bare = _trimmed(text, [end for end in _ENDS if end != "</s>" or "<s>" not in text])  # the pair of them is HTML
    if _SPECIAL.search(bare) or _HARMONY.search(bare):
        raise BadRow("marks of a chat template inside of the text")
    return text if bare == text.strip() else bare
