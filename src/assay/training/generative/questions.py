"""Preference pairs as questions to a generative model, each with the right verdict and, where the rows have one, a critique.

A pair is asked about in both orders, or each of its answers alone: so both verdicts are right equally often. No torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from assay.data.critiques import CHOSEN, REJECTED, Critiques, Said, Unclear, critiques_of, said_of, told_of_two
from assay.messages import Messages
from assay.records import Completion, PreferencePair
from assay.scorers.generative.own_forms import OwnForm
from assay.training.generative.kind_words import GenerativeKind

TIE = "a tie: neither verdict is right"
CONTRADICTS = "the critique's own verdict contradicts the label"
NO_CRITIQUE = "no critique in the row"
VERDICT_ALONE = "a verdict without a critique"
OTHER_VERDICT = "the critique's verdict names neither {chosen} nor {rejected}"
TWO_VERDICTS = "the critique holds a verdict of its own before its last one"
NAMED_BY_ORDER = "the critique names the answers by an order (Answer A, the second one): write {chosen} and {rejected}"
EQUAL = "both answers are equal"


@dataclass(slots=True)
class LeftOut:
    """What was not trained on, by reason."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str) -> None:
        self.counts[reason] += 1

    def summary(self) -> str:
        """One line, the most frequent reason first."""
        return ", ".join(f"{count:,} {reason}" for reason, count in self.counts.most_common()) or "nothing"


class PairQuestion(NamedTuple):
    """One question about a pair. pair: its number among those given; key: hash of its prompt. right: the verdict that its label
    says. critique: what the row says of it, without a verdict; None where it says nothing that can be used. weight: in the loss."""

    pair: int
    key: str
    answers: tuple[Completion, ...]
    messages: Messages
    right: str
    wrong: str
    critique: str | None
    weight: float


def questions_of(
    pairs: Sequence[PreferencePair], own: OwnForm, kind: GenerativeKind, *, seed: int
) -> tuple[list[PairQuestion], LeftOut]:
    """The questions about P pairs, in their order, and what of them cannot be asked or trained on.

    With one order, which answer is A is drawn so that both verdicts are right equally often. A soft label weighs |2 p - 1|, and the
    likelier answer is the right one. Critiques that cannot be used are counted; their questions are kept without one.
    """
    left_out, found = LeftOut(), list[PairQuestion]()
    turned = np.random.default_rng([seed, 17]).permutation(np.arange(len(pairs)) % 2).astype(bool)
    for number, pair in enumerate(pairs):
        if pair.is_tie:
            left_out.add(TIE)
            continue
        sides = pair.completions() if pair.preference > 0.5 else pair.completions()[::-1]
        if (why := own.why_not(*sides)) is not None:
            left_out.add(why)
            continue
        if sides[0].key == sides[1].key:
            left_out.add(EQUAL)
            continue
        critiques = critiques_of(pair) if own.critique else Critiques()
        if pair.preference < 0.5:
            critiques = Critiques(_swapped(critiques.both), critiques.rejected, critiques.chosen)
        weight = pair.weight * abs(2 * pair.preference - 1)
        for answers, right, wrong, critique in _asked(sides, own, critiques, left_out, kind, turned=bool(turned[number])):
            messages = own.prompt(*answers)
            found.append(PairQuestion(number, pair.prompt_key, answers, messages, right, wrong, critique, weight))
    return found, left_out


def _swapped(text: str | None) -> str | None:
    mark = "\ue000"
    return text and text.replace(CHOSEN, mark).replace(REJECTED, CHOSEN).replace(mark, REJECTED)


def _asked(
    sides: tuple[Completion, ...], own: OwnForm, critiques: Critiques, left_out: LeftOut, kind: GenerativeKind, *, turned: bool
) -> Iterable[tuple[tuple[Completion, ...], str, str, str | None]]:
    """(answers, right verdict, wrong one, critique) of each question about a pair, whose better answer is the first."""
    good, bad = own.words
    if kind.form == "pointwise":
        for side, right, wrong, text in ((sides[0], good, bad, critiques.chosen), (sides[1], bad, good, critiques.rejected)):
            yield (side,), right, wrong, usable(text, {"yes": good, "no": bad}, right, left_out) if own.critique else None
        return
    said = _of_both(critiques, own, left_out) if own.critique else None
    orders = [(sides, good, bad, ("A", "B")), (sides[::-1], bad, good, ("B", "A"))]
    for answers, right, wrong, (chosen, rejected) in orders if kind.orders == 2 else [orders[turned]]:
        named = None if said is None else told_of_two(said, f"Answer {chosen}", f"Answer {rejected}")
        yield answers, right, wrong, named


def _of_both(critiques: Critiques, own: OwnForm, left_out: LeftOut) -> str | None:
    """The critique of both answers; where there is none, those of the single answers, each with its name."""
    if critiques.both is not None or (critiques.chosen is None and critiques.rejected is None):
        said = usable(critiques.both, {"chosen": "right", "rejected": "wrong"}, "right", left_out)
        try:
            told_of_two(said or "", "A", "B")
        except Unclear:
            left_out.add(NAMED_BY_ORDER)
            return None
        return said
    parts = ((CHOSEN, critiques.chosen, own.words[0]), (REJECTED, critiques.rejected, own.words[1]))
    verdicts = {"yes": own.words[0], "no": own.words[1]}
    told = [f"{name}: {said}" for name, text, right in parts if text and (said := usable(text, verdicts, right, left_out))]
    return "\n".join(told) or None


def usable(text: str | None, verdicts: dict[str, str], right: str, left_out: LeftOut) -> str | None:
    """A critique without its verdict's line; None, and counted, where it has none, or its verdict is not the label's."""
    if text is None:
        left_out.add(NO_CRITIQUE)
        return None
    said = said_of(text)
    why = _why_unusable(said, verdicts, right)
    if why is not None:
        left_out.add(why)
        return None
    return said.critique


def _why_unusable(said: Said, verdicts: dict[str, str], right: str) -> str | None:
    if said.verdict is not None:
        meant = verdicts.get(said.verdict.strip("{}[]() .").casefold())
        if meant is None:
            return OTHER_VERDICT
        if meant != right:
            return CONTRADICTS
    if not said.critique:
        return VERDICT_ALONE
    return TWO_VERDICTS if said_of(said.critique).verdict is not None else None
