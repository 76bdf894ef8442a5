"""What trainers and engines put around a rendered text, and what is no answer at all: padding at both ends, a bare prompt.

The reward is read at the last token. A text that comes out of a padded batch ends in pad tokens, or, where a trainer pads with the
end-of-sequence token, in several of those; read there, the reward would change with the width of the batch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """How the chat template of a model begins and ends a text, and which tokens can be padding.

    marks: texts of the tokens that rows are filled with: the pad token, and the end-of-sequence token `eos`. opening: the marks
    that the template itself puts at the front, "" for most. closing: what it writes after an answer. before_answer: what it writes
    between a question and its answer, in a whole conversation and when an answer is asked for.
    """

    marks: tuple[str, ...] = ()
    eos: str = ""
    opening: str = ""
    closing: str = ""
    before_answer: tuple[str, ...] = ()

    @property
    def _mark(self) -> str:
        """A pattern for one mark."""
        return "|".join(re.escape(mark) for mark in self.marks)

    @property
    def _run(self) -> str:
        """A pattern for marks in a row, perhaps with white space between them, as some tokenizers decode them."""
        return rf"(?:(?:{self._mark})\s*)*(?:{self._mark})"

    def unpadded(self, text: str) -> str:
        """The text without padding at its ends; an end token that belongs to the answer stays."""
        text = self.unpadded_end(text)
        found = re.match(self._run, text) if self.marks else None
        if found is None:
            return text
        return (self.opening if found[0].endswith(self.opening) else "") + text[found.end() :]

    def unpadded_end(self, text: str) -> str:
        """The text without padding behind it."""
        found = re.search(rf"{self._run}\Z", text) if self.marks else None
        if found is None:
            return text
        rest = text[: found.start()]
        return rest + self._kept(rest, found[0])

    def _kept(self, rest: str, run: str) -> str:
        """What of a run of marks at the end is no padding: what of it the template itself writes after an answer, or one eos."""
        end = self.closing.rstrip()
        if end and rest.rstrip().endswith(end):
            return ""
        for mark in re.finditer(self._mark, self.closing):
            before, own = self.closing[: mark.start()], self.closing[mark.start() :]
            if rest.endswith(before):
                kept = next((part for part in (own, own.rstrip(), mark[0]) if run.startswith(part)), None)
                if kept is not None:
                    return kept
        return self.eos if self.eos and run.startswith(self.eos) else ""

    def is_unanswered(self, text: str) -> bool:
        """Whether a text without padding is a prompt alone, or one with an empty answer."""
        asked, end = text.rstrip(), self.closing.rstrip()
        asked = asked.removesuffix(end).rstrip() if end else asked
        return any(asked.endswith(before.rstrip()) for before in self.before_answer if len(before.strip()) > 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdEnds:
    """The same of token ids. marks, opening, closing: as in `Ends`, tokenised; eos: None for a tokenizer without."""

    marks: frozenset[int]
    eos: int | None
    opening: tuple[int, ...]
    closing: tuple[int, ...]

    def unpadded(self, ids: Sequence[int]) -> tuple[int, ...]:
        """The ids without padding at their ends; an end token that belongs to the answer stays."""
        start, end = 0, len(ids)
        while end and ids[end - 1] in self.marks:
            end -= 1
        while start < end and ids[start] in self.marks:
            start += 1
        front, back = tuple(ids[:start]), tuple(ids[end:])
        num_opening = len(self.opening)
        kept = self.opening if num_opening and front[len(front) - num_opening :] == self.opening else ()
        return (*kept, *ids[start:end], *back[: self._num_kept(tuple(ids[start:end]), back)])

    def _num_kept(self, rest: tuple[int, ...], run: tuple[int, ...]) -> int:
        """How many tokens of a run of marks at the end are no padding, as `Ends` has it."""
        if not run or (self.closing and _ends_with(rest, self.closing)):
            return 0
        for place, token in enumerate(self.closing):
            own = self.closing[place:]
            if token in self.marks and run[0] == token and _ends_with(rest, self.closing[:place]):
                return next((i for i, token in enumerate(own) if run[i : i + 1] != (token,)), len(own))
        return int(run[0] == self.eos)


def _ends_with(ids: tuple[int, ...], end: tuple[int, ...]) -> bool:
    return len(ids) >= len(end) and ids[len(ids) - len(end) :] == end


def ends_of(tokenizer: Any, *, whole: str, asked: str, question: str, answer: str, pads: Sequence[str | None]) -> Ends:
    """The ends of a template.

    whole: a conversation as it renders it. asked: the same before its answer, with the generation prompt, "" where it has none.
    question, answer: the texts in it. pads: the pad tokens of the tokenizer, as loaded and as chosen.
    """
    eos = tokenizer.eos_token or ""
    marks = tuple(dict.fromkeys(mark for mark in (*pads, eos) if mark and mark.strip()))
    one = "|".join(re.escape(mark) for mark in marks)
    front = re.match(rf"(?:{one})+", whole) if marks else None
    before = (whole.rpartition(answer)[0].rpartition(question)[2], asked.rpartition(question)[2])
    return Ends(
        marks=tuple(sorted(marks, key=len, reverse=True)),
        eos=eos,
        opening=front[0] if front else "",
        closing=whole.rpartition(answer)[2] if answer in whole else "",
        before_answer=tuple(dict.fromkeys(text for text in before if text)),
    )


def id_ends(tokenizer: Any, ends: Ends) -> IdEnds:
    """The ends of a template as token ids."""

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()

    return IdEnds(
        marks=frozenset(tokenizer.convert_tokens_to_ids(list(ends.marks))),
        eos=tokenizer.eos_token_id,
        opening=ids(ends.opening),
        closing=ids(ends.closing),
    )


def choose_padding(tokenizer: Any, last_token: int) -> int:
    """Set and return a pad id that is never the rewarded token's: plain transformers reads the rightmost token that is not pad,
    vLLM the last one, so that the two agree with the index that `Renderer` computes."""
    forbidden = {last_token, tokenizer.eos_token_id}
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in forbidden:
        forbidden |= {tokenizer.bos_token_id}
        specials = sorted({*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()} - forbidden - {None})
        named = [i for i in specials if re.search("pad|endoftext|unk", tokenizer.convert_ids_to_tokens(i))]
        if specials:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens((named or specials)[0])
        else:
            tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    return int(tokenizer.pad_token_id)
