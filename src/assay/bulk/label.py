"""From prompts to preference pairs: a policy answers each prompt several times, and a judge compares the answers in both orders.

What the judge says differently in the two orders, or not at all, is counted and not written. Every call is in the ledger beside the
output: a run that was stopped goes on where it was, pays nothing twice, and writes the same bytes.

Suffixes: P pairs, K answers of a prompt.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import NamedTuple, Protocol, runtime_checkable
from zlib import crc32

import numpy as np

from assay.console import say
from assay.data.prompt_rows import Prompt
from assay.generation.generator import Estimate, Generator
from assay.generation.ledger import Bill, Ledger
from assay.generation.replies import Ask, Reply, Sampling
from assay.records import Completion, Dtype, PreferencePair
from assay.rubrics.shipped import why_no_rubric
from assay.scorers.base import FromMargins, Scorer, capability, margins, own_comparer
from assay.scorers.in_order import TellsOrders
from assay.scorers.judges.open_judge import is_judge
from assay.scorers.judges.options import JudgeOptions
from assay.scorers.opened import open_scorer
from assay.stats.metrics import sigmoid

INCONSISTENT, TIED = "the verdict turned with the order", "a tie"
CUT, SAME = "cut off", "the same answer again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """How answers are drawn, and how many pairs of a prompt's answers are judged (all of them when left out)."""

    k: int = 4
    temperature: float = 1.0
    max_tokens: int = 512
    pairs_per_prompt: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.k < 2:
            raise ValueError(f"k {self.k} must be at least 2: a pair takes two answers to a prompt")
        if not self.temperature > 0:
            raise ValueError(f"temperature {self.temperature:g} must be positive: at 0 the {self.k} answers are one")
        if self.pairs_per_prompt is not None and self.pairs_per_prompt < 1:
            raise ValueError(f"pairs_per_prompt {self.pairs_per_prompt} must be at least 1, or left out for all")

    @property
    def most_pairs(self) -> int:
        """Pairs of a prompt, at most."""
        every = self.k * (self.k - 1) // 2
        return every if self.pairs_per_prompt is None else min(every, self.pairs_per_prompt)


class Said(NamedTuple):
    """What a judge said of two answers: P(the first is better), how much better in units of the judge, and why it is no label."""

    p: float
    margin: float | None
    why_not: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """pairs: what is written. unsampled: answers that are in no pair, by reason; unwritten: pairs that are not written, by reason;
    num_judged: pairs that were put to the judge."""

    pairs: tuple[PreferencePair, ...]
    num_prompts: int
    num_answers: int
    num_judged: int
    unsampled: Mapping[str, int] = field(default_factory=dict)
    unwritten: Mapping[str, int] = field(default_factory=dict)

    def summary(self) -> str:
        """One line for people."""
        text = f"{self.num_prompts:,} prompts, {self.num_answers:,} answers, {self.num_judged:,} pairs judged"
        text += f" -> {len(self.pairs):,} written"
        for what, reasons in (("answers left out", self.unsampled), ("pairs not written", self.unwritten)):
            if reasons:
                named = ", ".join(f"{number:,} {reason}" for reason, number in sorted(reasons.items(), key=lambda item: -item[1]))
                text += f"; {what}: {named}"
        return text


@runtime_checkable
class Ledgered(Protocol):
    """A judge whose calls are billed."""

    @property
    def generator(self) -> Generator: ...
    def estimate(self, completions: Sequence[Completion]) -> Estimate: ...


def open_labeller(spec: str, judging: JudgeOptions, ledger: Ledger | None, *, device: str, dtype: Dtype) -> Scorer:
    """The judge by its name: of a rubric one that compares, unless another mode is asked for, with its calls in the ledger.

    Raises ValueError for the flags of a judge beside what is no rubric.
    """
    options: JudgeOptions | None = None
    if is_judge(spec):
        kept = None if ledger is None else ledger.path
        options = replace(judging, ledger=kept, judge_mode=judging.judge_mode or "pairwise")
    elif judging != JudgeOptions(ledger=judging.ledger):
        raise ValueError(f"--judge {why_no_rubric(spec)}")
    judge = open_scorer(spec, device=device, dtype=dtype, judge=options).scorer
    if capability(judge, TellsOrders) is None:
        say("note", "this judge scores one answer at a time: there is no order that a verdict could turn with")
    return judge


def asks_of(prompts: Sequence[Prompt], draws: Draws) -> list[Ask]:
    """What the policy is asked, as `Generator.sample` asks it: for an estimate of the price."""
    sampling = Sampling(temperature=draws.temperature, max_tokens=draws.max_tokens, seed=draws.seed)
    return [
        Ask(messages=one.messages, sampling=sampling, sample=k, shared=str(i))
        for i, one in enumerate(prompts)
        for k in range(draws.k)
    ]


def sampled(policy: Generator, prompts: Sequence[Prompt], draws: Draws) -> tuple[list[list[Completion]], Counter[str]]:
    """Different answers to each prompt, in the order in which they were drawn; and why others are left out."""
    replies = policy.sample(
        [one.messages for one in prompts], n=draws.k, temperature=draws.temperature, seed=draws.seed, max_tokens=draws.max_tokens
    )
    left_out: Counter[str] = Counter()
    answers = []
    for prompt, of_prompt in zip(prompts, replies, strict=True):
        texts: dict[str, None] = {}
        for reply in of_prompt:
            why = _why_left_out(reply, texts)
            if why is None:
                texts[str(reply.text).strip()] = None
            else:
                left_out[why] += 1
        answers.append([Completion(messages=prompt.messages, response=text, ground_truth=prompt.ground_truth) for text in texts])
    return answers, left_out


def _why_left_out(reply: Reply, texts: Mapping[str, None]) -> str | None:
    if reply.text is None or not reply.text.strip():
        return reply.error or "empty"
    if reply.finish == "length":
        return CUT
    return SAME if reply.text.strip() in texts else None


def pairs_to_judge(prompts: Sequence[Prompt], answers: Sequence[Sequence[Completion]], draws: Draws) -> list[PreferencePair]:
    """Pairs of a prompt's answers, all or so many drawn by the seed, whichever of the two is called chosen."""
    found = []
    for prompt, of_prompt in zip(prompts, answers, strict=True):
        every = list(combinations(range(len(of_prompt)), 2))
        if len(every) > draws.most_pairs:
            rng = np.random.default_rng([draws.seed, crc32(prompt.id.encode())])
            every = [every[i] for i in sorted(rng.choice(len(every), size=draws.most_pairs, replace=False))]
        for i, j in every:
            found.append(
                PreferencePair(
                    prompt=prompt.messages,
                    chosen=str(of_prompt[i].response),
                    rejected=str(of_prompt[j].response),
                    preference=0.5,
                    id=f"{prompt.id}:{i}-{j}",
                    tags=prompt.tags,
                    ground_truth=prompt.ground_truth,
                )
            )
    return found


def judged(judge: Scorer, pairs: Sequence[PreferencePair]) -> list[Said]:
    """What a judge says of each pair, the answer that is called chosen being the first.

    A judge of pairs is asked in both orders, and a verdict that turns with the order is none. A scorer of single answers is asked
    for both rewards: P is what its calibration says of the margin, else the sigmoid of the margin.
    """
    if not pairs:
        return []
    tells = capability(judge, TellsOrders, of_same_rewards=True)
    if tells is not None:
        return [
            _both(one.forward, one.backward, getattr(one, "error", None))
            for one in tells.comparisons([p.completions() for p in pairs])
        ]
    comparer = own_comparer(judge)
    if comparer is not None:
        forward_P = comparer.compare(pairs)
        turned = [PreferencePair(prompt=p.prompt, chosen=p.rejected, rejected=p.chosen, ground_truth=p.ground_truth) for p in pairs]
        return [_both(float(a), 1 - float(b), None) for a, b in zip(forward_P, comparer.compare(turned), strict=True)]
    found = []
    margins_P, calibrated = margins(judge, pairs), capability(judge, FromMargins, of_same_rewards=True)
    p_P = sigmoid(margins_P) if calibrated is None else calibrated.probability(margins_P)
    for margin, p in zip(margins_P, p_P, strict=True):
        why = "no reward" if math.isnan(margin) else TIED if margin == 0 else None
        found.append(Said(float(p), float(margin), why))
    return found


def _both(forward: float, backward: float, error: str | None) -> Said:
    """Two probabilities that the first answer is better, one for each order, as one."""
    if math.isnan(forward) or math.isnan(backward):
        return Said(math.nan, None, error or "no verdict")
    p = (forward + backward) / 2
    if np.sign(forward - 0.5) != np.sign(backward - 0.5):
        return Said(p, None, INCONSISTENT)
    margin = math.log(p) - math.log1p(-p) if 0 < p < 1 else None  # a plain verdict does not say by how much
    return Said(p, margin, TIED if p == 0.5 else None)


def label(policy: Generator, judge: Scorer, prompts: Sequence[Prompt], draws: Draws, *, source: str = "") -> Labelled:
    """Answers to the prompts, judged: see `labelled`. For a run without a word of its price in between."""
    answers, left_out = sampled(policy, prompts, draws)
    pairs = pairs_to_judge(prompts, answers, draws)
    return labelled(
        pairs, judged(judge, pairs), answers, left_out, judge=judge.fingerprint, policy=policy.backend.model, source=source
    )


def labelled(
    pairs: Sequence[PreferencePair],
    said: Sequence[Said],
    answers: Sequence[Sequence[Completion]],
    left_out: Mapping[str, int],
    *,
    judge: str,
    policy: str,
    source: str = "",
) -> Labelled:
    """The pairs with their labels: the preferred answer is the chosen one, `preference` its probability, `margin` by how much. The
    tags say which judge (its fingerprint) and which policy."""
    written, unwritten = [], Counter[str]()
    for pair, one in zip(pairs, said, strict=True):
        if one.why_not is not None:
            unwritten[one.why_not] += 1
            continue
        is_first = one.p > 0.5
        written.append(
            PreferencePair(
                prompt=pair.prompt,
                chosen=pair.chosen if is_first else pair.rejected,
                rejected=pair.rejected if is_first else pair.chosen,
                preference=max(one.p, 1 - one.p),
                margin=None if one.margin is None else abs(one.margin),
                source=source,
                id=pair.id,
                tags={**pair.tags, "judge": judge, "policy": policy},
                ground_truth=pair.ground_truth,
            )
        )
    return Labelled(
        pairs=tuple(written),
        num_prompts=len(answers),
        num_answers=sum(len(of_prompt) for of_prompt in answers),
        num_judged=len(pairs),
        unsampled=dict(left_out),
        unwritten=dict(unwritten),
    )


def price_of_each(bill: Bill, num_written: int) -> float | None:
    """US dollars for a written pair: all calls of the ledger, those too that came to nothing. None where a price is not known, or
    nothing was written."""
    return None if bill.num_unpriced or not num_written else bill.price / num_written
