"""Cut a text into steps by a rule that has a name; the pieces join to the text exactly. And turns with tool calls as such a text.

    split_steps("3 * 4 = 12.\\n2 + 12 = 14.\\nSo 14.", "lines")    # ("3 * 4 = 12.\\n", "2 + 12 = 14.\\n", "So 14.")

lines         a line is a step
blank-lines   blank lines part steps
numbered      a step begins at a line "Step 1:"; what stands before the first is part of it
sentences     a sentence is a step, and a line ends one
tool-calls    a step ends behind the calls of a turn (`trajectory_steps`)

No cut is made inside of ``` fences, $$ ... $$ and \\[ ... \\] (a fence that is never closed runs to the end); for `tool-calls`,
whose arguments may hold anything, a call alone is looked for. White space between two steps belongs to the first of them, and no
step is blank.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal, get_args

from assay.messages import Message, Messages, ToolCall
from assay.records import Completion

StepRule = Literal["lines", "blank-lines", "numbered", "sentences", "tool-calls"]
STEP_RULES: tuple[StepRule, ...] = get_args(StepRule)
"""The names of the rules, as files and command lines have them."""

NO_TEXT = "there is no text that could be cut into steps"

_OPENS = re.compile(r"`{3,}|\$\$|(?<!\\)\\\[")
_CLOSES = {"$": re.compile(r"\$\$"), "\\": re.compile(r"(?<!\\)\\\]")}
_LINE = re.compile(r"\n")
_BLANK_LINE = re.compile(r"\n(?:[ \t\r]*\n)+")
_NUMBERED = re.compile(r"^[ \t#>*_-]*step[ \t]+\d+[ \t]*[*_]*[ \t]*[:.)]", re.MULTILINE | re.IGNORECASE)
_SENTENCE = re.compile(r"\n|[.!?]+[\"'”’)\]*_]*\s+(?=\S)|[。！？]+[”’）」』]*")
_NO_END = re.compile(  # what a full stop behind it does not end
    r"(?:\b(?:e\.g|i\.e|cf|vs|etc|approx|resp|Mr|Mrs|Ms|Dr|Prof|St|Fig|Eq|Sec|No)|(?:^|\s)[A-Z]|(?:^|\n)[\s*_#-]*(?:[Ss]tep\s+)?\d+)\Z"
)
_LAST_CALL = re.compile(r"</tool_call>(?!\s*<tool_call>)\s*")


def split_steps(text: str, rule: StepRule) -> tuple[str, ...]:
    """The steps of a text, at least one; joined they are the text. Raises ValueError for a blank text and for an unknown rule."""
    if rule not in _CUTS:
        raise ValueError(f"{rule!r} is no rule for steps: use one of {', '.join(STEP_RULES)}")
    if not text.strip():
        raise ValueError(NO_TEXT)
    whole = [] if rule == "tool-calls" else _kept_whole(text)
    begins = [begin for begin, _ in whole]
    cuts = [cut for cut in _CUTS[rule](text) if 0 < cut < len(text) and not _is_inside(cut, whole, begins)]
    edges = [0, *sorted(set(cuts)), len(text)]
    return _without_blanks([text[begin:end] for begin, end in pairwise(edges)])


def with_steps(completion: Completion, rule: StepRule) -> Completion:
    """The completion with its response cut into steps; one that has steps already stays as it is. Raises ValueError as
    `split_steps`, and for a completion without a response."""
    if completion.steps is not None:
        return completion
    return replace(completion, steps=split_steps(completion.answer.content, rule))


def _kept_whole(text: str) -> list[tuple[int, int]]:
    """(begin, end) of the code and the mathematics in a text, in order. What opens and does not close is text, but for a fence."""
    spans: list[tuple[int, int]] = []
    unclosed: set[str] = set()  # kinds that do not close behind here: looked for once
    at = 0
    while opening := _OPENS.search(text, at):
        kind, at = opening[0][0], opening.end()
        if kind == "`":
            close = text.find(opening[0], at)
            end = len(text) if close < 0 else close + len(opening[0])
            while text.startswith("`", end):
                end += 1
        elif kind in unclosed or (closing := _CLOSES[kind].search(text, at)) is None:
            unclosed.add(kind)
            continue
        else:
            end = closing.end()
        spans.append((opening.start(), end))
        at = end
    return spans


def _is_inside(cut: int, whole: Sequence[tuple[int, int]], begins: Sequence[int]) -> bool:
    """Whether a cut would part one of the spans that are kept whole."""
    i = bisect_right(begins, cut) - 1
    return i >= 0 and whole[i][0] < cut < whole[i][1]


def _without_blanks(pieces: Iterable[str]) -> tuple[str, ...]:
    """Blank pieces become the end of the piece before them, blank ones at the beginning that of the first step."""
    steps: list[str] = []
    for piece in pieces:
        if steps and (not piece.strip() or not steps[-1].strip()):
            steps[-1] += piece
        else:
            steps.append(piece)
    return tuple(steps)


def _ends(pattern: re.Pattern[str]) -> Callable[[str], Iterable[int]]:
    return lambda text: (found.end() for found in pattern.finditer(text))


def _numbered(text: str) -> list[int]:
    return [found.start() for found in _NUMBERED.finditer(text)][1:]


def _sentences(text: str) -> Iterable[int]:
    for found in _SENTENCE.finditer(text):
        stops = found[0].strip()
        is_stop = stops.startswith(".") and not stops.startswith("..")
        if is_stop and (text[found.end()].islower() or _NO_END.search(text, max(0, found.start() - 24), found.start())):
            continue
        yield found.end()


_CUTS: dict[str, Callable[[str], Iterable[int]]] = {
    "lines": _ends(_LINE),
    "blank-lines": _ends(_BLANK_LINE),
    "numbered": _numbered,
    "sentences": _sentences,
    "tool-calls": _ends(_LAST_CALL),
}


def join_steps(steps: Sequence[str], joint: str = "\n") -> tuple[str, ...]:
    """Steps of a list as the pieces of one text: `joint` goes behind each but the last where no white space parts two of them."""
    last = len(steps) - 1
    return tuple(
        step if i == last or step[-1:].isspace() or steps[i + 1][:1].isspace() else step + joint for i, step in enumerate(steps)
    )


def trajectory_steps(turns: Sequence[Message]) -> tuple[Messages, tuple[str, ...]]:
    """(prompt, steps) of a conversation in which the assistant calls tools: everything up to the user's last turn is the prompt,
    each turn of the assistant behind it a step.

    A step begins with the results of the calls before it, and ends with the turn's last call, so that what is read at its end is
    the last that the assistant wrote. Calls and results are written in <tool_call> and <tool_response>, thoughts in <think>.
    Raises ValueError where the assistant says nothing behind the user's last turn, or a turn is blank.
    """
    begin = 1 + max((i for i, turn in enumerate(turns) if turn.role in ("user", "system")), default=-1)
    steps, results = [], ""
    for turn in turns[begin:]:
        if turn.role == "tool":
            results += f"<tool_response>\n{turn.content}\n</tool_response>\n"
            continue
        if turn.is_blank:
            raise ValueError("a turn of the assistant is blank: leave it out")
        steps.append(f"{results}{_said(turn)}\n")
        results = ""
    if not steps:
        raise ValueError("the assistant says nothing behind the user's last turn: there is no step")
    steps[-1] = steps[-1][:-1] + (f"\n{results}".rstrip("\n") if results else "")
    return tuple(turns[:begin]), tuple(steps)


def _said(turn: Message) -> str:
    thought = f"<think>\n{turn.reasoning}\n</think>" if turn.reasoning else ""
    calls = [f"<tool_call>\n{_as_json(call)}\n</tool_call>" for call in turn.tool_calls]
    return "\n".join(part for part in (thought, turn.content, *calls) if part)


def _as_json(call: ToolCall) -> str:
    """Name and arguments; a closing tag in an argument is spelled so that it ends no call."""
    function = call.as_dict()["function"]
    return json.dumps({"name": function["name"], "arguments": function["arguments"]}, ensure_ascii=False).replace("</", "<\\/")
