"""Labels of steps without people: roll-outs from each step with a verifier, a judge, and what both agree on.

Roll-outs (Wang et al. 2024, Math-Shepherd): a policy goes on from a step several times. hard: the step is right when any of its
roll-outs comes to the right answer; soft: the share that does. The last step needs none: it is as right as the final answer. A
roll-out that was cut off, failed, or that the verifier could not decide is unknown, never wrong: a step is wrong when all of them
are known to be. A judge says of each beginning of the solution whether its last step is right. Consensus (Zhang et al. 2025): a
label is kept where both say the same.

Every call is in the generator's ledger: a run that was stopped goes on where it was, and pays nothing twice.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from assay.data.steps.labelled_steps import LabelledSteps
from assay.generation.generator import Generator
from assay.generation.replies import Answered, Ask, Sampling, text_of
from assay.messages import Message, Messages
from assay.records import Completion
from assay.scorers.base import Scorer

CUT = "the roll-out was cut off"
DISAGREE = "roll-outs and judge disagree"
_GO_ON = (
    "\n\nHere is the beginning of a solution. Go on directly behind its end, do not repeat it, and come to the final answer in "
    "the way that was asked for.\n\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollouts:
    """How a policy goes on from each step. n: roll-outs of a step. target: hard labels stop at the first roll-out that is right.

    until_error: the steps behind the first wrong one are not rolled out, and stay unknown (hard labels alone).
    """

    n: int = 8
    target: Literal["hard", "soft"] = "hard"
    until_error: bool = False
    temperature: float = 0.7
    max_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n {self.n} must be at least 1: how many roll-outs a step has")
        if self.n > 1 and not self.temperature > 0:
            raise ValueError(f"temperature {self.temperature:g} must be positive: at 0 the {self.n} roll-outs of a step are one")
        if self.target not in ("hard", "soft"):
            raise ValueError(f"target {self.target!r} must be hard or soft")
        if self.until_error and self.target == "soft":
            raise ValueError("until_error goes with hard labels: a share says of no step that it is wrong for good")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLabels:
    """What was found of N solutions. right: for each a label per step, None where nothing is known. outcomes: of the final answers.

    reasons: why roll-outs or judgements are unknown -> how often. num_rollouts: that were drawn; num_saved: that early stopping
    spared.
    """

    right: tuple[tuple[float | None, ...], ...]
    outcomes: tuple[float | None, ...]
    reasons: Counter[str] = field(default_factory=Counter)
    num_rollouts: int = 0
    num_saved: int = 0

    def summary(self) -> str:
        """One line for people."""
        labels = [label for row in self.right for label in row]
        wrong = sum(label is not None and label < 0.5 for label in labels)
        unknown = sum(label is None for label in labels)
        text = f"{len(labels):,} steps: {len(labels) - wrong - unknown:,} right, {wrong:,} wrong, {unknown:,} unknown"
        if self.num_rollouts:
            text += f"; {self.num_rollouts:,} roll-outs, {self.num_saved:,} spared"
        named = ", ".join(f"{number:,} {reason}" for reason, number in self.reasons.most_common())
        return f"{text}; roll-outs and judgements that are unknown: {named}" if named else text


class _Place(NamedTuple):
    """A step to be rolled out: number of the solution, and of its step."""

    solution: int
    step: int


def rollout_asks(solutions: Sequence[LabelledSteps], rollouts: Rollouts) -> list[Ask]:
    """Every ask that there can be, for an estimate of the price: early stopping spares some."""
    places = [_Place(i, k) for i, one in enumerate(solutions) for k in range(len(one.right) - 1)]
    return [_ask(solutions, place, sample, rollouts) for place in places for sample in range(rollouts.n)]


def label_by_rollouts(
    policy: Generator, verifier: Scorer, solutions: Sequence[LabelledSteps], rollouts: Rollouts | None = None
) -> StepLabels:
    """N solutions with steps -> their labels. The verifier's reward of an answer is right from 1/2 on, and unknown where it is
    NaN."""
    rollouts = rollouts or Rollouts()
    run = _Run(policy, verifier, solutions, rollouts)
    outcomes, reasons = _verdicts(verifier, [one.completion for one in solutions])
    run.reasons += reasons
    longest = max((len(one.right) for one in solutions), default=0)
    if rollouts.until_error:
        alive = set(range(len(solutions)))
        for step in range(longest - 1):
            places = [_Place(i, step) for i in sorted(alive) if step < len(solutions[i].right) - 1]
            run.roll(places)
            alive -= {place.solution for place in places if run.label(place) == 0.0}
    else:
        run.roll([_Place(i, k) for i, one in enumerate(solutions) for k in range(len(one.right) - 1)])
    right = tuple((*(run.label(_Place(i, k)) for k in range(len(one.right) - 1)), outcomes[i]) for i, one in enumerate(solutions))
    if rollouts.until_error:
        right = tuple(_up_to_error(row) for row in right)
    most = rollouts.n * sum(len(one.right) - 1 for one in solutions)
    return StepLabels(
        right=right, outcomes=tuple(outcomes), reasons=run.reasons, num_rollouts=run.num_drawn, num_saved=most - run.num_drawn
    )


class _Run:
    """The roll-outs of one call: what is known of each step so far."""

    def __init__(self, policy: Generator, verifier: Scorer, solutions: Sequence[LabelledSteps], rollouts: Rollouts) -> None:
        self.policy, self.verifier, self.solutions, self.rollouts = policy, verifier, solutions, rollouts
        self.values: dict[_Place, list[float | None]] = {}
        self.reasons: Counter[str] = Counter()
        self.num_drawn = 0

    def roll(self, places: Sequence[_Place]) -> None:
        """Draw the roll-outs of these steps: for hard labels one of each at a time, until the label is decided."""
        self.values |= {place: [] for place in places}
        samples = range(self.rollouts.n)
        for wave in [[k] for k in samples] if self.rollouts.target == "hard" else [list(samples)]:
            open_places = [place for place in places if self.rollouts.target == "soft" or 1.0 not in self.values[place]]
            asked = [(place, sample) for place in open_places for sample in wave]
            if not asked:
                return
            answered = self.policy.ask([_ask(self.solutions, *one, self.rollouts) for one in asked], text_of)
            self.num_drawn += len(asked)
            self._check([place for place, _ in asked], answered)

    def _check(self, places: Sequence[_Place], answered: Sequence[Answered]) -> None:
        whole: list[Completion] = []
        known: list[_Place] = []
        for place, one in zip(places, answered, strict=True):
            why = one.error or (CUT if one.reply.finish == "length" else None)
            if why is not None:
                self.reasons[why] += 1
                self.values[place].append(None)
                continue
            item = self.solutions[place.solution].completion
            begun = "".join((item.steps or ())[: place.step + 1])
            parted = "" if begun[-1:].isspace() or str(one.verdict)[:1].isspace() else "\n"
            known.append(place)
            whole.append(replace(item, steps=None, response=f"{begun}{parted}{one.verdict}"))
        found, reasons = _verdicts(self.verifier, whole)
        self.reasons += reasons
        for place, value in zip(known, found, strict=True):
            self.values[place].append(value)

    def label(self, place: _Place) -> float | None:
        """The label of a step: by any right roll-out (hard), or by the share of those that are known (soft)."""
        values = self.values.get(place, [])
        known = [value for value in values if value is not None]
        if self.rollouts.target == "soft":
            return math.fsum(known) / len(known) if known else None
        if 1.0 in known:
            return 1.0
        return 0.0 if values and len(known) == len(values) else None


def _ask(solutions: Sequence[LabelledSteps], place: _Place, sample: int, rollouts: Rollouts) -> Ask:
    item = solutions[place.solution].completion
    sampling = Sampling(temperature=rollouts.temperature, max_tokens=rollouts.max_tokens, seed=rollouts.seed)
    messages = continued(item.messages, "".join((item.steps or ())[: place.step + 1]))
    return Ask(messages=messages, sampling=sampling, sample=sample, shared=f"{place.solution}:{place.step}")


def continued(prompt: Messages, begun: str) -> Messages:
    """Messages that any chat model can be asked by to go on from the beginning of a solution."""
    last = prompt[-1] if prompt and prompt[-1].role == "user" else Message("user", "")
    before = prompt[:-1] if prompt and prompt[-1].role == "user" else prompt
    return (*before, last._replace(content=f"{last.content}{_GO_ON}{begun.rstrip()}"))


def _verdicts(scorer: Scorer, completions: Sequence[Completion]) -> tuple[list[float | None], Counter[str]]:
    """1 from a reward of 1/2 on, else 0; None where there is no reward, and why."""
    if not completions:
        return [], Counter()
    rewards = scorer.score(list(completions))
    reasons = Counter(error for error in rewards.error or () if error is not None)
    return [None if math.isnan(value) else float(value >= 0.5) for value in rewards.value.tolist()], reasons


def _up_to_error(row: Iterable[float | None]) -> tuple[float | None, ...]:
    """The labels up to the first error; behind it all are unknown."""
    found: list[float | None] = []
    for label in row:
        found.append(None if 0.0 in found else label)
    return tuple(found)


def beginnings(solutions: Sequence[LabelledSteps]) -> list[Completion]:
    """Each solution up to each of its steps, in order: what a judge is shown."""
    return [
        replace(one.completion, steps=None, response="".join((one.completion.steps or ())[: k + 1]).rstrip())
        for one in solutions
        for k in range(len(one.right))
    ]


def label_by_judge(judge: Scorer, solutions: Sequence[LabelledSteps]) -> StepLabels:
    """N solutions -> labels by any scorer that says of the beginning of a solution whether its last step is right: from 1/2 on."""
    found, reasons = _verdicts(judge, beginnings(solutions))
    right, start = [], 0
    for one in solutions:
        right.append(tuple(found[start : start + len(one.right)]))
        start += len(one.right)
    return StepLabels(right=tuple(right), outcomes=tuple(one.outcome for one in solutions), reasons=reasons)


def consensus(rolled: StepLabels, judged: StepLabels) -> StepLabels:
    """The labels that both agree on, as 1 or 0; None, and counted, where they differ; None where one of them does not know."""
    reasons = rolled.reasons + judged.reasons
    rows = []
    for one, other in zip(rolled.right, judged.right, strict=True):
        row: list[float | None] = []
        for a, b in zip(one, other, strict=True):
            known = a is not None and b is not None
            agrees = known and (a >= 0.5) == (b >= 0.5)  # type: ignore[operator]
            reasons[DISAGREE] += known and not agrees
            row.append(float(a >= 0.5) if agrees else None)  # type: ignore[operator]
        rows.append(tuple(row))
    return replace(rolled, right=tuple(rows), reasons=+reasons)


def relabelled(solutions: Sequence[LabelledSteps], labels: StepLabels, *, source: str, by: str) -> list[LabelledSteps]:
    """The solutions with their new labels; their tags say by what."""
    return [
        replace(
            one,
            right=right,
            outcome=one.outcome if outcome is None else outcome,
            source=source,
            tags={**one.tags, "labelled": by},
        )
        for one, right, outcome in zip(solutions, labels.right, labels.outcomes, strict=True)
    ]
