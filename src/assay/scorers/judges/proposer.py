"""Criteria that a language model proposes by looking at preference pairs: what preferred answers have and the others lack.

    def propose(rubric, shown):
        return propose_criteria(judge.generator, rubric, shown, AskedFor(most=5)).criteria

    learn_rubric(rubric, pairs, values_of_judge(judge), propose=propose)

That a preferred answer is held against another is OpenRubrics' way (arXiv 2510.07743) and Auto-Rubric's (arXiv 2510.17314). Both
ask the model again whether a criterion agrees with the labels of those pairs; here `learn_rubric` measures it on pairs that it was
not made from. The place of the preferred answer is drawn by a seed. What stands in an answer is fenced as for a judge, and what the
reply repeats of it is no criterion.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from assay.console import progress
from assay.generation.generator import Generator
from assay.generation.replies import Ask, Reply, Sampling, Unreadable
from assay.messages import Message
from assay.records import PreferencePair
from assay.rubrics.rubric import Criterion, Rubric
from assay.scorers.judges.verdict_text import outside_of_quotes, whole_text
from assay.scorers.judges.wording import NEVER, answer_text, conversation_text, fenced

PAIRS_A_CALL, CRITERIA_A_CALL = 3, 3
CALLS_A_CRITERION = 2  # of the criteria that are wanted
LONGEST_SHOWN = 1500  # characters of a conversation or an answer
LONGEST_NAME, LONGEST_TEXT = 60, 300
_BINARY, _SCALE = "Criterion", "Scale"
_SCALE_ENDS = (1, 5)
_LINE = re.compile(  # a list's mark and a number around the word do no harm
    rf"^[ \t*_#-]*(?:\d+[.)][ \t]*)?[*_]*({_BINARY}|{_SCALE})(?:[ \t]*\d+)?[*_]*[ \t]*:[*_]*[ \t]*", re.MULTILINE | re.IGNORECASE
)
_FORMS = {_BINARY: ("NAME", "QUESTION"), _SCALE: ("NAME", "QUESTION", "WHAT 1 MEANS", "WHAT 5 MEANS")}
_AROUND = " \t\r*_`'\"“”‘’"
_TASK = """You help to write a rubric: criteria by which answers are graded one at a time.
{never}

The rubric has these criteria already:
{criteria}

Below are {count} requests. Each has two answers, A and B, and people preferred one of them.

{pairs}

What do the preferred answers have that the others lack, or the others have that the preferred ones lack? Name up to {most} new
criteria. A criterion must hold for requests of any topic, must be answered by looking at one answer alone, and must ask something
that the rubric does not ask yet.
Write one line for each criterion and nothing else. If the question is answered by yes or no, the line has this form:
{binary}
If it is answered by a number from 1 to 5, the line has this form:
{scale}"""
_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedFor:
    """How many criteria are wanted, and how a model is asked: twice as many calls, on three pairs each, while there are prompts.

    max_tokens: of a reply. seed: of the pairs that are shown, and of which answer stands first. Raises ValueError for most < 1.
    """

    most: int
    max_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"{self.most} criteria to propose: ask for at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposals:
    """What a model proposed. criteria: different ones, what most calls named first; num_named: of all lines that were one.

    unread: why calls gave none -> how many; num_malformed: lines that begin as a criterion and are not of its form. num_known: that
    the rubric has already. num_beyond: different ones beyond those that were wanted.
    """

    criteria: tuple[Criterion, ...] = ()
    num_calls: int = 0
    num_pairs: int = 0
    num_named: int = 0
    num_malformed: int = 0
    num_known: int = 0
    num_beyond: int = 0
    unread: Mapping[str, int] = field(default_factory=dict)

    def summary(self) -> str:
        """One line for people."""
        parts = [f"{len(self.criteria)} criteria of {self.num_named} named in {self.num_calls} calls on {self.num_pairs} pairs"]
        counted = (
            (self.num_known, "in the rubric already"),
            (self.num_beyond, "beyond what was wanted"),
            (self.num_malformed, "lines not of the form"),
        )
        parts += [f"{count} {what}" for count, what in counted if count]
        if self.unread:
            reasons = ", ".join(f"{count} x {why}" for why, count in sorted(self.unread.items(), key=lambda item: -item[1]))
            parts.append(f"{sum(self.unread.values())} calls without a criterion: {reasons}")
        return "; ".join(parts)


def propose_criteria(generator: Generator, rubric: Rubric, pairs: Sequence[PreferencePair], asked: AskedFor) -> Proposals:
    """Ask a language model for criteria that tell the preferred answers of pairs from the others; progress is shown by the reply.

    Calls are billed, tried again and kept in the ledger as those of judges. A failed call is counted, and raises nothing.
    """
    asks = asks_for_criteria(rubric, pairs, asked)
    with progress("proposing", len(asks), "replies") as advance:

        def read(ask: Ask, reply: Reply) -> dict[str, Any]:
            advance(1)
            return criteria_in(reply)

        answered = generator.ask(asks, read)
    told = [one.verdict for one in answered if one.error is None]
    lists = [[_criterion(line) for line in verdict["criteria"]] for verdict in told]
    known = {key for criterion in rubric.criteria for key in _keys(criterion)}
    ranked = _ranked(lists)
    new = [criterion for criterion in ranked if not known & _keys(criterion)]
    return Proposals(
        criteria=tuple(new[: asked.most]),
        num_calls=len(asks),
        num_pairs=len(_to_show(pairs, asked)),
        num_named=sum(map(len, lists)),
        num_malformed=sum(verdict["malformed"] for verdict in told),
        num_known=len(ranked) - len(new),
        num_beyond=max(0, len(new) - asked.most),
        unread=dict(Counter(one.error for one in answered if one.error is not None)),
    )


def asks_for_criteria(rubric: Rubric, pairs: Sequence[PreferencePair], asked: AskedFor) -> list[Ask]:
    """What the model is asked: for an estimate of the price."""
    shown, rng = _to_show(pairs, asked), np.random.default_rng(asked.seed)
    sampling = Sampling(max_tokens=asked.max_tokens, seed=asked.seed)
    asks = []
    for start in range(0, len(shown), PAIRS_A_CALL):
        batch = shown[start : start + PAIRS_A_CALL]
        text = _question(rubric, batch, (rng.random(len(batch)) < 0.5).tolist())
        asks.append(Ask(messages=(Message("user", text),), sampling=sampling, rubric=f"propose:{rubric.digest}"))
    return asks


def criteria_in(reply: Reply) -> dict[str, Any]:
    """The criteria of a reply: {"criteria": lists of their parts, "malformed": how many lines began as one and were none}.

    A line counts outside of quotations, thoughts and repeated fences. Of a reply that was cut off the last line is left out.
    Raises Unreadable for a reply without a criterion.
    """
    text, cut = reply.text or "", reply.finish == "length"
    if cut:
        text = text[: text.rfind("\n") + 1]
    if text.strip() or not cut:
        whole_text(reply._replace(text=text, finish="stop"))
    masked = outside_of_quotes(text)
    found, num_malformed = [], 0
    for line in _LINE.finditer(masked):
        end = text.find("\n", line.start())
        kind = line[1].capitalize()
        parts = [part.strip(_AROUND) for part in text[line.end() : end if end >= 0 else len(text)].split("|")]
        if _is_of_form(kind, parts):
            found.append([kind, *parts])
        else:
            num_malformed += 1
    if not found:
        why = "the reply was cut off: raise max_tokens in [judge]" if cut else "the reply names no criterion in the form asked for"
        raise Unreadable(why)
    return {"criteria": found, "malformed": num_malformed}


def _is_of_form(kind: str, parts: Sequence[str]) -> bool:
    """Whether the parts of a line are a criterion, and not the form itself."""
    form = _FORMS[kind]
    if len(parts) != len(form) or not all(_normal(part) for part in parts):
        return False
    if any(_normal(part) == _normal(word) for part, word in zip(parts, form, strict=True)):
        return False
    return len(parts[0]) <= LONGEST_NAME and all(len(part) <= LONGEST_TEXT and part.isprintable() for part in parts)


def _criterion(line: Sequence[str]) -> Criterion:
    kind, name, text, *ends = line
    if kind == _BINARY:
        return Criterion(name=name, text=text)
    low, high = _SCALE_ENDS
    return Criterion(name=name, text=text, kind="scale", low=low, high=high, anchors=dict(zip((low, high), ends, strict=True)))


def _ranked(lists: Sequence[Sequence[Criterion]]) -> list[Criterion]:
    """Different criteria, those first that most calls named; of alike ones what a reply named first. The first wording stays."""
    merged: list[Criterion] = []
    place_of: dict[str, int] = {}
    votes: Counter[int] = Counter()
    first: dict[int, tuple[int, int]] = {}
    for number, named in enumerate(lists):
        voted = set()
        for rank, criterion in enumerate(named):
            keys = _keys(criterion)
            place = next((place_of[key] for key in sorted(keys) if key in place_of), len(merged))
            if place == len(merged):
                merged.append(criterion)
                first[place] = (rank, number)
            place_of |= {key: place_of.get(key, place) for key in keys}
            voted.add(place)
        votes.update(voted)
    return [merged[place] for place in sorted(first, key=lambda place: (-votes[place], first[place]))]


def _keys(criterion: Criterion) -> set[str]:
    """What two wordings of one criterion share: the name, or the question, but for case, marks and white space."""
    return {f"name {_normal(criterion.name)}", f"text {_normal(criterion.text)}"}


def _normal(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def _to_show(pairs: Sequence[PreferencePair], asked: AskedFor) -> list[PreferencePair]:
    """One pair of each prompt, drawn at random; without ties, which do not say what is better."""
    first: dict[str, PreferencePair] = {}
    for pair in pairs:
        if not pair.is_tie:
            first.setdefault(pair.prompt_key, pair)
    order = np.random.default_rng([asked.seed, 1]).permutation(len(first))
    return [list(first.values())[i] for i in order[: asked.most * CALLS_A_CRITERION * PAIRS_A_CALL]]


def _question(rubric: Rubric, pairs: Sequence[PreferencePair], preferred_first: Sequence[bool]) -> str:
    asked = [f"- {criterion.name}: {criterion.text}" for criterion in rubric.asked]
    parts = {
        "never": NEVER,
        "criteria": "\n".join(asked) or "- none",
        "count": str(len(pairs)),
        "pairs": "\n\n".join(_shown(i, *row) for i, row in enumerate(zip(pairs, preferred_first, strict=True), 1)),
        "most": str(CRITERIA_A_CALL),
        "binary": f"{_BINARY}: {' | '.join(_FORMS[_BINARY])}",
        "scale": f"{_SCALE}: {' | '.join(_FORMS[_SCALE])}",
    }
    return _FIELD.sub(lambda found: parts[found[1]], _TASK)  # one pass: what is put in is not looked at again


def _shown(number: int, pair: PreferencePair, preferred_first: bool) -> str:
    """A pair with the preferred answer first or second."""
    chosen, rejected = pair.completions()
    better, worse = (chosen, rejected) if pair.preference > 0.5 else (rejected, chosen)
    first, second = (better, worse) if preferred_first else (worse, better)
    return "\n".join(
        [
            f"Request {number}:",
            fenced(_cut(conversation_text(chosen))),
            f"Answer A to request {number}:",
            fenced(_cut(answer_text(first))),
            f"Answer B to request {number}:",
            fenced(_cut(answer_text(second))),
            f"Preferred for request {number}: {'A' if preferred_first else 'B'}",
        ]
    )


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} [...]"
