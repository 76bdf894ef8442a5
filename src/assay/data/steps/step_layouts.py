"""How a solution's steps become tokens for a process reward model that others publish, and at which token each step is read.

Every publisher joins steps in a way of its own, and the reward changes with it: the same weights with the separator joined as
text or as token ids differ by 4 points of ProcessBench F1 (QwenLM/ProcessBench, pull request 12). So a layout says how pieces are
joined, and each place that is read is found by where it was put, never by a search for a token that a step may hold too. What
cannot be laid out as the publisher does has a reason. Shapes: T tokens, S steps.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jinja2
import numpy as np

from assay.data.tokens.render import choose_template, pin_date
from assay.records import Completion

Joined = Literal["text", "ids", "answer", "turns"]
Read = Literal["mark", "before mark", "end of step"]
Ends = Literal["line", "blank line"]
_REFUSALS = (jinja2.TemplateError, ValueError, KeyError, TypeError)
_CUT_IT = "cut it there, or take it out"
_STAND_IN = "stand-in-of-a-mark"  # in the place of the mark's turns, to find them in what a template wrote


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLayout:
    """Where steps and marks stand, and what is read.

    joined: "text", question, steps and marks are one text that is tokenised whole; "ids", each is tokenised alone and the ids are
    joined; "answer", the chat template's answer holds steps and marks; "turns", each step is a user's turn that the mark answers.
    mark: what stands behind each step; None for the tokenizer's padding token, which then only shows where a step ends and is taken
    out of the ids. lead: between the question and the first step. between: behind a mark, before the next step. read: the mark, the
    token before it, or the step's last token. ends: where a response that was not cut into steps is cut. trims: characters that are
    taken off both ends of a step; None for all white space. holds_mark: whether a step may hold the mark's text itself.
    """

    joined: Joined
    mark: str | None
    read: Read = "mark"
    lead: str = ""
    between: str = ""
    ends: Ends = "line"
    trims: str | None = None
    holds_mark: bool = False


class StepTokens(NamedTuple):
    """Tokens of one solution. tokens: (T,) int32, up to the last one that is read. reads: (S,) int32, the index that each step is
    read at; -1 for a step beyond the length policy. error: why there are no tokens, or why some steps have no index."""

    tokens: np.ndarray
    reads: np.ndarray
    error: str | None = None


class Refused(Exception):
    """Why a solution cannot be laid out. num_before: of its steps, how many stand before the one that cannot be."""

    def __init__(self, reason: str, num_before: int = 0) -> None:
        super().__init__(reason)
        self.num_before = num_before


class StepRenderer:
    """Tokenizer + layout + length policy: solutions -> tokens with the places that are read.

    tokenizer: a transformers tokenizer (fast). max_length: most tokens; steps that end beyond it are not read, the ones before are
    read as if there were no others. template: a named chat template of the tokenizer, or a file, in place of its own; for layouts
    without a chat template, a file that writes all that stands before the first step from `messages`. uses_template: the
    tokenizer's own template is such a file.
    Raises ValueError for a tokenizer that lacks the mark as one token where it has to be one, or a chat template that is needed.
    """

    def __init__(
        self,
        tokenizer: Any,
        layout: StepLayout,
        *,
        max_length: int,
        template: str | None = None,
        uses_template: bool = False,
    ) -> None:
        self.tokenizer, self.layout, self.max_length = tokenizer, layout, max_length
        self.mark = str(tokenizer.pad_token) if layout.mark is None else layout.mark
        if layout.mark is None and tokenizer.pad_token is None:
            raise ValueError("the tokenizer has no padding token, which shows where a step ends: restore the publisher's tokenizer")
        if template is not None:
            choose_template(tokenizer, template)
        needs_template = layout.joined in ("answer", "turns")
        if needs_template and not isinstance(tokenizer.chat_template, str):
            raise ValueError("the tokenizer has no one chat template, which the steps are laid out by: give one with template=FILE")
        takes = needs_template or template is not None or uses_template
        self.template = pin_date(str(tokenizer.chat_template)) if takes else None
        self.mark_ids = self._mark_ids()
        self._special = sorted({token for token in tokenizer.all_special_tokens if token.strip()} - {""})

    def render(self, completions: Sequence[Completion]) -> list[StepTokens]:
        """N solutions -> their tokens, in order. What cannot be laid out carries its reason; nothing is raised for it."""
        return [self._render(completion) for completion in completions]

    def whole(self, completion: Completion) -> StepTokens:
        """A completion with all of its tokens read: of a text or of ids as they are given, of a solution up to its last step."""
        if completion.response is not None:
            found = self._render(completion)
            return found if found.error else found._replace(reads=np.arange(len(found.tokens), dtype=np.int32))
        ids = self._ids(str(completion.text)) if completion.token_ids is None else list(completion.token_ids)
        error = None
        if not ids or min(ids) < 0 or max(ids) >= len(self.tokenizer):
            error = f"there are no tokens of the vocabulary 0..{len(self.tokenizer) - 1}"
        elif len(ids) > self.max_length:
            error = f"more than the limit of {self.max_length} tokens: give the beginning alone"
        tokens = np.array([] if error else ids, np.int32)
        return StepTokens(tokens, np.arange(len(tokens), dtype=np.int32), error)

    def steps(self, completion: Completion) -> tuple[str, ...]:
        """The steps that are rewarded: the completion's own, or its response cut at line ends. They are joined the response."""
        if completion.steps is not None:
            return completion.steps
        response = completion.response or ""
        return cut_at_lines(response, self.layout.ends) if response.strip() else ()

    def _render(self, completion: Completion) -> StepTokens:
        steps = self.steps(completion) if completion.response is not None else ()
        trimmed, why = [step.strip(self.layout.trims) for step in steps], None
        while True:
            try:
                self._refuse_unfit(completion, steps)
                self._refuse_texts(completion, trimmed)
                tokens, reads = self._laid_out(completion, trimmed)
                break
            except Refused as reason:  # a step reads what stands before it alone: those before the one that cannot be read are
                trimmed, why = trimmed[: reason.num_before], str(reason)
            if not trimmed:
                return StepTokens(np.empty(0, np.int32), np.full(len(steps), -1, np.int32), why)
        found = self._fit(tokens.astype(np.int32), reads.astype(np.int32))
        lost = np.full(len(steps) - len(trimmed), -1, np.int32)
        return found._replace(reads=np.concatenate([found.reads, lost]), error=found.error or why)

    def _laid_out(self, completion: Completion, steps: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        match self.layout.joined:
            case "ids":
                return self._joined_ids(self._opening(completion), steps)
            case "text" if self.layout.read == "end of step":
                return self._dropped_marks(self._opening(completion), steps)
            case "text":
                return self._joined_text(self._opening(completion), steps)
            case "answer":
                return self._answer(completion, steps)
            case _:
                return self._turns(completion, steps)

    def _fit(self, tokens: np.ndarray, reads: np.ndarray) -> StepTokens:
        lost = reads >= self.max_length
        if not lost.any():
            return StepTokens(tokens[: reads[-1] + 1], reads)
        kept = reads[~lost]
        why = f"{reads[-1] + 1} tokens are more than max_length {self.max_length}: {lost.sum()} of {len(reads)} steps are not read"
        return StepTokens(tokens[: kept[-1] + 1 if len(kept) else 0], np.where(lost, np.int32(-1), reads), why)

    def _refuse_unfit(self, completion: Completion, steps: Sequence[str]) -> None:
        if completion.response is None:
            raise Refused("steps are laid out from messages and response: this completion was rendered already")
        if completion.tools or completion.response_message is not None:
            raise Refused("this model's form has no place for tools, tool calls and reasoning")
        if not steps:
            raise Refused("there are no steps: the response is empty")
        if "".join(steps) != completion.response:
            raise Refused("the steps, joined, are not the response")
        roles = [turn.role for turn in completion.messages]
        if self.template is None and roles != ["user"]:
            raise Refused(
                f"this model's form has one question and no other turn, not {', '.join(roles) or 'none'}: leave them out, or give "
                "template=FILE"
            )
        if self.layout.joined in ("answer", "turns") and roles[-1:] != ["user"]:
            raise Refused("the last turn of the prompt must be the user's question")

    def _refuse_texts(self, completion: Completion, steps: Sequence[str]) -> None:
        named = [*((f"the turn {i} of the prompt", turn.content) for i, turn in enumerate(completion.messages, start=1))]
        named += [(f"step {i}", step) for i, step in enumerate(steps, start=1)]
        for place, (name, text) in enumerate(named, start=-len(completion.messages)):
            num_before, is_step = max(0, place), place >= 0
            if not text.strip() and is_step:
                raise Refused(f"{name} is empty: leave it out, or join it to its neighbour", num_before)
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise Refused(f"{name} is not valid Unicode: {error.reason} at character {error.start}", num_before) from error
            if held := next((token for token in self._special if token in text), None):
                raise Refused(f"{name} holds {held!r}, which this tokenizer reads as a control token: take it out", num_before)
            if self._holds_mark(text) and (is_step or self.layout.joined == "answer"):
                raise Refused(f"{name} holds the model's own separator {self.mark.strip(' ')!r}: {_CUT_IT}", num_before)

    def _holds_mark(self, text: str) -> bool:
        """Whether a text holds the separator. In one joined text the ids tell, since a word may end like it."""
        told = not self.layout.holds_mark and self.layout.joined in ("ids", "answer")
        return told and self.mark.strip(" ") in text

    def _opening(self, completion: Completion) -> str:
        """What stands before the first step."""
        if self.template is None:
            return completion.messages[0].content + self.layout.lead
        return self._templated([turn.as_dict() for turn in completion.messages])

    def _templated(self, turns: list[dict[str, Any]]) -> str:
        try:
            return str(self.tokenizer.apply_chat_template(turns, chat_template=self.template, tokenize=False))
        except _REFUSALS as error:
            raise Refused(f"the chat template refused the conversation: {error}") from error

    def _mark_ids(self) -> list[int]:
        """The mark's ids. Raises ValueError where it has to be one token and is not."""
        if self.layout.joined in ("ids", "turns"):
            ids = self._ids(self.mark)
        else:  # behind a text, where it stands
            ids = self._ids(f"x{self.mark}")[-1:]
        is_whole = bool(ids) and (len(ids) == 1 or self.layout.joined == "ids")
        if not is_whole or str(self.tokenizer.decode(ids)).strip() != self.mark.strip():
            raise ValueError(f"the separator {self.mark.strip(' ')!r} is not one token of this tokenizer: it is another model's")
        return ids

    def _ids(self, text: str) -> list[int]:
        return [int(token) for token in self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]

    def _encode(self, text: str, *, add_special_tokens: bool) -> tuple[np.ndarray, np.ndarray]:
        """(ids (T,), offsets (T, 2) of characters)."""
        encoded = self.tokenizer(text, add_special_tokens=add_special_tokens, return_offsets_mapping=True, verbose=False)
        return np.asarray(encoded["input_ids"]), np.asarray(encoded["offset_mapping"]).reshape(-1, 2)

    def _joined_ids(self, opening: str, steps: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        bos = self.tokenizer.bos_token_id
        tokens, reads = [*([] if bos is None else [int(bos)]), *self._ids(opening)], []
        for step in steps:
            tokens += [*self._ids(step), *self.mark_ids]
            reads.append(len(tokens) - 1)
        return np.array(tokens), np.array(reads)

    def _joined_text(self, opening: str, steps: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        text, ends = opening, []
        for i, step in enumerate(steps):
            text += (self.layout.between if i else "") + step + self.mark
            ends.append(len(text))
        tokens, offsets = self._encode(text, add_special_tokens=True)
        is_mark = (tokens == self.mark_ids[0]) & (offsets[:, 1] > offsets[:, 0])
        stray = [end for end in offsets[is_mark, 1] if end not in ends]
        if stray:
            where = int(np.searchsorted(ends, stray[0])) + 1
            name = "the question" if stray[0] <= len(opening) else f"step {where}"
            num_before = 0 if stray[0] <= len(opening) else where - 1
            raise Refused(f"{name} holds the model's own separator {self.mark.strip()!r}: {_CUT_IT}", num_before)
        found = offsets[is_mark, 1]
        if lost := [i for i, end in enumerate(ends, start=1) if end not in found]:
            why = f"the separator behind step {lost[0]} is tokenised into its neighbour, so that the step cannot be read"
            raise Refused(why, lost[0] - 1)
        return tokens, np.flatnonzero(is_mark)

    def _dropped_marks(self, opening: str, steps: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The marks only show where a step ends: their ids are taken out, and the step's last token is read. Where the tokenizer's
        BOS is the mark too, it stays, and the token before the last one is read, as the publisher's script counts."""
        text = opening + self.mark + "".join(step + self.mark for step in steps)
        tokens, offsets = self._encode(text, add_special_tokens=True)
        is_mark = tokens == self.mark_ids[0]
        is_bos = is_mark & (offsets[:, 1] == offsets[:, 0])
        is_mark &= ~is_bos
        places = np.flatnonzero(is_mark) - np.arange(is_mark.sum()) - 1
        if len(places) != len(steps) + 1:
            raise Refused(f"the ends of {len(steps)} steps are found at {len(places) - 1} places of the tokens")
        if (np.diff(places) < 1).any():
            num_before = int(np.flatnonzero(np.diff(places) < 1)[0])
            raise Refused(f"step {num_before + 1} gives no token: join it to its neighbour", num_before)
        return tokens[~is_mark], places[1:] - int(is_bos.any())

    def _answer(self, completion: Completion, steps: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        body = "".join(step + self.mark + self.layout.between for step in steps)
        turns = [*(turn.as_dict() for turn in completion.messages), {"role": "assistant", "content": body}]
        tokens, _ = self._encode(self._templated(turns), add_special_tokens=False)
        places = np.flatnonzero(tokens == self.mark_ids[0])
        if len(places) != len(steps):
            raise Refused(f"the chat template altered the answer: {len(places)} separators stand there for {len(steps)} steps")
        return tokens, places

    def _turns(self, completion: Completion, steps: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        *before, question = completion.messages
        asked = [question.content + self.layout.lead + steps[0], *steps[1:]]

        def text(mark: str) -> str:
            said = [turn for step in asked for turn in (("user", step), ("assistant", mark))]
            return self._templated([*(t.as_dict() for t in before), *({"role": role, "content": what} for role, what in said)])

        if held := [k for k, one in enumerate(asked) if _STAND_IN in one]:
            raise Refused(f"step {held[0] + 1} or the question holds {_STAND_IN!r}", held[0])
        parts = text(_STAND_IN).split(_STAND_IN)
        whole = text(self.mark)
        if len(parts) != len(steps) + 1 or self.mark.join(parts) != whole:
            raise Refused("the chat template does not write every step's turn as it stands, so that the steps cannot be located")
        begins = np.cumsum([len(part) for part in parts[:-1]]) + np.arange(len(steps)) * len(self.mark)
        tokens, offsets = self._encode(whole, add_special_tokens=False)
        places = np.searchsorted(offsets[:, 0], begins, side="right") - 1
        is_whole = (tokens[places] == self.mark_ids[0]) & (offsets[places, 0] == begins)
        if not is_whole.all():
            lost = int(np.flatnonzero(~is_whole)[0])
            why = f"the separator behind step {lost + 1} is tokenised into its neighbour, so that the step cannot be read"
            raise Refused(why, lost)
        return tokens, places - 1 if self.layout.read == "before mark" else places


def cut_at_lines(text: str, ends: Ends) -> tuple[str, ...]:
    """A response in pieces that are joined the response: a piece for each line that is not blank, or for each paragraph. White
    space goes with the piece before it, at the beginning with the first one."""
    pattern = r"\n[^\S\n]*\n(?:[^\S\n]*\n)*" if ends == "blank line" else r"\n(?:[^\S\n]*\n)*"
    cuts = [found.end() for found in re.finditer(pattern, text) if text[: found.start()].strip() and text[found.end() :].strip()]
    return tuple(text[begin:end] for begin, end in itertools.pairwise([0, *cuts, len(text)]) if end > begin)
