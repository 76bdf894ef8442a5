"""The only path from text to tokens, used by training and by every scorer, and saved in the artifact.

A completion in messages form goes through the chat template whole; one in text or token form is taken as it is. The rewarded
token is the last one rendered (or the last one of each step): its index is computed here, and nobody searches for padding later.
Templates that know no tool calls, tools or reasoning drop them silently: each is therefore rendered once more with a mark in
its place. An answer of which a part is missing is set aside; what is missing of a prompt is reported, like a front cut off.

Three hazards are removed once, in the template that is saved with the artifact, so that every later reader agrees:
a template that inserts today's date is pinned to one date; a template that leaves an answer without an end token gets the
end-of-sequence token appended; a tokenizer without a template gets a plain one.
"""

from __future__ import annotations

import copy
import datetime
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jinja2
import numpy as np

from assay.data.steps.step_positions import step_positions
from assay.data.tokens.padding import Ends, choose_padding, ends_of, id_ends
from assay.records import Completion

Overlong = Literal["keep_end", "keep_start", "set_aside"]
LOST = -1  # in place of the position of a step that cannot be read: behind the length limit, mostly
PINNED_DATE = datetime.date(2024, 7, 26)
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' if not loop.last else '' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\nAssistant: ' }}{% endif %}"
)
_APPEND_EOS = "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
_DATE_CALL = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
_DATE_NAME = re.compile(r"strftime_now(?!\s+is\b)")
# For formats that are only known when the template runs: a macro of the same name, with the codes that dates are written in.
_DATE_MACRO = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(f" | replace('%{code}', '{PINNED_DATE.strftime('%' + code)}')" for code in "dmyYbBaAjHMS")
    + " }}{%- endmacro %}\n"
)


class Rendered(NamedTuple):
    """Tokens of one completion: tokens (T,) int32, reward_positions (R,) int32 indices of the rewarded tokens (`LOST` for a step
    that is not read), whether an end was cut off, and the reason when it could not be rendered (tokens and reward positions are
    then empty). left_out: parts of the prompt that the template does not render. lost: why steps are not read, if not for their
    length. answer_start: see `answer_starts`, or -1."""

    tokens: np.ndarray
    reward_positions: np.ndarray
    is_cut: bool = False
    error: str | None = None
    left_out: tuple[str, ...] = ()
    lost: str | None = None
    answer_start: int = -1


def read_at_end(item: Rendered) -> Rendered:
    """The same, read at its last reward position alone, as a head reads that gives one reward of a text."""
    if item.error is None and item.reward_positions[-1] == LOST:
        return _failed(item.lost or "its end is cut off")
    return item._replace(reward_positions=item.reward_positions[-1:])


class AnswerTokens(NamedTuple):
    """A rendered completion with its answer marked: tokens (T,) int32 as `render` gives them, of which start..end are the answer's
    and the rest closes it. pieces: the text of each of the answer's tokens, their concatenation is its text."""

    tokens: np.ndarray
    start: int
    end: int
    pieces: tuple[str, ...]


class Renderer:
    """Tokenizer + chat template + length policy.

    tokenizer: a transformers tokenizer (fast); its `chat_template` is replaced by the corrected one.
    max_length: most tokens of one sequence. overlong: "keep_end" cuts tokens off the front (the answer's end is what is
    rewarded), "keep_start" off the end (the first steps keep the rewards that they have without a limit, the others get none),
    "set_aside" leaves the completion unscored with a reason. All are counted by whoever renders.
    closes: append the eos token where the template leaves an answer open; False for a checkpoint of others that was trained so.
    template_changes: what was changed in the template, in words, for the printout and the card. closing: what the template writes
    after an answer, at whose end the reward is read. ends: what is padding of a rendered text, and what a bare prompt.
    """

    def __init__(self, tokenizer: Any, *, max_length: int = 1024, overlong: Overlong = "keep_end", closes: bool = True) -> None:
        if max_length < 8:
            raise ValueError(f"max_length {max_length} leaves no room for an answer: give at least 8 tokens")
        if overlong not in get_args(Overlong):
            raise ValueError(f"overlong {overlong!r} is unknown: use 'keep_end', 'keep_start' or 'set_aside'")
        self.tokenizer, self.max_length, self.overlong, self.closes = tokenizer, max_length, overlong, closes
        tokenizer.chat_template, self.template_changes = _corrected_template(tokenizer, closes=closes)
        self.closing = _probe_tail(tokenizer)
        loaded_pad = tokenizer.pad_token
        self.pad_id = choose_padding(tokenizer, self._last_token())
        self.ends = _ends(tokenizer, loaded_pad)
        self.id_ends = id_ends(tokenizer, self.ends)
        tokenizer.padding_side = "right"
        tokenizer.truncation_side = "right" if overlong == "keep_start" else "left"
        tokenizer.init_kwargs["truncation_side"] = tokenizer.truncation_side  # only what is in there gets saved
        tokenizer.model_max_length = max_length

    def render(self, completions: Sequence[Completion]) -> list[Rendered]:
        """N completions -> N token sequences, in order. What cannot be rendered carries its reason; nothing is raised for it."""
        texts: list[str | None] = []
        results: list[Rendered | None] = []
        left_out = [self._left_out(completion) for completion in completions]
        for completion, parts in zip(completions, left_out, strict=True):
            text, failure = self._text(completion)
            if lost := ", ".join(part for part in parts if part.startswith(_ANSWER)):
                text, failure = (
                    None,
                    failure or _failed(f"the chat template leaves out {lost}: give one that renders it, or drop it"),
                )
            texts.append(text)
            results.append(failure)
        rendered = [i for i, text in enumerate(texts) if text is not None]
        if rendered:
            encoded = self.tokenizer(
                [texts[i] for i in rendered],
                add_special_tokens=False,
                return_attention_mask=False,
                return_offsets_mapping=any(completions[i].steps is not None for i in rendered),
                verbose=False,  # else a warning of sequences over max_length, which `_fit` handles
            )
            for row, i in enumerate(rendered):
                tokens = np.asarray(encoded["input_ids"][row], dtype=np.int32)
                reward_positions, error = np.array([len(tokens) - 1], dtype=np.int32), None
                if completions[i].steps is not None:
                    reward_positions, error = step_positions(
                        completions[i], str(texts[i]), self.closing, encoded["offset_mapping"][row]
                    )
                is_there = (reward_positions != LOST).any()
                fitted = self._fit(tokens, reward_positions) if is_there else _failed(str(error))
                results[i] = fitted._replace(left_out=left_out[i], lost=error)
        for i, completion in enumerate(completions):
            if completion.token_ids is not None and results[i] is None:
                results[i] = self._fit_ids(completion.token_ids)
        return [_failed("not rendered") if result is None else result for result in results]

    def answer_tokens(self, completion: Completion) -> AnswerTokens:
        """Where the answer stands among the tokens of a completion in messages form, white space at its ends apart.

        Raises ValueError for another form, for what cannot be rendered, and where the template altered the answer.
        """
        core = completion.answer.content.strip()
        (item,) = self.render([completion])
        if item.error:
            raise ValueError(f"the completion cannot be rendered: {item.error}")
        if not core or completion.answer.tool_calls:
            raise ValueError("the tokens of an answer with tool calls, or without text, cannot be located: give one that is text")
        text = str(self._text(completion)[0])
        first = text.rfind(core, 0, len(text) - len(self.closing) if text.endswith(self.closing) else len(text))
        if first < 0:
            raise ValueError("the chat template altered the response, so its tokens cannot be located")
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets, last = encoded["offset_mapping"], first + len(core)
        inside = [i for i, (begin, end) in enumerate(offsets) if end > first and begin < last]
        pieces, reached = [], first
        for i in inside:  # a character of several tokens goes with the first of them
            pieces.append(text[reached : min(last, max(reached, offsets[i][1]))])
            reached = max(reached, offsets[i][1])
        if self.overlong == "keep_start":
            return AnswerTokens(
                item.tokens, inside[0], end := min(inside[-1] + 1, len(item.tokens)), tuple(pieces[: end - inside[0]])
            )
        num_cut = len(offsets) - len(item.tokens)
        start, end = max(1, inside[0] - num_cut), inside[-1] + 1 - num_cut
        return AnswerTokens(item.tokens, start, end, tuple(pieces[start - end :]))

    def text(self, completion: Completion) -> str | None:
        """The text whose tokens `render` gives; None for token ids, and for what cannot be rendered."""
        return self._text(completion)[0]

    def settings(self) -> dict[str, Any]:
        """What `reward.json` records of the length policy and the template."""
        settings = {"max_length": self.max_length, "overlong": self.overlong, "template_changes": list(self.template_changes)}
        return settings if self.closes else {**settings, "closes": False}

    @property
    def template(self) -> str:
        """What the template's digest in reward.json is of."""
        return str(self.tokenizer.chat_template)

    def _text(self, completion: Completion) -> tuple[str | None, Rendered | None]:
        if completion.token_ids is not None:
            return None, None
        if completion.text is not None:
            text = self.ends.unpadded(completion.text)
            return (None, _failed("the response is empty")) if self.ends.is_unanswered(text) else _tokenisable(text)
        if completion.answer.is_blank:
            return None, _failed("the response is empty")
        try:
            return _tokenisable(_templated(self.tokenizer, completion.conversation(), completion.tools))
        except _REFUSALS as error:
            return None, _failed(f"the chat template refused the conversation: {error}")

    def _left_out(self, completion: Completion) -> tuple[str, ...]:
        """The parts of a conversation that the template does not render, all of them or some."""
        conversation, tools, marks = _marked(completion)
        try:
            text = _templated(self.tokenizer, conversation, tools) if marks else ""
        except _REFUSALS:  # a refusal counts as leaving the parts out
            text = ""
        return tuple(dict.fromkeys(part for mark, part in marks.items() if mark not in text))

    def _fit_ids(self, token_ids: tuple[int, ...]) -> Rendered:
        if not token_ids:
            return _failed("token_ids is empty")
        if min(token_ids) < 0 or max(token_ids) >= len(self.tokenizer):
            return _failed(f"token_ids hold {min(token_ids)}..{max(token_ids)}, the vocabulary is 0..{len(self.tokenizer) - 1}")
        token_ids = self.id_ends.unpadded(token_ids)
        if not token_ids:
            return _failed("token_ids hold nothing but padding")
        if self.ends.is_unanswered(self.tokenizer.decode(token_ids[-_LONGEST_ENDS:])):
            return _failed("the response is empty")
        return self._fit(np.array(token_ids, dtype=np.int32), np.array([len(token_ids) - 1], dtype=np.int32))

    def _fit(self, tokens: np.ndarray, reward_positions: np.ndarray) -> Rendered:
        if len(tokens) == 0:
            return _failed("the text gives no token")
        excess = len(tokens) - self.max_length
        if excess <= 0:
            return Rendered(tokens, reward_positions)
        if self.overlong == "set_aside":
            return _failed(f"{len(tokens)} tokens are more than max_length {self.max_length}")
        if self.overlong == "keep_start":
            kept = np.where(reward_positions < self.max_length, reward_positions, LOST).astype(np.int32)
            if int(kept.max()) == LOST:
                return _failed(
                    f"{len(tokens)} tokens are more than max_length {self.max_length}: nothing that is rewarded ends before"
                )
            return Rendered(tokens[: self.max_length], kept, is_cut=True)
        begins_with_bos = self.tokenizer.bos_token_id is not None and int(tokens[0]) == self.tokenizer.bos_token_id
        cut = excess + 1 if begins_with_bos else excess
        if int(reward_positions[reward_positions != LOST].min()) < cut + 1:
            return _failed(f"{len(tokens)} tokens are more than max_length {self.max_length}: cutting the front would lose a step")
        kept = tokens[cut:]
        if begins_with_bos:
            kept, cut = np.concatenate([tokens[:1], kept]), cut - 1
        return Rendered(kept, np.where(reward_positions == LOST, LOST, reward_positions - cut).astype(np.int32), is_cut=True)

    def _last_token(self) -> int:
        """Id of the last token that a templated answer ends with."""
        text = _templated(self.tokenizer, _PROBE)
        return int(self.tokenizer(text, add_special_tokens=False)["input_ids"][-1])


def _templated(tokenizer: Any, conversation: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
    """A conversation as text. Raises what the chat template and its sandbox raise, `_REFUSALS`."""
    return str(tokenizer.apply_chat_template(conversation, tools=list(tools) or None, tokenize=False))


def generation_prompt(tokenizer: Any, completion: Completion) -> str:
    """The conversation before the answer, as text, with what asks for one; "" of a template that does not ask."""
    turns, tools = completion.conversation()[:-1], list(completion.tools) or None
    try:
        asked = str(tokenizer.apply_chat_template(turns, tools=tools, add_generation_prompt=True, tokenize=False))
        return "" if _templated(tokenizer, turns, completion.tools).startswith(asked) else asked
    except _REFUSALS:
        return ""


def warn_of_left_out(rendered: Sequence[Rendered]) -> None:
    """Warn of each part that the chat template left out of some prompt; Python shows a warning once."""
    for part in sorted({part for item in rendered for part in item.left_out}):
        warnings.warn(f"the chat template leaves out {part}: rewards do not depend on it", stacklevel=3)


def _marked(completion: Completion) -> tuple[list[dict[str, Any]], list[Any], dict[str, str]]:
    """Conversation and tools with a mark in each tool, tool call and reasoning; and what part each mark stands for."""
    if completion.response is None or completion.is_plain:
        return [], [], {}
    conversation, tools = completion.conversation(), copy.deepcopy(list(completion.tools))
    marks: dict[str, str] = {}

    def mark(part: str) -> str:
        name = f"part{len(marks)}mark"
        marks[name] = part
        return name

    for tool in tools:
        tool.get("function", tool)["name"] = mark("the tools")
    for i, turn in enumerate(conversation, start=1):
        whose = _ANSWER if i == len(conversation) else "the prompt's"
        for call in turn.get("tool_calls", ()):
            call["function"]["name"] = mark(f"{whose} tool calls")
        if "reasoning_content" in turn:
            turn["reasoning_content"] = mark(f"{whose} reasoning")
    return conversation, tools, marks


_ANSWER = "the answer's"
_LONGEST_ENDS = 64  # tokens among which a template's text before and after an answer lies
_REFUSALS = (jinja2.TemplateError, ValueError, KeyError, TypeError)
_PROBE = [{"role": "user", "content": "probe question"}, {"role": "assistant", "content": "probe answer"}]


def _failed(error: str) -> Rendered:
    return Rendered(np.empty(0, np.int32), np.empty(0, np.int32), error=error)


def choose_template(tokenizer: Any, name: str) -> None:
    """Make one of the tokenizer's named templates (default, tool_use, ...), or the content of a file, its only one.

    Raises ValueError when it has no template of that name, and there is no such file.
    """
    templates = tokenizer.chat_template if isinstance(tokenizer.chat_template, Mapping) else {"default": tokenizer.chat_template}
    if templates.get(name):
        tokenizer.chat_template = templates[name]
    elif Path(name).is_file():
        tokenizer.chat_template = Path(name).read_text(encoding="utf-8")
    else:
        known = [known for known, template in templates.items() if template]
        raise ValueError(f"--template {name!r} is neither a file nor one of the tokenizer's templates {known}")


def _corrected_template(tokenizer: Any, *, closes: bool) -> tuple[str, tuple[str, ...]]:
    """The template as it is saved, and what was changed in it, in words."""
    if closes and tokenizer.eos_token is None:
        raise ValueError("the tokenizer has no eos_token: set one, so that the end of an answer can be marked")
    changes = []
    if not isinstance(tokenizer.chat_template, str):
        if tokenizer.chat_template:
            names = list(tokenizer.chat_template)
            raise ValueError(f"the tokenizer has several chat templates, {', '.join(names)}: say which with --template {names[0]}")
        begins = tokenizer.bos_token is not None and tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]
        tokenizer.chat_template = ("{{ bos_token }}" if begins else "") + PLAIN_TEMPLATE
        first = ", with the BOS token that this tokenizer puts before a text" if begins else ""
        changes.append(f"no chat template: a plain 'User: / Assistant:' one was set{first}")
    template = pin_date(tokenizer.chat_template)
    if template != tokenizer.chat_template:
        changes.append(f"the template inserts today's date: pinned to {PINNED_DATE:%d %b %Y}")
    tokenizer.chat_template = template
    tail = _probe_tail(tokenizer)
    if closes and not any(token and token in tail for token in tokenizer.all_special_tokens + list(tokenizer.get_added_vocab())):
        template += _APPEND_EOS
        changes.append("the template leaves an answer open: the eos token is appended")
    return template, tuple(changes)


def _probe_tail(tokenizer: Any) -> str:
    """What the template writes after an answer. Raises ValueError for a template that refuses a question and its answer."""
    try:
        text = _templated(tokenizer, _PROBE)
    except _REFUSALS as error:
        raise ValueError(f"the chat template cannot render a question with its answer ({error}): mend it or unset it") from error
    answer = _PROBE[1]["content"]
    if answer not in text and _templated(tokenizer, [_PROBE[0], {"role": "assistant", "content": "other"}]) == text:
        raise ValueError(f"the chat template {_why_no_answer(tokenizer)}")
    return text.rpartition(answer)[2] if answer in text else ""


def _why_no_answer(tokenizer: Any) -> str:
    """What is wrong with a template that writes the same for any answer, and the remedy."""
    parts = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in _PROBE]
    fix = "give one that takes text, as a file or by its name, with --template"
    try:
        takes_parts = _PROBE[1]["content"] in _templated(tokenizer, parts)
    except _REFUSALS:
        takes_parts = False
    if takes_parts:
        return f"takes a message's content as a list of parts only, and renders no content that is text: {fix}"
    return f"does not render the answer, so that the reward could not depend on it: {fix}"


def pin_date(template: str) -> str:
    """The template with every call for today's date replaced by `PINNED_DATE`; the same string when there is none."""
    template = _DATE_CALL.sub(lambda call: repr(PINNED_DATE.strftime(call.group(2))), template)
    if _DATE_NAME.search(template) and not template.startswith(_DATE_MACRO):
        template = _DATE_MACRO + template
    return template


def _ends(tokenizer: Any, loaded_pad: str | None) -> Ends:
    """How the template begins and ends a text. loaded_pad: the pad token before another one was chosen."""
    question, answer = (turn["content"] for turn in _PROBE)
    try:
        asked = str(tokenizer.apply_chat_template(_PROBE[:1], add_generation_prompt=True, tokenize=False))
    except _REFUSALS:  # a template of whole conversations only
        asked = ""
    pads = (loaded_pad, tokenizer.pad_token)
    return ends_of(tokenizer, whole=_templated(tokenizer, _PROBE), asked=asked, question=question, answer=answer, pads=pads)


def _tokenisable(text: str) -> tuple[str | None, Rendered | None]:
    if not text:
        return None, _failed("the text is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return None, _failed(f"the text is not valid Unicode: {error.reason} at character {error.start}")
    return text, None
