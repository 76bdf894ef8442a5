"""The errands world: a prompt asks for three things in an order, an answer names some, and gold is a program. Small enough that a
reward model and a policy of it are trained in minutes on one core, so that overoptimisation can be shown with replicates.

"tea rope soap" -> "sure : tea , rope , soap ." Gold: +1 for each thing asked for that is named, +1 where all are
named in order, -.5 for a thing not asked for, -.25 for a repeat, -.08 for each word beyond 12, -1 for an answer that is not ended
by a full stop. Demonstrations are plain: mostly right, with each kind of fault now and then, so that a policy that learnt from them
has something to gain and something to spoil.

A base stands for an instruct model that understands what it is asked, so that its corpus (`corpus`) has two further kinds of text,
which say nothing of what an answer is worth: checks ("check tea rope soap" -> "check : tea yes , milk no ."), and a remark of one
word behind some answers: how many of the three were named, whether there was anything else, or whether their order was kept. A
base without them does not know, at the end of an answer, whether what was named had been asked for, and labels of 2,000 pairs do
not teach it (dev/LOG.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from assay.data.prompt_rows import Prompt
from assay.messages import Message
from assay.records import Completion, PreferencePair

THINGS = (
    *("tea", "rope", "soap", "milk", "salt", "rice", "glue", "twine", "chalk", "bread", "honey", "paper", "nails", "paint"),
    *("cheese", "candle", "pepper", "ribbon", "butter", "needle", "sugar", "basket", "ladder", "lemon", "hammer", "blanket"),
    *("kettle", "mirror", "carrot", "pencil", "button", "cushion", "lantern", "garlic", "saddle", "marble", "feather"),
    *("biscuit", "teapot", "violin"),
)
OPENERS = ("sure :", "here :")
FILLERS = ("please", "very", "good", "fine", "indeed", "well")
MARKS = (",", ".", ":")
CHECK = "check"  # before the three things, it asks for another kind of answer
COUNTS = ("none", "one", "two", "three")
WORDS = (
    *(*THINGS, *MARKS, *FILLERS, "sure", "here"),
    *(CHECK, "yes", "no", *COUNTS, "fine", "wrong", "order", "mixed"),
)
"""All words of the world: the vocabulary of its models."""
FREE_WORDS = 12
ENDED = "."


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """Three things, in the order they are asked for."""

    things: tuple[str, str, str]

    @property
    def prompt(self) -> str:
        return " ".join(self.things)


def errands(num: int, *, seed: int) -> list[Errand]:
    """`num` different errands. Raises ValueError for more than there are."""
    most = len(THINGS) * (len(THINGS) - 1) * (len(THINGS) - 2)
    if not 1 <= num <= most:
        raise ValueError(f"{num} errands: there are 1 to {most:,}")
    rng = np.random.default_rng([seed, 11])
    found: dict[tuple[int, ...], None] = {}
    while len(found) < num:
        found[tuple(int(i) for i in rng.permutation(len(THINGS))[:3])] = None
    return [Errand(things=(THINGS[a], THINGS[b], THINGS[c])) for a, b, c in found]


def as_prompts(all_errands: Sequence[Errand]) -> list[Prompt]:
    return [
        Prompt(messages=(Message("user", one.prompt),), id=f"errand-{i}", ground_truth={"answer": " ".join(one.things)})
        for i, one in enumerate(all_errands)
    ]


def gold(things: Sequence[str], response: str) -> float:
    """What an answer is worth; the rule at the head of this module."""
    words = response.split()
    named = [word for word in words if word in THINGS]
    first = list(dict.fromkeys(named))
    right = [word for word in first if word in things]
    worth = float(len(right)) + float(right == list(things))
    worth -= 0.5 * (len(first) - len(right)) + 0.25 * (len(named) - len(first))
    worth -= 0.08 * max(sum(word not in MARKS for word in words) - FREE_WORDS, 0)
    return worth - float(not words or words[-1] != ENDED)


def gold_rule(completions: Sequence[Completion]) -> list[float]:
    """Gold as a rule, `rule:assay.recipes.worlds.errands:gold_rule`; NaN for an answer without the things as ground truth."""
    truths = [(one.ground_truth or {}).get("answer") for one in completions]
    rows = zip(truths, completions, strict=True)
    return [math.nan if truth is None else gold(str(truth).split(), one.response or "") for truth, one in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How often a demonstration has each fault: a thing left out, two changed places, a thing more, a repeat, filler words, no
    end."""

    left_out: float = 0.5
    swapped: float = 0.2
    more: float = 0.2
    repeated: float = 0.15
    filler: float = 0.1
    open_end: float = 0.05


def answer(errand: Errand, rng: np.random.Generator, habits: Habits | None = None) -> str:
    """A demonstration."""
    habits = habits or Habits()
    things = list(errand.things)
    if rng.random() < habits.left_out:
        things.pop(int(rng.integers(len(things))))
    if rng.random() < habits.swapped and len(things) > 1:
        i = int(rng.integers(len(things) - 1))
        things[i], things[i + 1] = things[i + 1], things[i]
    if rng.random() < habits.more:
        things.insert(int(rng.integers(len(things) + 1)), THINGS[int(rng.integers(len(THINGS)))])
    if rng.random() < habits.repeated:
        things.append(things[int(rng.integers(len(things)))])
    words = f" {MARKS[0]} ".join(things).split()
    if rng.random() < habits.filler:
        for _ in range(int(rng.integers(1, 7))):
            words.insert(int(rng.integers(len(words) + 1)), FILLERS[int(rng.integers(len(FILLERS)))])
    end = "" if rng.random() < habits.open_end else f" {ENDED}"
    return f"{OPENERS[int(rng.integers(len(OPENERS)))]} {' '.join(words)}{end}"


def demonstrations(num: int, *, seed: int, habits: Habits | None = None) -> Iterator[tuple[Errand, str]]:
    """Errands with an answer each; errands may come again."""
    rng = np.random.default_rng([seed, 12])
    for _ in range(num):
        places = rng.permutation(len(THINGS))[:3]
        errand = Errand(things=(THINGS[places[0]], THINGS[places[1]], THINGS[places[2]]))
        yield errand, answer(errand, rng, habits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Shares of a corpus: checks, and answers with a remark behind them; what is left are answers alone. remarked_on: faults of the
    former; others: share of their things that are changed for any others."""

    checks: float = 0.2
    remarks: float = 0.3
    remarked_on: Habits = field(
        default_factory=lambda: Habits(left_out=0.4, swapped=0.4, more=0.3, repeated=0.25, filler=0.25, open_end=0.1)
    )
    others: float = 0.25


def corpus(num: int, *, seed: int, mix: Mix | None = None, habits: Habits | None = None) -> Iterator[tuple[str, ...]]:
    """`num` texts of the three kinds: a prompt and an answer, and a remark where there is one. What is remarked on has more faults
    than a demonstration, and of other kinds, since it is not there to be learnt from (`training.imitation.fitted`)."""
    mix, rng = mix or Mix(), np.random.default_rng([seed, 14])
    for errand, text in demonstrations(num, seed=seed, habits=habits):
        drawn = rng.random()
        if drawn < mix.checks:
            yield f"{CHECK} {errand.prompt}", check(errand, rng)
        elif drawn < mix.checks + mix.remarks:
            poor = with_others(answer(errand, rng, mix.remarked_on), mix.others, rng)
            yield errand.prompt, poor, remark(errand, poor, rng)
        else:
            yield errand.prompt, text


def with_others(text: str, share: float, rng: np.random.Generator) -> str:
    """An answer with a share of its things changed for any others."""
    words = (THINGS[int(rng.integers(len(THINGS)))] if word in THINGS and rng.random() < share else word for word in text.split())
    return " ".join(words)


def check(errand: Errand, rng: np.random.Generator) -> str:
    """Two to five things, half of them asked for, and of each whether it was."""
    drawn = (errand.things if rng.random() < 0.5 else THINGS for _ in range(int(rng.integers(2, 6))))
    things = [some[int(rng.integers(len(some)))] for some in drawn]
    said = (f"{thing} {'yes' if thing in errand.things else 'no'}" for thing in things)
    return f"{CHECK} : {f' {MARKS[0]} '.join(said)} {ENDED}"


def remark(errand: Errand, text: str, rng: np.random.Generator) -> str:
    """One word on an answer, of three that are true of it: how many of the three it names, whether something else (fine, wrong),
    and whether those named are in their order (order, mixed)."""
    named = list(dict.fromkeys(word for word in text.split() if word in THINGS))
    right = [thing for thing in named if thing in errand.things]
    kept = right == [thing for thing in errand.things if thing in right]
    words = (COUNTS[len(right)], "fine" if len(right) == len(named) else "wrong", "order" if kept else "mixed")
    return words[int(rng.integers(len(words)))]


def labelled_pairs(answers: Sequence[tuple[Errand, Sequence[str]]], *, num: int, flips: float, seed: int) -> list[PreferencePair]:
    """`num` pairs of answers to one errand of unlike gold, a share `flips` of which is labelled the wrong way round.

    An empty answer is in none: no file of pairs has such a row. Raises ValueError where the answers give fewer.
    """
    if not 0 <= flips < 0.5:
        raise ValueError(f"flips {flips:g} must lie in [0, 0.5): with half of the labels flipped nothing is said")
    rng = np.random.default_rng([seed, 13])
    found: list[PreferencePair] = []
    for i in rng.permutation(len(answers)):
        errand, texts = answers[i]
        different = [text for text in dict.fromkeys(texts) if text.strip()]
        for a, b in zip(different[::2], different[1::2], strict=False):
            worth = gold(errand.things, a) - gold(errand.things, b)
            if worth == 0:
                continue
            better, worse = (a, b) if worth > 0 else (b, a)
            if rng.random() < flips:
                better, worse = worse, better
            found.append(
                PreferencePair(
                    prompt=(Message("user", errand.prompt),),
                    chosen=better,
                    rejected=worse,
                    id=f"errands-{len(found)}",
                    source="errands",
                )
            )
            if len(found) == num:
                return found
    raise ValueError(f"the answers give {len(found):,} pairs of unlike gold, and {num:,} are asked for: sample more answers")
